"""GPU memory by torch: its caching allocator, streams and graphs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...distill.errors import ExportError, ResourceError
from .buffers import NO_ROOM, DeviceBuffers
from .device import Gpu


class TorchBuffers(DeviceBuffers):
    """Byte tensors that stand for device memory; kernels come from NVRTC, since torch compiles none."""

    name = "torch"

    def __init__(self, gpu: Gpu) -> None:
        if not torch.cuda.is_available():
            raise ExportError(f"--buffers torch: torch {torch.__version__} sees no GPU here; kdc doctor says why")
        self.gpu = gpu
        self.use()
        self._stream = torch.cuda.Stream()
        self.stream = self._stream.cuda_stream
        self._memory: dict[int, Tensor] = {}
        self._host: list[Tensor] = []
        self._module: Any = None

    def use(self) -> None:
        torch.cuda.set_device(0)

    def alloc(self, nbytes: int) -> int:
        try:
            with torch.cuda.stream(self._stream):
                memory = torch.empty(nbytes, dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError as error:
            raise ResourceError(NO_ROOM) from error
        self._memory[memory.data_ptr()] = memory
        return memory.data_ptr()

    def pinned(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._host.append(torch.empty(nbytes, dtype=torch.uint8, pin_memory=True))
        return self._host[-1].numpy().view(dtype).reshape(shape)

    def upload(self, address: int, array: np.ndarray) -> None:
        with torch.cuda.stream(self._stream):
            self._memory[address][: array.nbytes].copy_(_bytes(array), non_blocking=True)

    def download(self, array: np.ndarray, address: int) -> None:
        with torch.cuda.stream(self._stream):
            _bytes(array).copy_(self._memory[address][: array.nbytes], non_blocking=True)

    def event(self) -> Any:
        return torch.cuda.Event(enable_timing=True)

    def record(self, event: Any) -> None:
        event.record(self._stream)

    def elapsed(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end))

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            work()

        def launch() -> None:
            with torch.cuda.stream(self._stream):
                graph.replay()

        return launch

    def kernel(self, name: str) -> Callable[..., None]:
        from .cuda_buffers import kernel_of, load_module

        if self._module is None:
            self._module = load_module(self.gpu)
        return kernel_of(self._module, name, self.stream)

    def synchronize(self) -> None:
        self._stream.synchronize()

    def close(self) -> None:
        self.synchronize()
        if self._module is not None:
            from .cuda_buffers import unload

            unload(self._module)
            self._module = None
        self._memory.clear()
        self._host.clear()
        torch.cuda.empty_cache()


def _bytes(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.reshape(-1).view(np.uint8))
