"""A network run by OpenVINO on the CPU: its own file (.xml with .bin beside) or an ONNX file; what ran is read back.

Left to itself OpenVINO computes a float32 network in bfloat16 on CPUs that have it. Here it is told float32, so that
what is not quantised is not rounded either, and ``precision`` says what the layers with weights were compiled to.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...distill import console
from ...distill.errors import UsageError, WeightsError, need
from ...distill.threads import asked_threads
from .base import Runtime
from .file_info import fixed_size, input_shape, spec_of
from .openvino_file import read_ir
from .ort_runtime import read_info
from .said import NOTHING, Said
from .signal_stack import signal_stack_kept

#: element types of a compiled network in kdc's words, the smallest first
_PRECISIONS = {"i8": "int8", "u8": "int8", "f16": "fp16", "bf16": "bf16", "f32": "fp32"}
#: kinds of compiled layers that hold weights
_WEIGHTED = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")


class OpenvinoRuntime(Runtime):
    """A network compiled by OpenVINO; ``layers`` counts its layers with weights by the precision they run in."""

    name = "openvino"

    def __init__(
        self,
        path: Path,
        *,
        device: str = "cpu",
        size: tuple[int, int] | None = None,
        threads: int | None = None,
        said: Said = NOTHING,
    ) -> None:
        """See ``open_runtime``."""
        if device != "cpu":
            raise UsageError(f"{path} runs in OpenVINO, here on the CPU alone: leave out --device {device}")

        ov = need("openvino", "openvino")
        self.source, self.device = path, device
        onnx_file = path.suffix.lower() == ".onnx"
        info = self.info = read_info(path) if onnx_file else read_ir(path)
        size = fixed_size(info, path, size)
        if onnx_file and info.precision.startswith("int8"):
            console.warn(
                f"{path.name} was quantised for another runtime, and OpenVINO computes such files fast and wrong: "
                "kdc calib --for openvino makes its own"
            )

        core = ov.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": threads or asked_threads() or 0,
        }
        try:
            model = core.read_model(str(path))
            if None in info.size or None in info.shape[1:]:
                model.reshape([-1 if n is None else n for n in input_shape(info, size)])
            with signal_stack_kept():
                self._compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise WeightsError(f"{path} cannot be opened by OpenVINO {ov.__version__}: {_reason(error)}") from error

        self._request = self._compiled.create_infer_request()
        self.spec = spec_of(info, path, size, said, lambda: self._shapes(input_shape(info, size, 1)))
        names = [port.name for port in info.outputs]
        self._output = names.index(self.spec.answer.name)
        self.provider = f"OpenVINO {'+'.join(self._compiled.get_property('EXECUTION_DEVICES'))}"
        self.layers = dict(Counter(_layer_precisions(self._compiled.get_runtime_model())))
        hint = str(self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        # a network without weighted layers runs in the hinted precision
        self.precision = next((p for p in _PRECISIONS.values() if p in self.layers), _PRECISIONS.get(hint, hint))

    def _infer(self, x: np.ndarray) -> np.ndarray:
        out = self._request.infer([x], share_inputs=True, share_outputs=False)[self._output]
        return self.spec.answer.read(out, self.spec.size)

    def _shapes(self, shape: Sequence[int | None]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all outputs for an input of a shape, by running zeros."""
        zeros = np.zeros([n or 1 for n in shape], self.info.dtype)
        outs = self._request.infer([zeros], share_inputs=True, share_outputs=False)
        return {port.name: outs[at].shape for at, port in enumerate(self.info.outputs)}

    def staged(self, x: np.ndarray) -> Callable[[], float]:
        """Time the network alone: the input is where OpenVINO reads it, the output stays where it wrote it."""
        self.check(x)
        ov = need("openvino", "openvino")
        request = self._compiled.create_infer_request()
        memory = np.ascontiguousarray(x)
        request.set_input_tensor(ov.Tensor(memory, shared_memory=True))

        def step(held: np.ndarray = memory) -> float:  # the tensor shares its memory and does not keep it
            start = time.perf_counter_ns()
            request.start_async()
            request.wait()
            return (time.perf_counter_ns() - start) / 1e6

        return step

    def close(self) -> None:
        """Drop the compiled network."""
        del self._request, self._compiled


def _layer_precisions(compiled: Any) -> Iterator[str]:
    for layer in compiled.get_ops():
        facts = layer.get_rt_info()
        if "layerType" in facts and facts["layerType"].astype(str) in _WEIGHTED:
            # the end of the kernel's name ("brgconv_avx512_1x1_f32"): runtimePrecision is that of stored weights
            kind = str(facts["primitiveType"].astype(str)).rpartition("_")[2].lower()
            yield _PRECISIONS.get(kind, kind)


def _reason(error: BaseException) -> str:
    """Return the last telling line of OpenVINO's message: the first ones name its own source files."""
    lines = [line.strip() for line in str(error).splitlines()]
    reasons = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return (reasons[-1] if reasons else type(error).__name__)[:200]
