"""A session of ONNX Runtime on a GPU, timed: its input and output are in memory of kdc's, on a stream of kdc's."""

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

    def __init__(self, session: Any, input_name: str, output_name: str, buffers: DeviceBuffers) -> None:
        """Take a session, the names of its input and output, and what its stream belongs to."""
        self._session, self._input, self._output, self.buffers = session, input_name, output_name, buffers
        self._no_wait = need("onnxruntime", "gpu").RunOptions()
        self._no_wait.add_run_config_entry("disable_synchronize_execution_providers", "1")
        #: by the input's shape, the output's address and an array in pinned memory to copy it to
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
        buffers, (launch, address_in, (address_out, back)) = self.buffers, self._bound(x)
        host = buffers.pinned(x.shape, str(x.dtype))
        np.copyto(host, x)
        step = buffers.in_parts(
            lambda: buffers.upload(address_in, host), launch, lambda: buffers.download(back, address_out)
        )

        def parts() -> dict[str, float]:
            buffers.use()
            return step()

        return parts

    def _bound(self, x: np.ndarray) -> tuple[Callable[[], None], int, tuple[int, np.ndarray]]:
        """Upload an input; return what queues the network on it, and the addresses of input and output."""
        buffers, session = self.buffers, self._session
        buffers.use()
        if x.shape not in self._outputs:
            out = session.run([self._output], {self._input: x})[0]  # tells shape and type, and warms it up
            self._outputs[x.shape] = buffers.alloc(out.nbytes), buffers.pinned(out.shape, str(out.dtype))
        address_out, back = self._outputs[x.shape]

        address_in = buffers.alloc(x.nbytes)
        buffers.upload(address_in, np.ascontiguousarray(x))
        buffers.synchronize()

        binding = session.io_binding()
        binding.bind_input(self._input, "cuda", 0, x.dtype.type, x.shape, address_in)
        binding.bind_output(self._output, "cuda", 0, back.dtype.type, back.shape, address_out)
        return lambda: session.run_with_iobinding(binding, self._no_wait), address_in, (address_out, back)

    def close(self) -> None:
        """Drop the session, then the memory and the stream that it works on."""
        del self._session
        self.buffers.close()
