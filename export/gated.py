"""What every other target begins and ends with: a run's gated ONNX file, and a gate on the target's own runtime."""

from pathlib import Path
from typing import Any

from ..deploy.artefacts.manifest import manifest_of
from ..deploy.runtimes.ort_runtime import read_info
from ..distill import console
from ..distill.run.checkpoint import student_file
from ..distill.run.files import sha256
from ..distill.run.folder import Run
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
