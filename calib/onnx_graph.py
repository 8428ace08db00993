"""The structure of an ONNX graph: its activations, its classifier, its normalisation, its blocks."""

import json
from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from ..deploy.artefacts.onnx_order import put_right
from ..distill.errors import ExportError, UsageError, closest

#: layers with weights
WEIGHTED = ("Conv", "ConvTranspose", "Gemm")


def load_named(path: str) -> ModelProto:
    """Read a file, sort its nodes, infer its shapes and name the nodes that have no name."""
    model = onnx.load(path)
    put_right(model)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
    return model


def makers(graph: GraphProto) -> dict[str, NodeProto]:
    """Return the node that computes each value."""
    return {name: node for node in graph.node for name in node.output}


def consumers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Return the nodes that read each value."""
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    return readers


def activations(graph: GraphProto) -> dict[str, int]:
    """Return the input and every float32 value computed from it, with its size in elements for a batch of 1."""
    values = {v.name: v.type.tensor_type for v in [*graph.input, *graph.value_info, *graph.output]}
    image = graph.input[0].name
    behind, sizes = {image}, {}
    if values[image].elem_type == TensorProto.FLOAT:
        sizes[image] = _elements(values[image])
    for node in graph.node:
        if node.op_type in ("Shape", "Size") or behind.isdisjoint(node.input):
            continue
        behind.update(node.output)
        for name in node.output:
            if name in values and values[name].elem_type == TensorProto.FLOAT:
                sizes[name] = _elements(values[name])
    return sizes


def _elements(kind: onnx.TypeProto.Tensor) -> int:
    return int(np.prod([d.dim_value or 1 for d in kind.shape.dim[1:]], dtype=np.int64))


def tail(graph: GraphProto) -> list[str]:
    """Name the classifier, which is the last layer with weights, and all nodes after it."""
    maker = makers(graph)
    node = maker.get(graph.output[0].name)
    while node is not None and node.op_type not in WEIGHTED:
        node = maker.get(node.input[0]) if node.input else None
    if node is None:
        return []
    names, behind = [node.name], set(node.output)
    for other in graph.node:
        if behind.intersection(other.input):
            names.append(other.name)
            behind.update(other.output)
    return names


def before_network(graph: GraphProto) -> list[str]:
    """Name the nodes before the first layer with weights: the normalisation of a uint8 input."""
    behind: set[str] = set()
    names = []
    for node in graph.node:
        if node.op_type in WEIGHTED or behind.intersection(node.input):
            behind.update(node.output)
        else:
            names.append(node.name)
    return names


def groups(graph: GraphProto) -> dict[str, list[str]]:
    """Divide the network into residual blocks, ASPP branches and decoder layers: group -> names of its nodes.

    A layer's group is read from the name of its weights, ``model.backbone.layer1.0.conv2.weight`` ->
    ``backbone.layer1.0``; a node without weights belongs to the layer before it. The classifier and the normalisation
    of the image belong to no group.
    """
    weights = {tensor.name for tensor in graph.initializer}
    left_out = {*tail(graph), *before_network(graph)}
    group_of: dict[str, str] = {}
    members: dict[str, list[str]] = {}
    for node in graph.node:
        weight = next((name for name in node.input[1:2] if name in weights), "")
        if node.op_type in WEIGHTED:
            group = _block(weight or node.name)
        else:
            group = next((group_of[name] for name in node.input if name in group_of), "")
        if not group:
            continue
        group_of.update(dict.fromkeys(node.output, group))
        if node.name not in left_out:
            members.setdefault(group, []).append(node.name)
    return members


def _block(weight: str) -> str:
    """Cut a weight's name after its first run of numbers; without numbers return the name of the layer."""
    parts = weight.removeprefix("model.").removesuffix(".weight").split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    if not numbers:
        return ".".join(parts)
    end = numbers[0]
    while end + 1 < len(parts) and parts[end + 1].isdigit():
        end += 1
    return ".".join(parts[: end + 1])


def resolve(graph: GraphProto, keep: Sequence[str]) -> list[str]:
    """Turn names of nodes and of groups into names of nodes.

    Raises:
        UsageError: a name is neither.
    """
    blocks, names = groups(graph), [node.name for node in graph.node]
    nodes: list[str] = []
    for name in keep:
        if name not in blocks and name not in names:
            raise UsageError(f"--keep {name}: no such node or group of the network{closest(name, [*blocks, *names])}")
        nodes += blocks.get(name, [name])
    return list(dict.fromkeys(nodes))


def inputs(graph: GraphProto) -> dict[str, tuple[str, str]]:
    """Return the input of each convolution, and the name of its node, by the layer that holds its weights.

    The exporter names weights by their layers: ``model.backbone.layer1.0.conv1.weight``.
    """
    weights = {tensor.name for tensor in graph.initializer}
    layers = {}
    for node in graph.node:
        if node.op_type in WEIGHTED and node.input[1] in weights and node.input[1].endswith(".weight"):
            layers[node.input[1].removeprefix("model.").removesuffix(".weight")] = node.input[0], node.name
    return layers


def short(names: Iterable[str], most: int = 3) -> str:
    """Join the first names for one line, and count the rest."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"


def finished(model: ModelProto, precision: str, left_high: Sequence[str] = ()) -> ModelProto:
    """Infer the shapes anew, check the graph and write its precision and the nodes left high into its metadata.

    Raises:
        ExportError: ONNX's checker refuses it.
    """
    del model.graph.value_info[:]
    properties = {prop.key: prop.value for prop in model.metadata_props} | {"kdc.precision": f'"{precision}"'}
    properties |= {"kdc.left_high": json.dumps(list(left_high))} if left_high else {}
    del model.metadata_props[:]
    helper.set_model_props(model, properties)
    try:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the {precision} form is no valid ONNX: {str(error).splitlines()[0]}") from error
    return model
