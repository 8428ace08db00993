"""A session of ONNX Runtime on a GPU, timed: its input and output lie in memory of kdc's, on a stream of kdc's."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ...distill.errors import need
from ..gpu.buffers import DeviceBuffers


class OrtOnGpu:
    """Times a session that was opened with ``user_compute_stream`` = the stream of ``buffers``.

    By itself ONNX Runtime waits for its stream at the end of each run; here it does not, so that events of that stream
    tell what the GPU did when.
    """

    def __init__(self, session: Any, given: str, made: str, buffers: DeviceBuffers) -> None:
        """Take a session, the names of its input and output, and what its stream belongs to."""
        self._session, self._given, self._made, self.buffers = session, given, made, buffers
        self._unwaiting = need("onnxruntime", "gpu").RunOptions()
        self._unwaiting.add_run_config_entry("disable_synchronize_execution_providers", "1")
        #: where the output of a shape of input lies: address, and an array in pinned memory to copy it to
        self._outputs: dict[tuple[int, ...], tuple[int, np.ndarray]] = {}

    def staged(self, x: np.ndarray) -> Callable[[], float]:
        """Time the network alone, from the call to the end of the stream."""
        launch, _, _ = self._bound(x)

        def step() -> float:
            self.buffers.use()
            start = time.perf_counter_ns()
            launch()
            self.buffers.synchronize()
            return (time.perf_counter_ns() - start) / 1e6

        return step

    def timed(self, x: np.ndarray) -> Callable[[], dict[str, float]]:
        """Time transfers and network apart by events, from and to pinned memory."""
        buffers, (launch, there, (address, back)) = self.buffers, self._bound(x)
        host = buffers.pinned(x.shape, str(x.dtype))
        np.copyto(host, x)
        step = buffers.in_parts(lambda: buffers.upload(there, host), launch, lambda: buffers.download(back, address))

        def parts() -> dict[str, float]:
            buffers.use()
            return step()

        return parts

    def _bound(self, x: np.ndarray) -> tuple[Callable[[], None], int, tuple[int, np.ndarray]]:
        """Return what queues the network on an input, where that lies (it is there), and where the output will."""
        buffers, session = self.buffers, self._session
        buffers.use()
        if x.shape not in self._outputs:
            made = session.run([self._made], {self._given: x})[0]  # tells shape and type, and warms it up
            self._outputs[x.shape] = buffers.alloc(made.nbytes), buffers.pinned(made.shape, str(made.dtype))
        address, back = self._outputs[x.shape]
        there = buffers.alloc(x.nbytes)
        buffers.upload(there, np.ascontiguousarray(x))
        buffers.synchronize()
        binding = session.io_binding()
        binding.bind_input(self._given, "cuda", 0, x.dtype.type, x.shape, there)
        binding.bind_output(self._made, "cuda", 0, back.dtype.type, back.shape, address)
        return lambda: session.run_with_iobinding(binding, self._unwaiting), there, (address, back)

    def close(self) -> None:
        """Drop the session, then the memory and the stream that it works on."""
        del self._session
        self.buffers.close()
