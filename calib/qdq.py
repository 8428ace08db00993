"""Explicit Q/DQ pairs for TensorRT: INT8 and FP8, symmetric, weights per output channel, activations per tensor.

The scheme is that of Wu et al., "Integer quantization for deep learning inference" (arXiv:2004.09602); the places are
those of NVIDIA's page "Working with Quantized Types": in front of convolutions and of products with weights, on one
branch of a residual sum, with one scale for all that is concatenated, in front of pooling and resizing, never between a
convolution and its activation. Products of two activations stay high: TensorRT fuses attention so.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ..distill.run.records import Record
from ..distill.training.fake_quantise import TOP
from ..distill.units import file_size
from .onnx_graph import PER_CHANNEL, before_network, consumers, layers, makers, products, tail
from .shared_ranges import shared_ranges

#: operators that pass quantised values on or reduce them; FP8 has no such kernels
_PASSING = ("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Resize")
#: operators that keep the range or narrow it a little: with one scale on both sides they cost nothing
_SAME_RANGE = ("Concat", "MaxPool", "Resize")
#: the smallest scale: a normal float16 number, the type of scales in a half graph; else far below any real scale
_FLOOR = {"fp16": 2.0**-14, "fp32": 2.0**-60}
#: the first opset with 8-bit floats, and with scales in float16
OPSET = 19


@dataclass(frozen=True)
class Quantised(Record):
    """Which part of a graph is quantised, and how."""

    precision: str
    target: str
    calibrator: str
    images: int
    #: nodes that multiply: convolutions, matrix products, attention
    products: int
    quantised_products: int
    #: of the multiply-adds
    share: float
    quantize_nodes: int
    dequantize_nodes: int
    #: type in which the other nodes compute
    high: str = "fp32"
    #: all products that are not quantised, and other nodes left high on purpose: those of --keep, and the last ones
    left_high: list[str] = field(default_factory=list)
    bytes_before: int = 0
    bytes_after: int = 0
    #: weights use 7 bits, because this CPU's 8-bit products would saturate
    reduced_range: bool = False

    def line(self) -> str:
        """Summarise it in one line."""
        sizes = f"{file_size(self.bytes_before)} -> {file_size(self.bytes_after)}"
        bits = ", 7-bit weights (no VNNI here)" if self.reduced_range else ""
        return (
            f"{self.quantised_products} of {self.products} convolutions and matrix products, {self.share:.0%} of the "
            f"multiply-adds, in {self.precision.upper()} from {self.images} images ({self.calibrator}){bits}, {sizes}; "
            f"left in {self.high}: {', '.join(self.left_high) or 'none'}"
        )


def inspect(graph: GraphProto, work: Mapping[str, int]) -> Quantised:
    """Count the quantised parts of a graph: a product is one if both its factors come from a DQ.

    Args:
        graph: with Q/DQ pairs.
        work: the multiply-adds of each product, by the name of its node.
    """
    origins = {name: node.op_type for node in graph.node for name in node.output}
    low = [
        node.name
        for node in graph.node
        if node.name in work and all(origins.get(name) == "DequantizeLinear" for name in node.input[:2])
    ]
    kinds = [node.op_type for node in graph.node]
    pairs = kinds.count("QuantizeLinear"), kinds.count("DequantizeLinear")
    high = [name for name in work if name not in low]
    return Quantised("", "", "", 0, len(work), len(low), share_of(low, work), *pairs, left_high=high)


def share_of(low: Iterable[str], work: Mapping[str, int]) -> float:
    """Return the share of the multiply-adds that some products have; all of none is all."""
    whole = sum(work.values())
    return sum(work[name] for name in low) / whole if whole else 1.0


def place(
    model: ModelProto,
    ranges: Mapping[str, tuple[float, float]],
    *,
    grid: str = "s8",
    keep: Sequence[str] = (),
    high: str = "fp32",
    trained: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Put Q/DQ pairs into a float32 graph, in place.

    Args:
        model: every node named, of ``least_opset``.
        ranges: of the graph's activations.
        grid: "s8" or "e4m3".
        keep: names of nodes whose inputs stay high; those of the classifier and of the normalisation always do.
        high: "fp32" or "fp16", to which the rest will be cast: the scales are exact in it.
        trained: the ranges with which the network was trained, see ``shared_ranges``.
    """
    # which inputs, by which scales
    graph, axes = model.graph, layers(model.graph)
    left_out = {*keep, *tail(graph), *before_network(graph)}
    quantised = _quantised_inputs(graph, left_out, grid, set(ranges))
    joining = [
        node
        for node in graph.node
        if node.op_type in _SAME_RANGE and node.output[0] in quantised and node.name not in left_out
    ]
    shared = shared_ranges(joining, {name: ranges[name] for name in quantised}, trained or {})
    readers = {(node.output[0], position) for name in quantised for node, position in quantised[name]}

    # each pair behind the node that computes its tensor
    writer = _Writer(graph, grid, high)
    nodes: list[NodeProto] = []
    for name in [value.name for value in graph.input]:
        if name in quantised:
            nodes += writer.pair(name, shared[name])
    for node in graph.node:
        if node.name in axes and (node.output[0], 0) in readers:
            nodes += writer.weights(node, axes[node.name])
        for position, name in enumerate(node.input):
            if (node.output[0], position) in readers:
                node.input[position] = f"{name}_dequantized"
        nodes.append(node)
        for name in node.output:
            if name in quantised:
                nodes += writer.pair(name, shared[name])

    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)


Readers = dict[str, list[tuple[NodeProto, int]]]


def _quantised_inputs(graph: GraphProto, left_out: set[str], grid: str, known: set[str]) -> Readers:
    """Find which inputs are quantised: tensor -> (node, position) of its readers."""
    stored = {tensor.name for tensor in graph.initializer}
    maker, read = makers(graph), consumers(graph)
    depth, weighted = _depths(graph), layers(graph)
    inputs: Readers = {}

    def quantise(node: NodeProto, positions: Sequence[int]) -> None:
        for position in positions:
            if node.input[position] in known:
                inputs.setdefault(node.input[position], []).append((node, position))

    for node in reversed(graph.node):  # from the end, so that it is known whether an output is quantised
        if node.name in left_out:
            continue
        if node.name in weighted:
            quantise(node, [0])
        elif grid == "e4m3":
            continue
        elif node.op_type == "Add" and stored.isdisjoint(node.input):
            quantise(node, _other_branch(node, maker, read, depth, left_out))
        elif node.output[0] in inputs and (node.op_type == "Concat" or node.op_type in _PASSING):
            quantise(node, range(len(node.input)) if node.op_type == "Concat" else [0])
    return inputs


def _other_branch(
    node: NodeProto,
    maker: dict[str, NodeProto],
    read: dict[str, list[NodeProto]],
    depth: dict[str, int],
    left_out: set[str],
) -> list[int]:
    """Return the quantised input of a residual sum: not the convolution that the sum is fused with."""
    fused = [
        (depth[name], position)
        for position, name in enumerate(node.input)
        if name in maker and maker[name].op_type == "Conv" and len(read[name]) == 1 and maker[name].name not in left_out
    ]
    if not fused:
        return []
    main = max(fused)[1]  # of two convolutions the deeper: the other is the shortcut
    return [position for position in range(len(node.input)) if position != main]


def _depths(graph: GraphProto) -> dict[str, int]:
    """Count the products on the longest path from the input to each value."""
    depth: dict[str, int] = {}
    kinds = products(graph)
    for node in graph.node:
        before = max((depth.get(name, 0) for name in node.input), default=0)
        depth |= dict.fromkeys(node.output, before + (node.name in kinds))
    return depth


class _Writer:
    """Makes the nodes and initialisers of Q/DQ pairs."""

    def __init__(self, graph: GraphProto, grid: str, high: str) -> None:
        self._graph, self._grid, self._floor = graph, grid, _FLOOR[high]
        self._scale_type = np.float16 if high == "fp16" else np.float32
        self._kind = TensorProto.INT8 if grid == "s8" else TensorProto.FLOAT8E4M3FN
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        #: the axis of the scales of each weight, and the names that are written
        self._done: dict[str, int] = {}
        self._written: set[str] = set()

    def pair(self, name: str, kept: tuple[float, float]) -> list[NodeProto]:
        """Return Q and DQ of an activation."""
        scale = self._scales(f"{name}_scale", np.float64(max(-kept[0], kept[1])))
        zero = self._zeros(f"{name}_zero", ())
        inner, outer = f"{name}_quantized", f"{name}_dequantized"
        return [
            helper.make_node("QuantizeLinear", [name, scale[0], zero], [inner], name=f"quantize_{name}"),
            helper.make_node("DequantizeLinear", [inner, scale[0], zero], [outer], name=f"dequantize_{name}"),
        ]

    def weights(self, node: NodeProto, axis: int) -> list[NodeProto]:
        """Quantise the weights of a layer, once where several share them; return their DQ.

        ``axis`` is that of the output channels, which have a scale each.
        """
        source = node.input[1]
        name = source if self._done.setdefault(source, axis) == axis else f"{source}_of_axis_{axis}"
        node.input[1] = f"{name}_dequantized"
        if name in self._written:
            return []
        self._written.add(name)

        values = numpy_helper.to_array(self._stored[source]).astype(np.float64)
        channels = [-1 if i == axis else 1 for i in range(values.ndim)]
        amax = np.abs(values).max(tuple(i for i in range(values.ndim) if i != axis))
        scale, steps = self._scales(f"{name}_scale", amax)
        self._store(f"{name}_quantized", values / steps.reshape(channels))
        zero = self._zeros(f"{name}_zero", amax.shape)
        inputs = [f"{name}_quantized", scale, zero]
        return [
            helper.make_node("DequantizeLinear", inputs, [f"{name}_dequantized"], name=f"dequantize_{name}", axis=axis)
        ]

    def _scales(self, name: str, amax: np.ndarray | np.float64) -> tuple[str, np.ndarray]:
        steps = np.maximum(amax / TOP[self._grid], self._floor).astype(self._scale_type).astype(np.float32)
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(steps), name))
        return name, steps.astype(np.float64)

    def _zeros(self, name: str, shape: tuple[int, ...]) -> str:
        self._store(name, np.zeros(shape))
        return name

    def _store(self, name: str, levels: np.ndarray) -> None:
        top = TOP[self._grid]
        kept = np.clip(np.rint(levels) if self._grid == "s8" else levels, -top, top).astype(np.float32)
        values = kept.astype(helper.tensor_dtype_to_np_dtype(self._kind))
        self._graph.initializer.append(
            helper.make_tensor(name, self._kind, list(levels.shape), values.tobytes(), raw=True)
        )


def least_opset(grid: str | None, high: str) -> int:
    """Return the first opset that a graph can be quantised in; 0 where it is not by Q/DQ pairs."""
    return 0 if grid is None else OPSET if grid == "e4m3" or high == "fp16" else PER_CHANNEL


def precision_of(grid: str, high: str) -> str:
    """Name a quantised graph: "int8", "int8+fp16", "fp8", "fp8+fp16"."""
    return ("fp8" if grid == "e4m3" else "int8") + ("+fp16" if high == "fp16" else "")
