"""A network run by OpenVINO on the CPU: its own file (.xml with .bin beside) or an ONNX file; what ran is read back.

Left to itself OpenVINO computes a float32 network in bfloat16 on CPUs that have it. Here it is told float32, so that
what is not quantised is not rounded either, and ``precision`` says what the layers with weights were compiled to.
"""

import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...distill import console
from ...distill.errors import UsageError, WeightsError, need, one_line
from ..artefacts.beside import weights_beside
from .base import Runtime
from .file_info import FileInfo, Port, as_output, file_info, metadata_of, spec_of
from .ort_runtime import read_info
from .signal_stack import signal_stack_kept

#: element types of an .xml file in numpy's words
_TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "f64": "float64"}
_TYPES |= {"u8": "uint8", "i8": "int8", "i32": "int32", "i64": "int64", "boolean": "bool"}
#: element types of a compiled network in kdc's words, the smallest first
_PRECISIONS = {"i8": "int8", "u8": "int8", "f16": "fp16", "bf16": "bf16", "f32": "fp32"}
#: kinds of compiled layers that hold weights
_WEIGHTED = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")


def read_ir(path: Path) -> FileInfo:
    """Read an OpenVINO network's contract without OpenVINO and without its weights.

    ``precision`` is that of the stored weights: "fp16" for compressed ones, which OpenVINO computes in float32 here.

    Raises:
        WeightsError: the file is missing, broken, lacks its .bin, or does not segment images.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error

    plain = text.replace(b"\0", b"")  # in UTF-16 every letter has one
    if b"<!DOCTYPE" in plain or b"<!ENTITY" in plain:
        raise WeightsError(f"{path} defines entities, which no OpenVINO network needs: refused")
    try:
        net = ET.fromstring(text)
    except ET.ParseError as error:
        raise WeightsError(
            f"{path} is not an OpenVINO network or is cut off ({one_line(error)}); export it again"
        ) from error

    layers = net.findall("./layers/layer")
    if net.tag != "net" or not layers:
        raise WeightsError(f"{path} is not an OpenVINO network (no <net> with layers); export it again")
    weights = weights_beside(path)
    if weights is not None and not weights.is_file():
        raise WeightsError(f"{path} needs the file '{weights.name}' beside it, which is missing; copy it along")

    inputs = [_input_port(layer) for layer in layers if layer.get("type") == "Parameter"]
    edges = {(e.get("to-layer"), e.get("to-port")): e for e in net.findall("./edges/edge")}
    by_id = {layer.get("id"): layer for layer in layers}
    outputs = [_output_port(layer, edges, by_id) for layer in layers if layer.get("type") == "Result"]
    metadata = metadata_of((entry.tag, entry.get("value", "")) for entry in net.iterfind("./rt_info/framework/*"))
    return file_info(path, inputs, outputs, _stored(layers), metadata)


def _input_port(layer: ET.Element) -> Port:
    data, port = layer.find("data"), layer.find("output/port")
    kind = "" if data is None else data.get("element_type", "")
    name = ("" if port is None else port.get("names", "")).split(",")[0] or layer.get("name", "")
    return Port(name, _TYPES.get(kind, kind or "?"), _dims(port))


def _output_port(layer: ET.Element, edges: dict[Any, ET.Element], by_id: dict[str | None, ET.Element]) -> Port:
    edge = edges.get((layer.get("id"), "0"))
    source = by_id.get(edge.get("from-layer")) if edge is not None else None
    ports = [] if source is None or edge is None else source.findall("output/port")
    port = next((p for p in ports if edge is not None and p.get("id") == edge.get("from-port")), None)
    name = ("" if port is None else port.get("names", "")).split(",")[0] or layer.get("name", "")
    kind = ("" if port is None else port.get("precision", "")).lower()
    kind = {"fp32": "f32", "fp16": "f16"}.get(kind, kind)
    return Port(name, _TYPES.get(kind, kind or "?"), _dims(port))


def _dims(port: ET.Element | None) -> tuple[int | None, ...]:
    texts = [(d.text or "-1").strip() for d in (() if port is None else port.findall("dim"))]
    sizes = [int(text) if text.isdecimal() else -1 for text in texts]
    return tuple(size if size > 0 else None for size in sizes)


def _stored(layers: list[ET.Element]) -> str:
    data = [layer.find("data") for layer in layers if layer.get("type") == "Const"]
    kinds = {each.get("element_type") for each in data if each is not None}
    if any(layer.get("type") == "FakeQuantize" for layer in layers):
        return "int8"
    return "fp16" if "f16" in kinds else "fp32"


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
    ) -> None:
        """See ``open_runtime``."""
        if device != "cpu":
            raise UsageError(f"{path} runs in OpenVINO, which kdc uses on the CPU: leave out --device {device}")

        ov = need("openvino", "openvino")
        self.source, self.device = path, device
        onnx_file = path.suffix.lower() == ".onnx"
        info = self.info = read_info(path) if onnx_file else read_ir(path)
        self.spec = spec_of(info, path, size)
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
            "INFERENCE_NUM_THREADS": threads or 0,
        }
        try:
            model = core.read_model(str(path))
            if None in info.size:
                model.reshape([-1 if n is None else n for n in self.spec.shape])
            with signal_stack_kept():
                self._compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise WeightsError(f"{path} cannot be opened by OpenVINO {ov.__version__}: {_reason(error)}") from error

        self._request = self._compiled.create_infer_request()
        self.provider = f"OpenVINO {'+'.join(self._compiled.get_property('EXECUTION_DEVICES'))}"
        self.layers = dict(Counter(_layer_precisions(self._compiled.get_runtime_model())))
        hint = str(self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        # a network without weighted layers runs in the hinted precision
        self.precision = next((p for p in _PRECISIONS.values() if p in self.layers), _PRECISIONS.get(hint, hint))

    def _infer(self, x: np.ndarray) -> np.ndarray:
        out = self._request.infer([x], share_inputs=True, share_outputs=False)[0]
        return as_output(out, self.spec.head)

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
