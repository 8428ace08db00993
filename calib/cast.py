"""From a float32 ONNX file to a float16 one: the casts stand in the graph, as strongly typed TensorRT wants them."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper, shape_inference

from ..distill.errors import ExportError, WeightsError, closest
from ..distill.run import replacing

#: sums over thousands of pixels, which overflow or lose their last digits in float16
BLOCKED = frozenset({"ReduceMean", "ReduceSum", "GlobalAveragePool"})
#: what defines its own types, so that nothing is gained or something breaks by casting around it
_TYPED = frozenset(
    {"Cast", "Constant", "ConstantOfShape", "Shape", "Size", "Range", "RandomNormal", "RandomUniform", "EyeLike"}
)
#: what reads the shape of a value and not its type
_BLIND = frozenset({"Shape", "Size"})
#: layers with weights: what stands before the first of them prepares the image and stays in float32
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: inputs that the operator's definition wants in float32, by position
_ALWAYS_FLOAT = {"Resize": (1, 2)}
#: the largest finite float16
LARGEST = float(np.finfo(np.float16).max)


@dataclass
class CastReport:
    """What ``cast_fp16`` did."""

    #: nodes computed in float16, and the names of floating-point nodes that were not
    half_nodes: int = 0
    float_nodes: list[str] = field(default_factory=list)
    initializers: int = 0
    casts: int = 0
    #: initialiser -> how many of its values lay beyond the float16 range and were set to its end
    clamped: dict[str, int] = field(default_factory=dict)
    #: values that became zero, over all initialisers
    flushed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    def line(self) -> str:
        """Say it in one line."""
        text = f"{self.half_nodes} nodes in float16, {len(self.float_nodes)} in float32, {self.casts} casts"
        if self.clamped:
            worst = ", ".join(f"{name} ({count})" for name, count in list(self.clamped.items())[:3])
            text += f"; CLAMPED to {LARGEST:.0f} in {len(self.clamped)} initialisers: {worst}"
        return text


def cast_fp16(
    source: Path, target: Path, *, block_ops: Collection[str] = BLOCKED, block_nodes: Collection[str] = ()
) -> CastReport:
    """Write a float16 twin of an ONNX file; inputs, outputs and metadata stay as they are.

    Args:
        source: a float32 file, weights inside.
        target: where the twin goes, atomically.
        block_ops: operator types that stay in float32.
        block_nodes: names of nodes that stay in float32.

    Raises:
        WeightsError: ``source`` cannot be read.
        ExportError: it has control flow, or the cast graph does not pass ONNX's checker.
    """
    try:
        model = onnx.load(source)
    except (OSError, DecodeError) as error:
        raise WeightsError(f"{source} is not a readable ONNX file ({error})") from error
    report = cast_model(model, block_ops=block_ops, block_nodes=block_nodes)
    helper.set_model_props(model, {prop.key: prop.value for prop in model.metadata_props} | {"kdc.precision": '"fp16"'})
    try:
        model = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise ExportError(f"the float16 form of {source} is no valid ONNX: {str(error).splitlines()[0]}") from error
    with replacing(target) as beside:
        onnx.save(model, beside)
    return report


def cast_model(
    model: ModelProto, *, block_ops: Collection[str] = BLOCKED, block_nodes: Collection[str] = ()
) -> CastReport:
    """Do the work of ``cast_fp16`` in place; shapes of inner values are dropped, to be inferred anew."""
    graph = model.graph
    if any(
        a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for node in graph.node for a in node.attribute
    ):
        raise ExportError(
            "the graph holds control flow (If or Loop), which the float16 cast does not follow; export it without"
        )
    for name in set(block_nodes) - {node.name for node in graph.node}:
        raise ExportError(f"no node named {name!r} in the graph{closest(name, [node.name for node in graph.node])}")
    floats = _float_values(model)
    report = CastReport()
    half = _half_nodes(graph, floats, set(block_ops), set(block_nodes), report)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    made: dict[tuple[str, int], str] = {}  # (value, type) -> the name under which it exists in that type
    types: dict[str, int] = dict.fromkeys(floats, int(TensorProto.FLOAT))
    nodes: list[onnx.NodeProto] = []

    def in_type(name: str, wanted: int) -> str:
        if types[name] == wanted:
            return name
        if (name, wanted) not in made:
            made[name, wanted] = twin = f"{name}_{'fp16' if wanted == TensorProto.FLOAT16 else 'fp32'}"
            if name in weights:
                graph.initializer.append(_to_half(weights[name], twin, report))
            else:
                nodes.append(helper.make_node("Cast", [name], [twin], name=f"cast_{twin}", to=wanted))
                report.casts += 1
        return made[name, wanted]

    for index, node in enumerate(graph.node):
        if node.op_type in _BLIND:
            nodes.append(node)
            continue
        wanted = TensorProto.FLOAT16 if index in half else TensorProto.FLOAT
        for position, name in enumerate(node.input):
            if name in floats:
                kept = position in _ALWAYS_FLOAT.get(node.op_type, ())
                node.input[position] = in_type(name, TensorProto.FLOAT if kept else wanted)
        nodes.append(node)
        if index not in half:
            continue
        for position, name in enumerate(node.output):
            if name in outputs and name in floats:
                node.output[position] = inner = f"{name}_fp16"
                made[name, TensorProto.FLOAT16] = inner
                nodes.append(helper.make_node("Cast", [inner], [name], name=f"cast_{name}", to=TensorProto.FLOAT))
                report.casts += 1
            else:
                types[name] = TensorProto.FLOAT16
    used = {name for node in nodes for name in node.input}
    kept_weights = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept_weights)
    return report


def _float_values(model: ModelProto) -> set[str]:
    """Return the names of all float32 values: inputs, initialisers and what nodes make."""
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    found = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return found | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


def _half_nodes(graph: GraphProto, floats: set[str], ops: set[str], names: set[str], report: CastReport) -> set[int]:
    behind: set[str] = set()  # values that come out of, or after, a layer with weights
    half: set[int] = set()
    for index, node in enumerate(graph.node):
        started = node.op_type in _WEIGHTED or not behind.isdisjoint(node.input)
        if started:
            behind.update(node.output)
        if node.op_type in _TYPED or floats.isdisjoint([*node.input, *node.output]):
            continue
        if started and node.op_type not in ops and node.name not in names:
            half.add(index)
        else:
            report.float_nodes.append(node.name or node.op_type)
    report.half_nodes = len(half)
    return half


def _to_half(tensor: TensorProto, name: str, report: CastReport) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    beyond = int((np.isfinite(values) & (np.abs(values) > LARGEST)).sum())
    if beyond:
        report.clamped[tensor.name] = beyond
        values = np.where(np.isfinite(values), np.clip(values, -LARGEST, LARGEST), values)
    half = values.astype(np.float16)
    report.flushed += int(((values != 0) & (half == 0)).sum())
    report.initializers += 1
    return numpy_helper.from_array(half, name)
