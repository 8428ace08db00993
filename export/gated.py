"""What every other target begins and ends with: a run's gated ONNX file, and a gate on the target's own runtime."""

from pathlib import Path
from typing import Any

from ..deploy.artefacts.beside import ENGINES, manifest_path
from ..deploy.artefacts.ledger import discard
from ..deploy.artefacts.manifest import manifest_of
from ..deploy.ort_runtime import read_info
from ..deploy.parity import proved, tolerances
from ..distill import console
from ..distill.checkpoint import student_file
from ..distill.run import Run, sha256, write_json
from .to_onnx import export_run, file_names


def gated_onnx(
    run: Run,
    *,
    size: tuple[int, int] | None = None,
    head: str = "logits",
    input: str = "float",
    dynamic_batch: bool = False,
    which: str = "best",
    **gate_settings: Any,
) -> Path:
    """Return a run's float32 ONNX file of this form: the one that is there, if it passed its gate, else a new one.

    Args:
        run: a finished run.
        size: see ``export_run``, as are all others.
        head: "logits" or "argmax".
        input: "float" or "uint8".
        dynamic_batch: whether the batch is free.
        which: "best" or "last" weights.
        gate_settings: ``images`` and ``agreement``.
    """
    path = run.export / file_names(head, input, dynamic_batch)[0]
    facts = manifest_of(path)
    if facts.get("gate", {}).get("passed") and facts["source"]["sha256"] == sha256(student_file(run, which)):
        if size is None or read_info(path).size == size:
            return path
        console.say(f"{path.name} is made for another size: exporting it again")
    form = {"size": size, "head": head, "input": input, "dynamic_batch": dynamic_batch, "which": which}
    return export_run(run, **form, **gate_settings)[0].path


def prove(
    run: Run,
    path: Path,
    reference: Path,
    manifest: dict[str, Any],
    *,
    images: int | None = 16,
    agreement: float | None = None,
    cure: str,
) -> dict[str, Any]:
    """Run a new file on its own runtime beside ``reference``, judge it, and write its manifest.

    Returns:
        The manifest, with ``gate`` and what really ``ran`` added.

    Raises:
        NumbersError: the gate failed. Whatever is raised, the file is gone.
    """
    device = "cuda" if path.suffix in ENGINES else manifest.get("device", "cpu")
    try:
        limits = tolerances(manifest["precision"], run, agreement=agreement)
        dataset = run.open_data(run.config.data.split)
    except BaseException:
        discard(run, [path])
        raise
    result, ran = proved(run, path, reference, dataset, limits, cure, images=images, device=device)
    manifest |= {"ran": ran, "gate": result.to_dict()}
    write_json(manifest_path(path), manifest)
    run.remember_command()
    run.seal()
    return manifest
