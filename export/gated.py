"""What every other target begins and ends with: a run's gated ONNX file, and a gate on the target's own runtime."""

import contextlib
from pathlib import Path
from typing import Any

from ..deploy.contract import weights_beside
from ..deploy.ort_runtime import read_info
from ..deploy.parity import discard, manifest_beside, manifest_path, proved, tolerances
from ..deploy.runtime import ENGINES, owner
from ..distill import console
from ..distill.checkpoint import student_file
from ..distill.errors import UsageError, WeightsError
from ..distill.run import Run, sha256, versions, write_json
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


def manifest_of(path: Path) -> dict[str, Any]:
    """Return what the manifest beside a file says; empty where there is none or it is not of this very file."""
    values, weights = manifest_beside(path), weights_beside(path)
    with contextlib.suppress(OSError):
        if values.get("sha256") == sha256(path) and (
            weights is None or values.get("weights", {}).get("sha256") == sha256(weights)
        ):
            return values
    return {}


def run_of(path: Path) -> Run:
    """Return the run that a file belongs to.

    Raises:
        WeightsError: there is no such file.
        UsageError: it belongs to none, so that there are no images to prove anything on.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist")
    if (run := owner(path)) is None:
        raise UsageError(f"{path} lies in no run folder, so there are no images to prove the result on; name the run")
    return run


def describe(path: Path, kind: str, precision: str, **facts: Any) -> dict[str, Any]:
    """Return the beginning of a manifest: the file, its hash, its size and what made it."""
    values: dict[str, Any] = {"file": path.name, "sha256": sha256(path), "kind": kind, "precision": precision}
    size = path.stat().st_size
    if (weights := weights_beside(path)) is not None:
        values |= {"weights": {"file": weights.name, "sha256": sha256(weights)}}
        size += weights.stat().st_size
    return values | {"bytes": size, **facts, "versions": versions()}


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
