"""Memory, stream, events and kernels of a GPU behind one small interface, by PyCUDA, cuda-python or torch."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from .device import Gpu

#: said when device memory runs out
NO_ROOM = "the GPU has no room left; take a smaller batch or --size, or end what else uses it"


class DeviceBuffers(ABC):
    """Memory of the first GPU and one stream of its own, on which everything is queued in order.

    Addresses are plain integers. Uploads, downloads, kernels and graphs return at once; ``synchronize`` waits.

    Attributes:
        name: "pycuda", "cuda-python" or "torch".
        gpu: the device.
        stream: the handle of the stream, never the default one, on which TensorRT would wait too often.
    """

    name: str
    gpu: Gpu
    stream: int

    @abstractmethod
    def use(self) -> None:
        """Make the GPU the current one of this thread; to be called before anything else in each thread."""

    @abstractmethod
    def alloc(self, nbytes: int) -> int:
        """Return the address of new device memory; it lives until ``close``.

        Raises:
            ResourceError: there is no room.
        """

    @abstractmethod
    def pinned(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return a host array that the GPU reads and writes directly; it lives until ``close``."""

    @abstractmethod
    def upload(self, address: int, array: np.ndarray) -> None:
        """Queue a copy of a contiguous host array to the device."""

    @abstractmethod
    def download(self, array: np.ndarray, address: int) -> None:
        """Queue a copy from the device into a contiguous host array."""

    @abstractmethod
    def event(self) -> Any:
        """Return a new event that measures time."""

    @abstractmethod
    def record(self, event: Any) -> None:
        """Queue the event."""

    @abstractmethod
    def elapsed(self, start: Any, end: Any) -> float:
        """Return the milliseconds between two events that the stream has passed."""

    def in_parts(
        self, upload: Callable[[], None], launch: Callable[[], None], download: Callable[[], None]
    ) -> Callable[[], dict[str, float]]:
        """Return what ``Runtime.timed`` does, for three functions that queue their part on the stream."""
        marks = [self.event() for _ in range(4)]

        def step() -> dict[str, float]:
            start = time.perf_counter_ns()
            self.record(marks[0])
            upload()
            self.record(marks[1])
            launched = time.perf_counter_ns()
            launch()
            enqueued = time.perf_counter_ns()
            self.record(marks[2])
            download()
            self.record(marks[3])
            self.synchronize()

            total = time.perf_counter_ns() - start
            spans = zip(("h2d", "compute", "d2h"), marks[:-1], marks[1:], strict=True)
            parts = {name: self.elapsed(one, other) for name, one, other in spans}
            return parts | {"enqueue": (enqueued - launched) / 1e6, "total": total / 1e6}

        return step

    @abstractmethod
    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return a function that queues what ``work`` queues, as one CUDA graph.

        Raises:
            ExportError: this library has no graphs.
        """

    @abstractmethod
    def kernel(self, name: str) -> Callable[..., None]:
        """Compile a kernel of ``kernels`` and return a function that queues it: ``launch(pixels, *arguments)``.

        Raises:
            ExportError: there is no compiler.
        """

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for everything queued."""

    @abstractmethod
    def close(self) -> None:
        """Free everything."""
