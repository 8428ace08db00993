"""GPU memory by cuda-python: NVIDIA's own bindings of the driver."""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from ..distill.errors import ExportError, ResourceError, need
from ._kernels import SIGNATURES, THREADS, compile_kernels
from .trt_buffers import NO_ROOM, DeviceBuffers, Gpu

driver: Any = need("cuda.bindings.driver", "trt")
_TYPES = {"P": ctypes.c_void_p, "i": ctypes.c_int}


def call(answer: tuple[Any, ...]) -> Any:
    """Return what a driver function gave beside its status.

    Raises:
        ResourceError: out of memory.
        ExportError: any other failure.
    """
    status, *values = answer
    if status == driver.CUresult.CUDA_SUCCESS:
        return values[0] if values else None
    if status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
        raise ResourceError(NO_ROOM)
    raise ExportError(f"CUDA failed: {driver.CUresult(status).name}")


def load_kernel(gpu: Gpu, name: str, stream: int) -> Callable[..., None]:
    """Compile a kernel for the current context and return what queues it on a stream."""
    module = call(driver.cuModuleLoadData(compile_kernels(gpu.capability)))
    function = call(driver.cuModuleGetFunction(module, name.encode()))
    types = tuple(_TYPES[letter] for letter in SIGNATURES[name])

    def launch(pixels: int, *arguments: int) -> None:
        blocks = -(-pixels // THREADS)
        call(driver.cuLaunchKernel(function, blocks, 1, 1, THREADS, 1, 1, 0, stream, (arguments, types), 0))

    return launch


class CudaBuffers(DeviceBuffers):
    """The primary context, which torch and ONNX Runtime share, through ``cuda.bindings``."""

    name = "cuda-python"

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        call(driver.cuInit(0))
        self._device = call(driver.cuDeviceGet(0))
        self._context = call(driver.cuDevicePrimaryCtxRetain(self._device))
        self.use()
        self._stream = call(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        self.stream = int(self._stream)
        self._device_memory: list[int] = []
        self._host_memory: list[int] = []

    def use(self) -> None:
        call(driver.cuCtxSetCurrent(self._context))

    def alloc(self, nbytes: int) -> int:
        self._device_memory.append(int(call(driver.cuMemAlloc(nbytes))))
        return self._device_memory[-1]

    def pinned(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._host_memory.append(int(call(driver.cuMemHostAlloc(nbytes, 0))))
        there: Any = (ctypes.c_uint8 * nbytes).from_address(self._host_memory[-1])
        return np.frombuffer(there, dtype).reshape(shape)

    def upload(self, address: int, array: np.ndarray) -> None:
        call(driver.cuMemcpyHtoDAsync(address, array.ctypes.data, array.nbytes, self._stream))

    def download(self, array: np.ndarray, address: int) -> None:
        call(driver.cuMemcpyDtoHAsync(array.ctypes.data, address, array.nbytes, self._stream))

    def event(self) -> Any:
        return call(driver.cuEventCreate(0))

    def record(self, event: Any) -> None:
        call(driver.cuEventRecord(event, self._stream))

    def elapsed(self, start: Any, end: Any) -> float:
        return float(call(driver.cuEventElapsedTime(start, end)))

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        call(driver.cuStreamBeginCapture(self._stream, mode))
        try:
            work()
        finally:
            graph = call(driver.cuStreamEndCapture(self._stream))
        ready = call(driver.cuGraphInstantiate(graph, 0))
        return lambda: call(driver.cuGraphLaunch(ready, self._stream))

    def kernel(self, name: str) -> Callable[..., None]:
        return load_kernel(self.gpu, name, self.stream)

    def synchronize(self) -> None:
        call(driver.cuStreamSynchronize(self._stream))

    def close(self) -> None:
        self.use()
        self.synchronize()
        while self._device_memory:
            call(driver.cuMemFree(self._device_memory.pop()))
        while self._host_memory:
            call(driver.cuMemFreeHost(self._host_memory.pop()))
        call(driver.cuStreamDestroy(self._stream))
        call(driver.cuDevicePrimaryCtxRelease(self._device))
