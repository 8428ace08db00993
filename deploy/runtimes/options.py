"""The options of a runtime: one value that every measurement, evaluation and comparison takes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from ...distill.errors import UsageError, closest
from ...distill.run.folder import Run
from ...distill.run.records import Record
from ..artefacts.beside import ENGINES, EXPORTED
from ..gpu.open import KINDS
from .base import Runtime
from .open import open_runtime
from .providers import check_provider
from .said import NOTHING, Said
from .torch_mode import TorchMode

if TYPE_CHECKING:
    from ...distill.data import Dataset


@dataclass(frozen=True)
class RuntimeOptions(Record):
    """How networks are run; each kind of file uses what is meant for it, and an engine is always on the GPU.

    Attributes:
        device: "cpu" or "cuda".
        provider: an ONNX Runtime execution provider or "openvino", of ONNX files.
        trust: run native code (engines, packages) that is signed neither by the user nor by a trusted key.
        buffers: library for the GPU memory of engines: "auto" or one of ``gpu.open.KINDS``.
        cuda_graph: start engines as one CUDA graph.
        torch_mode: how torch is timed, see ``TorchMode``; several, separated by commas, are timed side by side.
        said: what is known of exported files that they do not say themselves.
    """

    device: str = "cpu"
    provider: str | None = None
    trust: bool = False
    buffers: str = "auto"
    cuda_graph: bool = False
    torch_mode: str = str(TorchMode())
    said: Said = NOTHING

    def __post_init__(self) -> None:
        """Refuse unknown buffers and torch modes, and a provider of another device (UsageError)."""
        check_provider(self.provider, self.device)
        modes = [str(TorchMode.parse(mode.strip())) for mode in self.torch_mode.split(",")]
        object.__setattr__(self, "torch_mode", ",".join(dict.fromkeys(modes)))  # each once, in its usual spelling
        if self.buffers not in ("auto", *KINDS):
            near = closest(self.buffers, KINDS)
            raise UsageError(f"--buffers {self.buffers!r}: accepted are auto, {', '.join(KINDS)}{near}")

    def refuse_unused(self, sources: Sequence[Path | Run]) -> None:
        """Refuse an option for a kind of file that is not among the sources (UsageError)."""
        if self.provider is not None and not any(is_onnx(source) for source in sources):
            raise UsageError(f"--provider {self.provider} is for ONNX files, and none is run here")
        flag = f"--buffers {self.buffers}" if self.buffers != "auto" else "--cuda-graph" if self.cuda_graph else None
        if flag and not any(is_engine(source) for source in sources):
            raise UsageError(f"{flag} is for TensorRT engines, and none is run here; name one, with --device cuda")
        if self.torch_mode != CPU.torch_mode and not any(is_torch(source) for source in sources):
            raise UsageError(f"--torch {self.torch_mode} is for runs and checkpoints, and none is run here")
        if self.said.flags and all(is_torch(source) for source in sources):
            raise UsageError(
                f"{self.said.flags[0]} is for exported files, and none is run here: kdc knows its own runs"
            )

    def refuse_torch_modes(self) -> None:
        """Refuse torch modes where masks are evaluated, which torch always runs as in validation (UsageError)."""
        if self.torch_mode != CPU.torch_mode:
            raise UsageError(f"torch modes are timed; masks are evaluated as in validation, not in {self.torch_mode}")

    def per_mode(self, source: Path | Run) -> list["RuntimeOptions"]:
        """Return the options that apply to a source, once for every torch mode that it runs in."""
        if is_engine(source):
            return [replace(self, device="cuda", provider=None, torch_mode=CPU.torch_mode)]
        provider, said = self.provider if is_onnx(source) else None, NOTHING if is_torch(source) else self.said
        applying = RuntimeOptions(self.device, provider, self.trust, said=said)
        if is_torch(source):
            return [replace(applying, torch_mode=mode) for mode in self.torch_mode.split(",")]
        return [applying]

    def for_source(self, source: Path | Run) -> "RuntimeOptions":
        """Return the options that apply to a source, in the first torch mode."""
        return self.per_mode(source)[0]

    def for_data(self, dataset: "Dataset") -> "RuntimeOptions":
        """Return the options with what the data say of a network: how many classes it has."""
        return replace(self, said=self.said.for_data(dataset))

    def open(self, source: str | Path | Run, size: tuple[int, int] | None = None) -> Runtime:
        """Open a source with the options that apply to it; see ``open_runtime``."""
        path = source if isinstance(source, Run) else Path(source)
        return open_runtime(source, size=size, **vars(self.for_source(path)))


#: this machine's CPU, each file in its own runtime
CPU = RuntimeOptions()


def is_onnx(source: Path | Run) -> TypeGuard[Path]:
    """Tell an ONNX file from every other source."""
    return isinstance(source, Path) and source.suffix.lower() == ".onnx"


def is_torch(source: Path | Run) -> bool:
    """Tell a run or a checkpoint, which torch runs, from every exported file."""
    return isinstance(source, Run) or source.suffix.lower() not in EXPORTED


def is_engine(source: Path | Run) -> TypeGuard[Path]:
    """Tell a TensorRT engine from every other source."""
    return isinstance(source, Path) and source.suffix.lower() in ENGINES
