"""Where networks run, as it was typed: one value that every measurement, evaluation and comparison takes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeGuard

from ...distill.errors import UsageError, closest
from ...distill.run.folder import Run
from ..artefacts.beside import ENGINES, EXPORTED
from ..gpu.open import KINDS
from .base import Runtime
from .open import open_runtime
from .ort_runtime import check_provider
from .torch_mode import TorchForm


@dataclass(frozen=True)
class Where:
    """What runs networks, and where; each heeds what is for its kind, and an engine is always on the GPU.

    Attributes:
        device: "cpu" or "cuda".
        provider: an ONNX Runtime execution provider or "openvino", of ONNX files.
        trust: run native code (engines, packages) that no manifest of kdc's vouches for.
        buffers: what keeps the GPU's memory for engines: "auto" or one of ``trt_buffers.KINDS``.
        cuda_graph: start engines as one CUDA graph.
        form: how torch is timed, see ``TorchForm``; several, with commas between them, are timed beside each other.
    """

    device: str = "cpu"
    provider: str | None = None
    trust: bool = False
    buffers: str = "auto"
    cuda_graph: bool = False
    form: str = str(TorchForm())

    def __post_init__(self) -> None:
        """See that buffers and forms are known, and that provider and device go together (UsageError)."""
        check_provider(self.provider, self.device)
        forms = [str(TorchForm.parse(form.strip())) for form in self.form.split(",")]
        object.__setattr__(self, "form", ",".join(dict.fromkeys(forms)))  # as one writes it
        if self.buffers not in ("auto", *KINDS):
            near = closest(self.buffers, KINDS)
            raise UsageError(f"--buffers {self.buffers!r}: accepted are auto, {', '.join(KINDS)}{near}")

    def refuse_idle(self, sources: Sequence[Path | Run]) -> None:
        """Refuse what was typed for a kind of file that none of these is (UsageError)."""
        if self.provider is not None and not any(is_onnx(source) for source in sources):
            raise UsageError(f"--provider {self.provider} is for ONNX files, and none is run here")
        typed = f"--buffers {self.buffers}" if self.buffers != "auto" else "--cuda-graph" if self.cuda_graph else None
        if typed and not any(is_engine(source) for source in sources):
            raise UsageError(f"{typed} is for TensorRT engines, and none is run here; name one, with --device cuda")
        if self.form != CPU.form and not any(is_torch(source) for source in sources):
            raise UsageError(f"--torch {self.form} is for runs and checkpoints, and none is run here")

    def refuse_forms(self) -> None:
        """Refuse forms of torch where networks are used or judged, which torch does as in validation (UsageError)."""
        if self.form != CPU.form:
            raise UsageError(f"forms of torch are timed, and pictures are judged as in validation, not as {self.form}")

    def each(self, source: Path | Run) -> list["Where"]:
        """Return what one source heeds of it, once for every form that it is run in."""
        if is_engine(source):
            return [replace(self, device="cuda", provider=None, form=CPU.form)]
        heeded = Where(self.device, self.provider if is_onnx(source) else None, self.trust)
        if is_torch(source):
            return [replace(heeded, form=form) for form in self.form.split(",")]
        return [heeded]

    def of(self, source: Path | Run) -> "Where":
        """Return what one source heeds of it, in the first form."""
        return self.each(source)[0]

    def open(self, source: str | Path | Run, size: tuple[int, int] | None = None) -> Runtime:
        """Do as ``open_runtime`` does."""
        path = source if isinstance(source, Run) else Path(source)
        return open_runtime(source, size=size, **asdict(self.of(path)))


#: this machine's CPU, each file in its own runtime
CPU = Where()


def is_onnx(source: Path | Run) -> TypeGuard[Path]:
    """Tell an ONNX file from every other source."""
    return isinstance(source, Path) and source.suffix.lower() == ".onnx"


def is_torch(source: Path | Run) -> bool:
    """Tell a run or a checkpoint, which torch runs, from every exported file."""
    return isinstance(source, Run) or source.suffix.lower() not in EXPORTED


def is_engine(source: Path | Run) -> TypeGuard[Path]:
    """Tell a TensorRT engine from every other source."""
    return isinstance(source, Path) and source.suffix.lower() in ENGINES
