"""One interface to everything that can run a network: numpy in, numpy out, and what really ran is named."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..distill.errors import ExportError, UsageError, WeightsError
from ..distill.preprocess import Preprocess
from ..distill.run import Run, find_run

DEVICES = ("cpu", "cuda")
#: Suffixes of files that hold a network's weights for torch.
TORCH_FILES = (".safetensors", ".pt", ".pth")
#: Suffixes of TensorRT engines.
ENGINES = (".engine", ".plan")


@dataclass(frozen=True)
class Spec:
    """What a network takes and gives; ``shape`` is in ``layout``, its first entry None where any batch will do."""

    shape: tuple[int | None, int, int, int]
    dtype: str
    layout: str
    head: str
    preprocess: Preprocess
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input."""
        return (self.shape[1], self.shape[2]) if self.layout == "NHWC" else (self.shape[2], self.shape[3])

    @property
    def batch(self) -> int | None:
        """The batch the file was made for; None for any."""
        return self.shape[0]


class Runtime(ABC):
    """A network, opened and ready.

    Attributes:
        name: "torch" or "onnxruntime".
        provider: what really executes it, for example "CPUExecutionProvider".
        precision: "fp32", "fp16" or "int8".
        device: "cpu" or "cuda".
        source: the file it was opened from.
        tf32: whether a GPU may compute float32 products in TF32; None where there is no such choice.
    """

    name: str
    spec: Spec
    provider: str
    precision: str
    device: str
    source: Path
    tf32: bool | None = None

    @abstractmethod
    def _infer(self, x: np.ndarray) -> np.ndarray: ...

    def infer(self, x: np.ndarray) -> np.ndarray:
        """Run the network on ``x`` in ``spec``'s layout and dtype.

        Returns:
            float ``(N, K, H, W)`` for head "logits", uint8 ``(N, H, W)`` for head "argmax".

        Raises:
            UsageError: shape or dtype is not what ``spec`` says.
        """
        self.check(x)
        return self._infer(x)

    def check(self, x: np.ndarray) -> None:
        """Refuse an input that does not fit ``spec`` with a UsageError."""
        want = self.spec.shape
        fits = x.ndim == 4 and all(w in (None, g) for w, g in zip(want, x.shape, strict=False))
        if not fits or x.dtype != self.spec.dtype:
            shape = "x".join("N" if n is None else str(n) for n in want)
            got = f"{x.dtype} {'x'.join(map(str, x.shape))}"
            cure = "; kdc export onnx --dynamic-batch leaves the batch free" if x.shape[1:] == want[1:] else ""
            raise UsageError(f"{self.source.name} takes {self.spec.dtype} {self.spec.layout} {shape}, not {got}{cure}")

    def staged(self, x: np.ndarray) -> Callable[[], float]:
        """Lay ``x`` where the network reads it and return a function that runs the network once: milliseconds.

        What is timed is the network alone: no preprocessing, and on a GPU no transfers.
        """
        self.check(x)

        def step() -> float:
            start = time.perf_counter_ns()
            self._infer(x)
            return (time.perf_counter_ns() - start) / 1e6

        return step

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Turn uint8 RGB ``(N, H, W, 3)`` into an input: padded right and below with the mean colour, then normalised.

        Raises:
            UsageError: the images are larger than the network's input.
        """
        height, width = self.spec.size
        h, w = images.shape[1:3]
        if h > height or w > width:
            raise UsageError(
                f"image is {h}x{w}, {self.source.name} takes up to {height}x{width}; "
                f"export it for that size: kdc export onnx RUN --size {h}x{w}"
            )
        if (h, w) != (height, width):
            mean = self.spec.preprocess.mean
            colour = mean if self.spec.preprocess.order == "rgb" else mean[::-1]
            padded = np.empty((len(images), height, width, 3), np.uint8)
            padded[:] = np.rint(colour).astype(np.uint8)
            padded[:, :h, :w] = images
            images = padded
        if self.spec.dtype == "float32":
            x = self.spec.preprocess.apply(images)
            return x if self.spec.layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        return np.ascontiguousarray(images if self.spec.layout == "NHWC" else images.transpose(0, 3, 1, 2))

    def masks(self, images: np.ndarray) -> np.ndarray:
        """Segment uint8 RGB images ``(N, H, W, 3)``: uint8 class numbers ``(N, H, W)``."""
        out = self.infer(self.prepare(images))
        if self.spec.head == "logits":
            out = labels(out, self.spec.size)
        h, w = images.shape[1:3]
        return np.ascontiguousarray(out[:, :h, :w])

    def close(self) -> None:  # noqa: B027 - not every runtime holds something
        """Let go of the memory; the runtime cannot be used afterwards."""

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def labels(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Argmax of float ``(N, K, h, w)``, enlarged to ``size`` first where a network left that to its user."""
    if logits.shape[2:] != size:
        import cv2

        enlarged = [[cv2.resize(k.astype(np.float32), size[::-1]) for k in image] for image in logits]
        logits = np.asarray(enlarged)
    return logits.argmax(1).astype(np.uint8)


def predictor(runtime: Runtime) -> Callable[[np.ndarray], np.ndarray]:
    """Return what ``distill.evaluate.evaluate`` takes: one uint8 RGB image in, one uint8 mask out."""
    return lambda image: runtime.masks(image[None])[0]


def export_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Round height and width up to the stride."""
    return -(-size[0] // stride) * stride, -(-size[1] // stride) * stride


def owner(path: str | Path) -> Run | None:
    """Return the run whose folder holds ``path``, if any."""
    path = Path(path).resolve()
    for folder in (path, *path.parents):
        if (folder / "run.json").exists():
            return Run(folder)
    return None


def open_runtime(
    source: "str | Path | Run",
    *,
    device: str = "cpu",
    provider: str | None = None,
    size: tuple[int, int] | None = None,
    threads: int | None = None,
    head: str = "logits",
) -> Runtime:
    """Open a run, a kdc checkpoint or an ONNX file.

    Args:
        source: what to open; a name is looked for below ``runs/``.
        device: "cpu" or "cuda".
        provider: an ONNX Runtime execution provider, where ``device`` does not say enough.
        size: input height and width, for what is not made for one size: a checkpoint, a dynamic ONNX file.
        threads: CPU threads within an operator (default: the runtime's own choice).
        head: "logits" or "argmax", for a checkpoint; a file has the head it was exported with.

    Raises:
        UsageError: no such run, or a flag that does not fit the file.
        WeightsError: the file is missing or broken.
        ExportError: the runtime, device or provider is not to be had here.
    """
    if device not in DEVICES:
        raise UsageError(f"device '{device}' is not known; accepted: {', '.join(DEVICES)}")
    suffix = "" if isinstance(source, Run) else Path(source).suffix.lower()
    if suffix in ENGINES:
        raise ExportError(
            f"{source}: this version of kdc builds TensorRT engines and does not run them; "
            "open the ONNX file it was built from instead"
        )
    if suffix == ".onnx":
        from .ort_runtime import OrtRuntime

        return OrtRuntime(Path(str(source)), device=device, provider=provider, size=size, threads=threads)
    if provider is not None:
        raise UsageError(f"--provider {provider} is for ONNX files; {source} runs in torch")
    if suffix in TORCH_FILES and not isinstance(source, Run) and not Path(source).is_file():
        raise WeightsError(f"{source} does not exist")
    from .torch_runtime import TorchRuntime

    chosen = source if isinstance(source, Run) or suffix in TORCH_FILES else find_run(source)
    return TorchRuntime(chosen, device=device, size=size, threads=threads, head=head)
