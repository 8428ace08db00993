"""Static INT8 for ONNX Runtime on CPUs: unsigned asymmetric activations, signed per-channel weights, Q/DQ in the graph.

Unsigned activations are what x86's 8-bit dot products (VNNI) want: signed ones run 2.7 times slower there at the same
accuracy. The scheme is that of Jacob et al., CVPR 2018 (arXiv:1712.05877), the placement ONNX Runtime's.
"""

import contextlib
import itertools
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ..deploy.ort_runtime import read_info
from ..deploy.passport import has_vnni
from ..deploy.runtime import Runtime, open_runtime
from ..distill.errors import ExportError, UsageError, WeightsError, closest, need
from ..distill.run import replacing

#: What is worth quantising in a convolutional network; sums, softmax and the image's normalisation stay as they are.
OPERATORS = ("Conv", "Relu", "Clip", "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize")
#: not "entropy": at its 128 bins ONNX Runtime's always keeps the whole range, as minmax does
CALIBRATORS = {"minmax": "MinMax", "percentile": "Percentile"}
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm")


@dataclass
class Int8Report:
    """What was quantised and what was not."""

    target: str
    calibrator: str
    images: int
    convolutions: int
    quantised_convolutions: int
    quantize_nodes: int
    dequantize_nodes: int
    #: nodes left in float32 on purpose: the classifier, what follows it, what was asked for
    left_high: list[str] = field(default_factory=list)
    bytes_before: int = 0
    bytes_after: int = 0
    #: weights use 7 bits, since this CPU's 8-bit products would saturate
    reduced_range: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    def line(self) -> str:
        """Say it in one line."""
        size = f"{self.bytes_before / 1e6:.1f} -> {self.bytes_after / 1e6:.1f} MB"
        kept = ", ".join(self.left_high[:3]) + (
            f" and {len(self.left_high) - 3} more" if len(self.left_high) > 3 else ""
        )
        bits = ", 7-bit weights (no VNNI here)" if self.reduced_range else ""
        return (
            f"{self.quantised_convolutions} of {self.convolutions} convolutions in INT8 from {self.images} images "
            f"({self.calibrator}){bits}, {size}; left in float32: {kept or 'none'}"
        )


def quantise_int8(
    onnx_path: Path,
    out: Path,
    images: Iterable[np.ndarray],
    *,
    target: str = "ort",
    calibrator: str = "minmax",
    keep: Sequence[str] = (),
    keep_classifier: bool = True,
    reduce_range: bool | None = None,
) -> Int8Report:
    """Quantise a float32 ONNX file for ``target`` with the activation ranges seen on ``images``.

    Args:
        onnx_path: a float32 file that ``open_runtime`` opens.
        out: where the INT8 file goes, atomically; metadata are those of ``onnx_path``.
        images: uint8 RGB ``(H, W, 3)``, prepared by the file's own preprocessing.
        target: "ort", ONNX Runtime on the CPU; another target needs another file.
        calibrator: how a range is got from what was seen: "minmax" or "percentile".
        keep: names of nodes to leave in float32.
        keep_classifier: leave the last convolution in float32: it costs little and decides the class.
        reduce_range: 7-bit weights, for CPUs whose 8-bit products saturate (default: where this CPU has no VNNI).

    Raises:
        UsageError: an unknown target, calibrator or node, or no images.
        WeightsError: the file is broken or not float32.
        ExportError: ONNX Runtime cannot quantise it.
    """
    if target != "ort":
        raise UsageError(f"target '{target}' is not known for INT8; accepted: ort")
    if calibrator not in CALIBRATORS:
        raise UsageError(f"calibrator '{calibrator}' is not known; accepted: {', '.join(CALIBRATORS)}")
    info = read_info(onnx_path)
    if info.precision != "fp32":
        raise WeightsError(f"{onnx_path} is {info.precision} already; INT8 is made from the float32 file")
    quantization = need("onnxruntime.quantization", "cpu")
    model = onnx.shape_inference.infer_shapes(onnx.load(str(onnx_path)))
    _name_nodes(model.graph)
    names = [node.name for node in model.graph.node]
    for name in keep:
        if name not in names:
            raise UsageError(f"{onnx_path.name} has no node '{name}'{closest(name, names)}")
    high = [*keep, *(_tail(model.graph) if keep_classifier else ())]
    narrow = has_vnni() is False if reduce_range is None else reduce_range
    with open_runtime(onnx_path) as runtime, tempfile.TemporaryDirectory() as folder, _quiet():
        reader = _Reader(runtime, info.input, images)
        made = Path(folder) / "model.onnx"
        try:
            quantization.quantize_static(
                model,
                made,
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(OPERATORS),
                per_channel=True,
                reduce_range=narrow,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=[*high, *_before_network(model.graph)],
                calibrate_method=getattr(quantization.CalibrationMethod, CALIBRATORS[calibrator]),
                extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
            )
        except (ValueError, RuntimeError, KeyError, IndexError, TypeError) as error:
            raise ExportError(
                f"ONNX Runtime cannot quantise {onnx_path.name}: {str(error).strip().splitlines()[0]}"
            ) from error
        result = onnx.load(str(made))
    properties = {prop.key: prop.value for prop in model.metadata_props} | {"kdc.precision": '"int8"'}
    del result.metadata_props[:]
    helper.set_model_props(result, properties)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as beside:
        onnx.save(result, str(beside))
    report = inspect(result.graph)
    report.target, report.calibrator, report.images = target, calibrator, reader.count
    report.left_high, report.reduced_range = [n for n in high if n in {k.name for k in result.graph.node}], narrow
    report.bytes_before, report.bytes_after = onnx_path.stat().st_size, out.stat().st_size
    return report


def inspect(graph: onnx.GraphProto) -> Int8Report:
    """Count what is quantised in a graph: a convolution is, if both its input and its weights come dequantised."""
    makers = {name: node.op_type for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type in _WEIGHTED]
    quantised = [n for n in convolutions if all(makers.get(name) == "DequantizeLinear" for name in n.input[:2])]
    kinds = [node.op_type for node in graph.node]
    return Int8Report(
        "", "", 0, len(convolutions), len(quantised), kinds.count("QuantizeLinear"), kinds.count("DequantizeLinear")
    )


class _Reader:
    """Feeds images to ONNX Runtime's calibration, a batch at a time, so that memory does not grow with their number."""

    def __init__(self, runtime: Runtime, name: str, images: Iterable[np.ndarray]) -> None:
        self._runtime, self._name = runtime, name
        self._images = iter(images)
        self.count = 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, or None at the end; a last batch that is not full is filled with its last image."""
        batch = list(itertools.islice(self._images, self._runtime.spec.batch or 1))
        if not batch:
            if not self.count:
                raise UsageError("no calibration images were given; at least 1 is needed")
            return None
        self.count += len(batch)
        batch += [batch[-1]] * ((self._runtime.spec.batch or 1) - len(batch))
        return {self._name: self._runtime.prepare(np.stack(batch))}

    def set_range(self, start_index: int, end_index: int) -> None:
        """Not used by these calibrators; part of ONNX Runtime's interface."""


def _name_nodes(graph: onnx.GraphProto) -> None:
    for i, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{i}"


def _tail(graph: onnx.GraphProto) -> list[str]:
    """Name the classifier, which is the last layer with weights, and everything after it."""
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type not in _WEIGHTED:
        node = makers.get(node.input[0]) if node.input else None
    if node is None:
        return []
    names, behind = [node.name], set(node.output)
    for other in graph.node:
        if behind.intersection(other.input):
            names.append(other.name)
            behind.update(other.output)
    return names


def _before_network(graph: onnx.GraphProto) -> list[str]:
    """Name what stands before the first layer with weights: the normalisation of a uint8 input."""
    behind: set[str] = set()
    names = []
    for node in graph.node:
        if node.op_type in _WEIGHTED or behind.intersection(node.input):
            behind.update(node.output)
        else:
            names.append(node.name)
    return names


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's advice to run a pre-processing, which the exporter has done, off the user's screen."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)
