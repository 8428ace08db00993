"""From a float32 ONNX graph to a float16 or bfloat16 one, with explicit casts, as strongly typed TensorRT needs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper, shape_inference

from ..deploy.artefacts.safe_onnx import save_own
from ..distill.errors import ExportError, WeightsError, closest
from ..distill.run.records import Record
from .onnx_graph import consumers, finished, load_named, short

#: sums over thousands of pixels, which overflow or lose precision in float16
BLOCKED = frozenset({"ReduceMean", "ReduceSum", "GlobalAveragePool"})
#: operators that define their own types: a cast around them gains nothing, or breaks them
_TYPED = frozenset(
    {"Cast", "Constant", "ConstantOfShape", "Shape", "Size", "Range", "RandomNormal", "RandomUniform", "EyeLike"}
)
#: operators that read the shape of a value and not its type
_BLIND = frozenset({"Shape", "Size"})
#: layers with weights: the nodes before the first of them prepare the image and stay in float32
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: these take the type of their neighbours
_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
#: inputs that are float32 by the operator's definition, by position
_ALWAYS_FLOAT = {"Resize": (1, 2)}
#: the largest finite float16
LARGEST = float(np.finfo(np.float16).max)
#: an activation beyond this share of the range on calibration images may exceed it on others
HEADROOM = 0.5
#: name -> type, and the largest number that it holds
LOW = {"fp16": (TensorProto.FLOAT16, LARGEST), "bf16": (TensorProto.BFLOAT16, float(np.finfo(np.float32).max))}
#: the first opset whose convolutions take bfloat16
BF16_OPSET = 22
#: how many nodes with the largest values the report names
_NAMED = 10


@dataclass
class CastReport(Record):
    """How a graph was cast."""

    #: "fp16" or "bf16"
    low: str = "fp16"
    #: "kdc", or the version of ModelOpt whose AutoCast did it
    caster: str = "kdc"
    #: nodes computed in the low type, and the names of floating-point nodes that were not
    half_nodes: int = 0
    float_nodes: list[str] = field(default_factory=list)
    #: of the multiply-adds that are computed in the low type, and the products that are not
    share: float = 1.0
    products_high: list[str] = field(default_factory=list)
    initializers: int = 0
    casts: int = 0
    #: initialiser -> how many of its values were beyond the range and were clamped to it
    clamped: dict[str, int] = field(default_factory=dict)
    #: values that became zero, over all initialisers
    flushed: int = 0
    #: node -> largest magnitude of its inputs and outputs on the calibration images, for the nodes with the largest
    largest: dict[str, float] = field(default_factory=dict)
    #: nodes beyond or near the end of the range, which therefore stay in float32
    overflowing: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """Summarise the cast in one line."""
        name = {"fp16": "float16", "bf16": "bfloat16"}[self.low]
        by = "" if self.caster == "kdc" else f" ({self.caster})"
        text = f"{self.half_nodes} nodes in {name}{by}, {len(self.float_nodes)} in float32, {self.casts} casts"
        text += f"; {self.share:.0%} of the multiply-adds in {name}"
        if self.products_high:
            text += f", left in float32: {', '.join(self.products_high)}"

        if self.largest:
            node, value = next(iter(self.largest.items()))
            text += f"; largest activation {value:.4g} at {node}"
        if self.overflowing:
            worst = short(f"{name} ({value:.3g})" for name, value in self.overflowing.items())
            text += f"; {len(self.overflowing)} nodes stay in float32 because of their range: {worst}"
        if self.clamped:
            worst = short(f"{name} ({count})" for name, count in self.clamped.items())
            text += f"; CLAMPED to {LOW[self.low][1]:.0f} in {len(self.clamped)} initialisers: {worst}"
        return text


def cast_half(
    source: Path,
    target: Path,
    *,
    low: str = "fp16",
    block_nodes: Collection[str] = (),
    largest: Mapping[str, float] | None = None,
) -> CastReport:
    """Write a half-precision copy of an ONNX file; inputs, outputs and metadata stay as they are.

    Args:
        source: a float32 file, weights inside.
        target: where the copy goes.
        low: "fp16" or "bf16".
        block_nodes: names of nodes that stay in float32.
        largest: the largest magnitude of each activation on real images: nodes near the end of the range of ``low``
            stay in float32 and are reported.

    Raises:
        WeightsError: ``source`` cannot be read.
        ExportError: it has control flow, or the cast graph does not pass ONNX's checker.
    """
    try:
        model = load_named(str(source), BF16_OPSET if low == "bf16" else 0)
    except (OSError, DecodeError) as error:
        raise WeightsError(f"{source} is not a readable ONNX file ({error})") from error
    report = cast_model(model, low=low, block_nodes=block_nodes, largest=largest)
    model = finished(model, low)
    save_own(model, target)
    return report


def cast_model(
    model: ModelProto,
    *,
    low: str = "fp16",
    block_ops: Collection[str] = BLOCKED,
    block_nodes: Collection[str] = (),
    largest: Mapping[str, float] | None = None,
) -> CastReport:
    """Cast a graph in place; the shapes of its inner values are dropped, to be inferred anew.

    A graph with Q/DQ pairs may be cast, too: their scales take the type of their neighbours.
    """
    graph, half_type = model.graph, LOW[low][0]
    if any(
        a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for node in graph.node for a in node.attribute
    ):
        raise ExportError(
            f"the graph holds control flow (If or Loop), which the {low} cast does not follow; export it without"
        )
    for name in set(block_nodes) - {node.name for node in graph.node}:
        raise ExportError(f"no node named {name!r} in the graph{closest(name, [node.name for node in graph.node])}")

    # which nodes are cast
    floats = _float_values(model)
    report = CastReport(low)
    beyond = examined(graph, largest or {}, report)
    half = _half_nodes(graph, floats, set(block_ops), {*block_nodes, *beyond}, report)

    weights = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    twins: dict[tuple[str, int], str] = {}  # (value, type) -> the name of its copy in that type
    types: dict[str, int] = dict.fromkeys(floats, int(TensorProto.FLOAT))
    nodes: list[onnx.NodeProto] = []

    def in_type(name: str, kind: int) -> str:
        if types[name] == kind:
            return name
        if (name, kind) not in twins:
            twins[name, kind] = twin = f"{name}_{low if kind == half_type else 'fp32'}"
            if name in weights:
                graph.initializer.append(_to_half(weights[name], twin, report))
            else:
                nodes.append(helper.make_node("Cast", [name], [twin], name=f"cast_{twin}", to=kind))
                report.casts += 1
        return twins[name, kind]

    for index, node in enumerate(graph.node):
        if node.op_type in _BLIND:
            nodes.append(node)
            continue
        kind = half_type if index in half else TensorProto.FLOAT
        for position, name in enumerate(node.input):
            if name in floats:
                fixed = position in _ALWAYS_FLOAT.get(node.op_type, ())
                node.input[position] = in_type(name, TensorProto.FLOAT if fixed else kind)
        nodes.append(node)
        if index not in half:
            continue
        for position, name in enumerate(node.output):
            if name in outputs and name in floats:
                node.output[position] = inner = f"{name}_{low}"
                twins[name, half_type] = inner
                nodes.append(helper.make_node("Cast", [inner], [name], name=f"cast_{name}", to=TensorProto.FLOAT))
                report.casts += 1
            elif name in floats:
                types[name] = half_type

    used = {name for node in nodes for name in node.input}
    kept_weights = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept_weights)
    return report


def _float_values(model: ModelProto) -> set[str]:
    """Return the names of all float32 values: inputs, initialisers and outputs of nodes."""
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    computed = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return computed | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


def examined(graph: GraphProto, largest: Mapping[str, float], report: CastReport) -> list[str]:
    """Enter the largest values into the report; return the nodes that may exceed the range."""
    reach = {
        node.name: max((largest[name] for name in [*node.input, *node.output] if name in largest), default=0.0)
        for node in graph.node
        if node.op_type not in _QDQ
    }
    ranked = sorted(reach.items(), key=lambda item: -item[1])
    report.largest = {name: value for name, value in ranked[:_NAMED] if value}
    report.overflowing = {name: value for name, value in ranked if value > HEADROOM * LOW[report.low][1]}
    return list(report.overflowing)


def _half_nodes(graph: GraphProto, floats: set[str], ops: set[str], names: set[str], report: CastReport) -> set[int]:
    behind: set[str] = set()  # outputs of layers with weights, and all values after them
    half: set[int] = set()
    for index, node in enumerate(graph.node):
        started = node.op_type in _WEIGHTED or not behind.isdisjoint(node.input)
        if started:
            behind.update(node.output)
        if node.op_type in _TYPED | _QDQ or floats.isdisjoint([*node.input, *node.output]):
            continue
        if started and node.op_type not in ops and node.name not in names:
            half.add(index)
        else:
            report.float_nodes.append(node.name or node.op_type)
    report.half_nodes = len(half)
    return half | _half_pairs(graph, half)


def _half_pairs(graph: GraphProto, half: set[int]) -> set[int]:
    """Return the Q and DQ nodes of half type: Q follows its input, DQ one of its readers, and no cast parts them."""
    computed = {name for index in half for name in graph.node[index].output}
    halves = {graph.node[index].output[0] for index in half}
    read = consumers(graph)
    return {
        index
        for index, node in enumerate(graph.node)
        if (node.op_type == "QuantizeLinear" and node.input[0] in computed)
        or (
            node.op_type == "DequantizeLinear"
            and any(reader.output[0] in halves for reader in read.get(node.output[0], ()))
        )
    }


def _to_half(tensor: TensorProto, name: str, report: CastReport) -> TensorProto:
    kind, largest = LOW[report.low]
    values = numpy_helper.to_array(tensor)
    beyond = int((np.isfinite(values) & (np.abs(values) > largest)).sum())
    if beyond:
        report.clamped[tensor.name] = beyond
        values = np.where(np.isfinite(values), np.clip(values, -largest, largest), values)
    half = values.astype(helper.tensor_dtype_to_np_dtype(kind))
    report.flushed += int(((values != 0) & (half == 0)).sum())
    report.initializers += 1
    return helper.make_tensor(name, kind, list(values.shape), half.tobytes(), raw=True)
