"""GPU memory by PyCUDA (Kloeckner et al., Parallel Computing 38, 2012)."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pycuda.driver as cuda  # pyright: ignore[reportMissingImports]

from ...distill.errors import ExportError, ResourceError
from .buffers import NO_ROOM, DeviceBuffers
from .device import Gpu
from .kernels import SIGNATURES, SOURCE, THREADS, compile_kernels


class PycudaBuffers(DeviceBuffers):
    """The primary context, which torch and ONNX Runtime share, through ``pycuda.driver``; it has no CUDA graphs."""

    name = "pycuda"

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        cuda.init()
        self._context = cuda.Device(0).retain_primary_context()
        self._threads = threading.local()
        self.use()
        self._stream = cuda.Stream()
        self.stream = self._stream.handle
        self._memory: dict[int, Any] = {}
        self._host: list[np.ndarray] = []
        self._module: Any = None

    def use(self) -> None:
        if not getattr(self._threads, "inside", False):  # contexts are a stack of each thread
            self._context.push()
            self._threads.inside = True

    def alloc(self, nbytes: int) -> int:
        try:
            memory = cuda.mem_alloc(nbytes)
        except cuda.MemoryError as error:
            raise ResourceError(NO_ROOM) from error
        self._memory[int(memory)] = memory
        return int(memory)

    def pinned(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        self._host.append(cuda.pagelocked_empty(shape, np.dtype(dtype)))
        return self._host[-1]

    def upload(self, address: int, array: np.ndarray) -> None:
        cuda.memcpy_htod_async(address, array, self._stream)

    def download(self, array: np.ndarray, address: int) -> None:
        cuda.memcpy_dtoh_async(array, address, self._stream)

    def event(self) -> Any:
        return cuda.Event()

    def record(self, event: Any) -> None:
        event.record(self._stream)

    def elapsed(self, start: Any, end: Any) -> float:
        return float(start.time_till(end))

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        raise ExportError("PyCUDA has no CUDA graphs; take --buffers cuda-python or torch")

    def kernel(self, name: str) -> Callable[..., None]:
        if self._module is None:
            self._module = self._compiled()
        function = self._module.get_function(name).prepare(SIGNATURES[name])

        def launch(pixels: int, *arguments: int) -> None:
            grid = (-(-pixels // THREADS), 1)
            function.prepared_async_call(grid, (THREADS, 1, 1), self._stream, *arguments)

        return launch

    def _compiled(self) -> Any:
        from pycuda.compiler import SourceModule  # pyright: ignore[reportMissingImports]

        try:
            return SourceModule(SOURCE, no_extern_c=True)
        except (cuda.CompileError, OSError) as error:  # a machine that only runs networks has no nvcc
            try:
                return cuda.module_from_buffer(compile_kernels(self.gpu.capability))
            except ExportError as other:
                raise ExportError(
                    f"PyCUDA compiles the GPU kernels with nvcc, which failed ({error}); {other}"
                ) from other

    def synchronize(self) -> None:
        self._stream.synchronize()

    def close(self) -> None:
        self.use()
        self.synchronize()
        self._memory.clear()
        self._host.clear()
        self._module = None
        self._context.pop()
        self._threads.inside = False
