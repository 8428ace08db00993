"""GPU memory by cuda-python: NVIDIA's own bindings of the driver."""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from ...distill.errors import ExportError, ResourceError, need
from .buffers import NO_ROOM, DeviceBuffers
from .device import Gpu
from .kernels import SIGNATURES, THREADS, compile_kernels

driver: Any = need("cuda.bindings.driver", "trt")
_TYPES = {"P": ctypes.c_void_p, "i": ctypes.c_int}


def call(answer: tuple[Any, ...]) -> Any:
    """Return the value that a driver function gave with its status.

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


def load_module(gpu: Gpu) -> Any:
    """Compile the kernels for the current context."""
    return call(driver.cuModuleLoadData(compile_kernels(gpu.capability)))


def unload(module: Any) -> None:
    """Unload a module of ``load_module``."""
    call(driver.cuModuleUnload(module))


def kernel_of(module: Any, name: str, stream: int) -> Callable[..., None]:
    """Return a function that queues a kernel on a stream."""
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
        device = call(driver.cuDeviceGet(0))
        self._context = call(driver.cuDevicePrimaryCtxRetain(device))
        #: the function that frees each resource, and the resource
        self._resources: list[tuple[Callable[[Any], Any], Any]] = [(driver.cuDevicePrimaryCtxRelease, device)]
        self.use()
        flags = driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        self._stream = self._keep(driver.cuStreamDestroy, call(driver.cuStreamCreate(flags)))
        self.stream = int(self._stream)
        self._module: Any = None

    def _keep(self, free: Callable[[Any], Any], resource: Any) -> Any:
        self._resources.append((free, resource))
        return resource

    def use(self) -> None:
        call(driver.cuCtxSetCurrent(self._context))

    def alloc(self, nbytes: int) -> int:
        return self._keep(driver.cuMemFree, int(call(driver.cuMemAlloc(nbytes))))

    def pinned(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = self._keep(driver.cuMemFreeHost, int(call(driver.cuMemHostAlloc(nbytes, 0))))
        memory: Any = (ctypes.c_uint8 * nbytes).from_address(address)
        return np.frombuffer(memory, dtype).reshape(shape)

    def upload(self, address: int, array: np.ndarray) -> None:
        call(driver.cuMemcpyHtoDAsync(address, array.ctypes.data, array.nbytes, self._stream))

    def download(self, array: np.ndarray, address: int) -> None:
        call(driver.cuMemcpyDtoHAsync(array.ctypes.data, address, array.nbytes, self._stream))

    def event(self) -> Any:
        return self._keep(driver.cuEventDestroy, call(driver.cuEventCreate(0)))

    def record(self, event: Any) -> None:
        call(driver.cuEventRecord(event, self._stream))

    def elapsed(self, start: Any, end: Any) -> float:
        return float(call(driver.cuEventElapsedTime(start, end)))

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        call(driver.cuStreamBeginCapture(self._stream, mode))
        try:
            work()
        except BaseException:
            driver.cuStreamEndCapture(self._stream)  # it fails too, with a less telling error
            raise
        graph = call(driver.cuStreamEndCapture(self._stream))
        ready = self._keep(driver.cuGraphExecDestroy, call(driver.cuGraphInstantiate(graph, 0)))
        call(driver.cuGraphDestroy(graph))
        return lambda: call(driver.cuGraphLaunch(ready, self._stream))

    def kernel(self, name: str) -> Callable[..., None]:
        if self._module is None:
            self._module = self._keep(driver.cuModuleUnload, load_module(self.gpu))
        return kernel_of(self._module, name, self.stream)

    def synchronize(self) -> None:
        call(driver.cuStreamSynchronize(self._stream))

    def close(self) -> None:
        self.use()
        self.synchronize()
        while self._resources:
            free, resource = self._resources.pop()
            call(free(resource))
