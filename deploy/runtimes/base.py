"""One interface to everything that runs a network: numpy in, numpy out, and the provider that really ran it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from ...distill.errors import UsageError
from ...distill.evaluation.fit import Fit
from ...distill.preprocess import PAD, Policy, Preprocess
from .answer import LOGITS, Answer, Contract

DEVICES = ("cpu", "cuda")
#: The provider that hands an ONNX file to OpenVINO itself, not to ONNX Runtime.
OPENVINO = "openvino"


@dataclass(frozen=True)
class Spec:
    """What a network takes and gives; ``shape`` is in ``layout``, its first entry None where any batch will do.

    ``answer`` says how its raw output is read, and ``order`` in which order bytes go in.
    """

    shape: tuple[int | None, int, int, int]
    dtype: str
    layout: str
    head: str
    preprocess: Preprocess
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    answer: Answer = LOGITS
    order: str = "rgb"
    #: how images of other sizes are taken
    fit: Policy = PAD

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input."""
        return (self.shape[1], self.shape[2]) if self.layout == "NHWC" else (self.shape[2], self.shape[3])

    @property
    def contract(self) -> Contract:
        """The same for a record."""
        return Contract(list(self.shape), self.dtype, self.layout, self.preprocess, self.answer)

    @property
    def batch(self) -> int | None:
        """The batch the file was made for; None for any."""
        return self.shape[0]


class Runtime(ABC):
    """A network, opened and ready.

    Attributes:
        name: "torch", "onnxruntime", "openvino", "aoti" or "tensorrt".
        provider: what really executes it, for example "CPUExecutionProvider".
        precision: "fp32", "fp16", "bf16", "int8" or "fp8".
        device: "cpu" or "cuda".
        source: the file it was opened from.
        tf32: whether a GPU may compute float32 products in TF32; None where there is no such choice.
        on_cpu: how many nodes a GPU provider left to the CPU.
    """

    name: str
    spec: Spec
    provider: str
    precision: str
    device: str
    source: Path
    tf32: bool | None = None
    on_cpu: int = 0

    @property
    def fit(self) -> Fit:
        """How images of any size become inputs; ``infer``, ``prepare`` and ``masks`` take none that is larger."""
        return Fit(self.spec.size, self.spec.fit)

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
        shape = self.spec.shape
        fits = x.ndim == 4 and all(own in (None, n) for own, n in zip(shape, x.shape, strict=False))
        if not fits or x.dtype != self.spec.dtype:
            accepted = "x".join("N" if n is None else str(n) for n in shape)
            got = f"{x.dtype} {'x'.join(map(str, x.shape))}"
            cure = "; kdc export onnx --dynamic-batch leaves the batch free" if x.shape[1:] == shape[1:] else ""
            takes = f"{self.spec.dtype} {self.spec.layout} {accepted}"
            raise UsageError(f"{self.source.name} takes {takes}, not {got}{cure}")

    @property
    def facts(self) -> dict[str, str | bool]:
        """What a measurement records of this kind of runtime besides."""
        return {}

    @property
    def batches(self) -> tuple[int, int | None]:
        """Smallest and largest batch that the network takes; None where nothing bounds it."""
        return self.spec.batch or 1, self.spec.batch

    def staged(self, x: np.ndarray) -> Callable[[], float]:
        """Put ``x`` where the network reads it and return a function that runs the network once: milliseconds.

        What is timed is the network alone: no preprocessing, and on a GPU no transfers.
        """
        self.check(x)

        def step() -> float:
            start = time.perf_counter_ns()
            self._infer(x)
            return (time.perf_counter_ns() - start) / 1e6

        return step

    def timed(self, x: np.ndarray) -> Callable[[], dict[str, float]] | None:
        """Return a function that runs one query from host to host by the device's own clock; None where it has none.

        Milliseconds: ``h2d``, ``compute`` and ``d2h`` between events on the stream, ``enqueue`` that the host took to
        hand the network over, and ``total`` by the host's clock until the stream is done.
        """
        self.check(x)
        return None

    def pad(self, images: np.ndarray) -> np.ndarray:
        """Bring uint8 RGB ``(N, H, W, 3)`` to the input size: the mean colour goes to the right and below.

        Raises:
            UsageError: the images are larger than the network's input.
        """
        height, width = self.spec.size
        h, w = images.shape[1:3]
        if h > height or w > width:
            raise UsageError(f"image is {h}x{w}, {self.source.name} takes up to {height}x{width}; see Runtime.fit")
        if (h, w) == (height, width):
            return images
        mean = self.spec.preprocess.mean
        colour = mean if self.spec.preprocess.order == "rgb" else mean[::-1]
        padded = np.empty((len(images), height, width, 3), np.uint8)
        padded[:] = np.rint(colour).astype(np.uint8)
        padded[:, :h, :w] = images
        return padded

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Turn uint8 RGB ``(N, H, W, 3)`` into an input: padded, then normalised where the network wants floats.

        Raises:
            UsageError: the images are larger than the network's input.
        """
        images = self.pad(images)
        if self.spec.dtype != "uint8":
            x = self.spec.preprocess.apply(images).astype(self.spec.dtype, copy=False)
            return x if self.spec.layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        images = images[..., ::-1] if self.spec.order == "bgr" else images
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def answers(runtime: Runtime, images: np.ndarray) -> np.ndarray:
    """Run uint8 RGB images ``(N, H, W, 3)`` in batches that the network takes, the last one filled up with its last.

    Returns:
        float ``(N, K, H, W)`` or uint8 ``(N, H, W)``, of the images' size: enlarged where the network's output is
        smaller, cut where the input was filled up.
    """
    (least, most), (h, w) = runtime.batches, images.shape[1:3]
    batch = max(least, min(len(images), most or len(images)))
    parts = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        fill = np.repeat(part[-1:], batch - len(part), axis=0)
        out = runtime.infer(runtime.prepare(np.concatenate([part, fill])))[: len(part)]
        parts.append((enlarged(out, runtime.spec.size) if out.ndim == 4 else out)[..., :h, :w])
    return np.ascontiguousarray(np.concatenate(parts))


def labels(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Argmax of float ``(N, K, h, w)``, enlarged to ``size`` first where a network left that to its user."""
    return enlarged(logits, size).argmax(1).astype(np.uint8)


def enlarged(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize float ``(N, K, h, w)`` to ``size``; what has that size already is returned as it is."""
    if logits.shape[2:] == size:
        return logits
    import cv2

    return np.asarray([[cv2.resize(k.astype(np.float32), size[::-1]) for k in image] for image in logits])


def export_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Round height and width up to the stride."""
    return -(-size[0] // stride) * stride, -(-size[1] // stride) * stride
