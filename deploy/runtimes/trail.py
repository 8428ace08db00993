"""What the nodes before an output and after an input say of them: logits, probabilities or labels, and the class axis.

Nothing is run: a node is followed back (or on) for as long as it is known what it does to values and axes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, helper, numpy_helper

#: operators that leave the meaning of values as it is; their first input is followed
_PASS = (
    "Cast",
    "Identity",
    "Dropout",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Expand",
    "Transpose",
    "Resize",
    "Upsample",
    "Slice",
    "Gather",
    "Pad",
    "Tile",
    "QuantizeLinear",
    "DequantizeLinear",
    "DepthToSpace",
    "Split",
)
#: operators that may turn logits into something else, and let labels be labels
_SCALE = ("Mul", "Div")
#: operators that join values of a kind
_JOIN = ("Add", "Sub", "Sum", "Mean", "Max", "Concat")
_LABELS = (
    "ArgMax",
    "TopK",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Equal",
    "And",
    "Or",
    "Not",
    "Xor",
    "Round",
)
_PROBABILITIES = ("Softmax", "Sigmoid", "HardSigmoid", "QLinearSigmoid", "QLinearSoftmax")
#: layers: their output may be any number
_LAYERS = (
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "BatchNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "QLinearConv",
    "ConvInteger",
    "FusedConv",
    "LogSoftmax",
    "Tanh",
    "AveragePool",
    "Einsum",
)
#: layers that have the channels on their second axis
_CHANNELS_SECOND = (
    "Conv",
    "ConvTranspose",
    "BatchNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "AveragePool",
    "MaxPool",
    "DepthToSpace",
    "QLinearConv",
    "ConvInteger",
    "FusedConv",
)
#: what may stand between the image and the first layer
_BEFORE = ("Cast", "Identity", *_SCALE, *_JOIN, "QuantizeLinear", "DequantizeLinear", "Pad", "Clip", "Neg")


@dataclass(frozen=True)
class Trail:
    """What is known of an output.

    Attributes:
        scores: "logits", "probs" or "labels"; empty where the nodes do not say.
        end: the operator that told, for people; empty where none did.
        axis: of its channels; None where that is not known.
        classes: how many classes labels stand for; None where that is not known.
        threshold: the labels come from a comparison: what is not 0 is 1.
        through: the values that it was made from, as far as it was followed.
    """

    scores: str = ""
    end: str = ""
    axis: int | None = None
    classes: int | None = None
    threshold: bool = False
    through: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True)
class Nodes:
    """The nodes of a graph, the shapes of what is stored in it and of its values, and its small constants."""

    makers: Mapping[str, NodeProto]
    readers: Mapping[str, list[NodeProto]]
    stored: Mapping[str, tuple[int, ...]]
    shapes: Mapping[str, tuple[int | None, ...]]
    constants: Mapping[str, list[int]]

    @classmethod
    def of(cls, graph: GraphProto) -> "Nodes":
        """Take those of an ONNX graph."""
        shapes: dict[str, tuple[int | None, ...]] = {}
        for value in (*graph.value_info, *graph.output, *graph.input):
            if value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                shapes[value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
        stored = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        small = [tensor for tensor in graph.initializer if tensor.data_type == 7 and np.prod(tensor.dims) <= 8]
        constants = {t.name: numpy_helper.to_array(t).ravel().tolist() for t in small if not t.external_data}
        for node in graph.node:
            if node.op_type == "Constant" and (tensor := _attribute(node, "value")) is not None:
                stored[node.output[0]] = tuple(tensor.dims)
                if tensor.data_type == 7 and np.prod(tensor.dims) <= 8:
                    constants[node.output[0]] = numpy_helper.to_array(tensor).ravel().tolist()
            elif node.op_type == "Constant":
                stored[node.output[0]] = ()
        return cls.linked(graph.node, stored, shapes, constants)

    @classmethod
    def linked(
        cls,
        nodes: Iterable[NodeProto],
        stored: Mapping[str, tuple[int, ...]],
        shapes: Mapping[str, tuple[int | None, ...]],
        constants: Mapping[str, list[int]],
    ) -> "Nodes":
        """Link nodes by the names of their values."""
        makers, readers = {}, {}
        for node in nodes:
            makers |= dict.fromkeys(node.output, node)
            for name in dict.fromkeys(node.input):
                readers.setdefault(name, []).append(node)
        return cls(makers, readers, stored, shapes, constants)

    def source(self, node: NodeProto) -> str:
        """Return the input of a node that is computed; empty where none is."""
        return next((name for name in node.input if name and name not in self.stored), "")

    def trail(self, output: str) -> Trail:
        """Follow an output back."""
        name, rank = output, len(self.shapes.get(output, ()))
        axes: list[int | None] | None = list(range(rank)) if rank else None
        scores, end, axis, classes, changed, threshold = "", "", None, None, False, False
        through: set[str] = set()
        while (node := self.makers.get(name)) is not None and name not in through:
            through.add(name)
            kind = node.op_type
            if not end:
                chosen = kind == "Where" and {*node.input[1:]} <= self.stored.keys()
                scores, end = ("labels", kind) if chosen else _meaning(kind, changed)
                threshold = scores == "labels" and kind not in ("ArgMax", "TopK")
                if scores == "labels" and not threshold:
                    classes = self._classes(node)
                changed |= kind in (*_SCALE, *_JOIN)
            if kind in _CHANNELS_SECOND and axes is not None and len(axes) > 1:
                axis = axes[1]
                axes = None
            axes = self._before(node, axes)
            name = self.source(node)
        return Trail(scores, end, axis, classes, threshold, frozenset(through))

    def _before(self, node: NodeProto, axes: list[int | None] | None) -> list[int | None] | None:
        """Return which axis of the output each axis of the node's input became; None where that is not known."""
        kind = node.op_type
        if axes is None or kind in ("Reshape", "Flatten", "Gather", "Gemm", "MatMul", "Einsum", "Expand", "Constant"):
            return None
        if kind == "Transpose":
            order = _attribute(node, "perm") or list(range(len(axes)))[::-1]
            before: list[int | None] = [None] * len(axes)
            for to, origin in enumerate(order):
                before[origin] = axes[to]
            return before
        if kind in ("Squeeze", "Unsqueeze"):
            named = _attribute(node, "axes") or (self.constants.get(node.input[1]) if len(node.input) > 1 else None)
            if not named:
                return None
            if kind == "Squeeze":
                rank = len(axes) + len(named)
                taken = {at % rank for at in named}
                rest = iter(axes)
                return [None if at in taken else next(rest) for at in range(rank)]
            taken = {at % len(axes) for at in named}
            return [each for at, each in enumerate(axes) if at not in taken]
        if kind == "ArgMax" and not _attribute(node, "keepdims", 1):
            at = _attribute(node, "axis", 0) % (len(axes) + 1)
            return [*axes[:at], None, *axes[at:]]
        return axes

    def _classes(self, node: NodeProto) -> int | None:
        """Return how many classes an ArgMax chooses from."""
        name, at = self.source(node), int(_attribute(node, "axis", 0 if node.op_type == "ArgMax" else -1))
        while True:
            shape = self.shapes.get(name, ())
            if -len(shape) <= at < len(shape) and (count := shape[at]):
                return count
            maker = self.makers.get(name)
            if maker is None:
                return None
            if maker.op_type in ("Conv", "ConvTranspose") and at in (1, -3):
                weight = self.weight(maker)
                if len(weight) < 2:
                    return None
                return weight[0] if maker.op_type == "Conv" else weight[1] * int(_attribute(maker, "group", 1))
            if maker.op_type == "Transpose":
                at = (_attribute(maker, "perm") or [])[at]
            elif maker.op_type not in ("Resize", "Cast", "Identity", "Add", *_SCALE, *_PROBABILITIES):
                return None
            name = self.source(maker)

    def weight(self, node: NodeProto) -> tuple[int, ...]:
        """Return the shape of a layer's weight; empty where it is not stored."""
        name = node.input[1] if len(node.input) > 1 else ""
        while name not in self.stored and name in self.makers and self.makers[name].op_type in (*_PASS, "Mul"):
            name = self.makers[name].input[0]
        return self.stored.get(name, ())

    def image_axis(self, image: str, rank: int = 4) -> int | None:
        """Return the axis of an input of ``rank`` on which its first layer has the colours; None where none says."""
        axes: list[int] = list(range(rank))
        name = image
        for _ in range(20):
            nodes = self.readers.get(name, [])
            layers = [node for node in nodes if node.op_type in ("Conv", "Transpose", *_BEFORE)]
            if not layers:
                return None
            node = layers[0]
            if node.op_type == "Conv":
                return axes[1] if rank > 1 else None
            if node.op_type == "Transpose":
                axes = [axes[at] for at in _attribute(node, "perm") or list(range(rank))[::-1]]
            name = node.output[0]
        return None


def _meaning(kind: str, changed: bool) -> tuple[str, str]:
    """Return what an operator says of the values after it, and its name where it ends the search."""
    if kind in _LABELS:
        return "labels", kind
    if kind in _PROBABILITIES:
        return "" if changed else "probs", kind
    if kind in _LAYERS:
        return "logits", kind
    if kind in (*_PASS, *_SCALE, *_JOIN):
        return "", ""
    return "", kind


def _attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of an attribute."""
    for each in node.attribute:
        if each.name == name:
            return helper.get_attribute_value(each)
    return default
