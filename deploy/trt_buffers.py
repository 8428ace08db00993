"""Memory, stream, events and kernels of a GPU behind one small interface, by PyCUDA, cuda-python or torch."""

import ctypes
import importlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from ..distill import console
from ..distill.errors import ExportError, UsageError, closest

#: name -> (what must import, distribution, extra); "auto" takes the first that imports
KINDS = {
    "pycuda": ("pycuda.driver", "pycuda", "pycuda"),
    "cuda-python": ("cuda.bindings.driver", "cuda-bindings", "trt"),
    "torch": ("torch", "torch", "gpu"),
}
#: said when device memory runs out
NO_ROOM = "the GPU has no room left; take a smaller batch or --size, or end what else uses it"


@dataclass(frozen=True)
class Gpu:
    """The first GPU: name, compute capability, and the CUDA version of its driver."""

    name: str
    capability: tuple[int, int]
    cuda: str

    def __str__(self) -> str:
        """Name and capability, for people."""
        return f"{self.name} (compute capability {self.capability[0]}.{self.capability[1]})"


def gpu() -> Gpu | None:
    """Ask the driver for the first GPU, None without one; loads neither torch nor TensorRT."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None
    name, device = ctypes.create_string_buffer(128), ctypes.c_int()
    major, minor, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
    calls = (
        lambda: cuda.cuInit(0),
        lambda: cuda.cuDeviceGet(ctypes.byref(device), 0),
        lambda: cuda.cuDeviceGetName(name, 128, device),
        lambda: cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device),
        lambda: cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device),
        lambda: cuda.cuDriverGetVersion(ctypes.byref(version)),
    )
    if any(call() for call in calls):
        return None
    release = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(name.value.decode(), (major.value, minor.value), release)


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
            handed = time.perf_counter_ns()
            launch()
            enqueued = time.perf_counter_ns()
            self.record(marks[2])
            download()
            self.record(marks[3])
            self.synchronize()
            total = time.perf_counter_ns() - start
            spans = zip(("h2d", "compute", "d2h"), marks[:-1], marks[1:], strict=True)
            parts = {name: self.elapsed(one, other) for name, one, other in spans}
            return parts | {"enqueue": (enqueued - handed) / 1e6, "total": total / 1e6}

        return step

    @abstractmethod
    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return a function that queues what ``work`` queues, as one CUDA graph.

        Raises:
            ExportError: this library has no graphs.
        """

    @abstractmethod
    def kernel(self, name: str) -> Callable[..., None]:
        """Compile a kernel of ``_kernels`` and return what queues it: ``launch(pixels, *arguments)``.

        Raises:
            ExportError: there is no compiler.
        """

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for everything queued."""

    @abstractmethod
    def close(self) -> None:
        """Free everything."""


def open_buffers(kind: str = "auto", graphs: bool = False) -> DeviceBuffers:
    """Open the first GPU through ``kind``; "auto" takes the first of PyCUDA, cuda-python and torch that imports.

    With ``graphs`` "auto" passes PyCUDA by, which has no CUDA graphs.

    Raises:
        UsageError: an unknown kind.
        ExportError: no GPU, or the library is not installed.
    """
    if kind not in ("auto", *KINDS):
        raise UsageError(f"--buffers {kind!r}: accepted are auto, {', '.join(KINDS)}{closest(kind, KINDS)}")
    device = gpu()
    if device is None:
        raise ExportError("an engine runs on an NVIDIA GPU, and no driver or no GPU is found here; see kdc doctor")
    faults: dict[str, str] = {}
    chosen = None
    fitting = [name for name in KINDS if not (graphs and name == "pycuda")]
    for name in fitting if kind == "auto" else (kind,):
        if (fault := _fault(name)) is None:
            chosen = name
            break
        faults[name] = fault
    if chosen is None:
        extra = KINDS[kind][2] if kind in KINDS else "trt"
        why = "; ".join(f"{name}: {fault}" for name, fault in faults.items())
        raise ExportError(f"no library for GPU memory imports ({why}): pip install 'kdc[{extra}]'")
    if chosen == "pycuda":
        from ._buffers_pycuda import PycudaBuffers as Chosen
    elif chosen == "torch":
        from ._buffers_torch import TorchBuffers as Chosen
    else:
        from ._buffers_cuda import CudaBuffers as Chosen
    console.say(f"GPU memory by {chosen} {metadata.version(KINDS[chosen][1])}")
    return Chosen(device)


def _fault(kind: str) -> str | None:
    """Say why a library does not import; None where it does."""
    try:
        importlib.import_module(KINDS[kind][0])
    except (ImportError, OSError, RuntimeError) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return None
