"""The structure of an ONNX graph: its layers, its activations, its classifier, its normalisation, its blocks."""

import json
from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator

from ..deploy.artefacts.onnx_arithmetic import FACTORS, flat, multiply_adds, pooling, stored_tensors
from ..deploy.artefacts.onnx_order import put_right
from ..distill.errors import ExportError, UsageError, closest, one_line

#: what moves the numbers of a weight and does not change them: done once, here, it is a weight like any other
_MOVING = ("Constant", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze")
#: the first opset in which a weight has a scale for each channel
PER_CHANNEL = 13


def load_named(path: str, opset: int = 0) -> ModelProto:
    """Read a file, sort its nodes, infer its shapes and name the nodes that have no name.

    Args:
        path: the file.
        opset: the least one, which a file of an older one is raised to.

    Raises:
        ExportError: ONNX cannot raise it.
    """
    model = flat(onnx.load(path))
    put_right(model)
    model = folded(raised(model, opset))
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
    return model


def raised(model: ModelProto, opset: int) -> ModelProto:
    """Return a model in an opset, or as it is where it has a newer one.

    Raises:
        ExportError: ONNX cannot raise it.
    """
    own = opset_of(model)
    if own >= opset:
        return model
    try:
        return version_converter.convert_version(model, opset)
    except (RuntimeError, version_converter.ConvertError) as error:
        raise ExportError(
            f"the file is of opset {own}, this needs {opset}, which ONNX cannot turn it into ({one_line(error)}); "
            "export it again with a newer opset"
        ) from error


def opset_of(model: ModelProto) -> int:
    """Return the opset of a model."""
    return next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))


def folded(model: ModelProto) -> ModelProto:
    """Store what only moves numbers that are stored, in place: weights then stand where their layers read them."""
    graph, nodes = model.graph, []
    stored = {tensor.name: tensor for tensor in graph.initializer}
    made = {value.name for value in graph.output}
    for node in graph.node:
        given = [name for name in node.input if name]
        if node.op_type not in _MOVING or not stored.keys() >= set(given) or not made.isdisjoint(node.output):
            nodes.append(node)
            continue
        values = {name: numpy_helper.to_array(stored[name]) for name in given}
        (value,) = ReferenceEvaluator(node).run(None, values)
        stored[node.output[0]] = numpy_helper.from_array(np.asarray(value), node.output[0])

    used = {name for node in nodes for name in node.input} | made
    within = any(attribute.HasField("g") for node in nodes for attribute in node.attribute)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensor for name, tensor in stored.items() if within or name in used)
    return model


def layers(graph: GraphProto) -> dict[str, int]:
    """Return the layers with weights: the name of a node, and which axis of its weights are its output channels.

    A matrix that averages is a pooling and none, and a product of two activations has no weights.
    """
    stored, fixed = {tensor.name: tensor for tensor in graph.initializer}, pooling(graph)
    found: dict[str, int] = {}
    for node in graph.node:
        weight = stored.get(node.input[1]) if len(node.input) > 1 else None
        if weight is None or node.output[0] in fixed:
            continue
        facts = {each.name: each.i for each in node.attribute}
        whole = node.op_type == "ConvTranspose" and facts.get("group", 1) == 1
        if node.op_type == "Conv":
            found[node.name] = 0
        elif whole or (node.op_type == "MatMul" and len(weight.dims) == 2):
            found[node.name] = 1
        elif node.op_type == "Gemm" and not facts.get("transA", 0):
            found[node.name] = 0 if facts.get("transB", 0) else 1
    return found


def products(graph: GraphProto) -> set[str]:
    """Name all nodes that multiply, with weights or without, but for poolings."""
    fixed = pooling(graph)
    return {node.name for node in graph.node if node.op_type in FACTORS and node.output[0] not in fixed}


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
    """Name the classifier, which is the last product, and all nodes after it.

    A classifier with half of all multiply-adds or more is the network itself, and only what follows it is named.
    """
    maker, image = makers(graph), _behind(graph, graph.input[0].name)
    kinds = products(graph)
    node = maker.get(graph.output[0].name)
    while node is not None and node.name not in kinds:
        node = next((maker[name] for name in node.input if name in image and name in maker), None)
    if node is None:
        return []

    counts = multiply_adds(graph, free=1)
    own, whole = counts.get(node.output[0]) or 0, sum(count or 0 for count in counts.values())
    behind = set(node.output)
    names = [] if 2 * own >= whole > 0 else [node.name]
    for other in graph.node:
        if behind.intersection(other.input):
            names.append(other.name)
            behind.update(other.output)
    return names


def _behind(graph: GraphProto, value: str) -> set[str]:
    """Return a value and all that are computed from it."""
    behind = {value}
    for node in graph.node:
        if not behind.isdisjoint(node.input):
            behind.update(node.output)
    return behind


def before_network(graph: GraphProto) -> list[str]:
    """Name the nodes before the first product: the normalisation of a uint8 input."""
    kinds = products(graph)
    behind: set[str] = set()
    names = []
    for node in graph.node:
        if node.name in kinds or behind.intersection(node.input):
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
    weighted, found = layers(graph), _weights(graph)
    left_out = {*tail(graph), *before_network(graph)}
    group_of: dict[str, str] = {}
    members: dict[str, list[str]] = {}
    for node in graph.node:
        if node.name in weighted:
            group = _block(found[node.name])
        else:
            group = next((group_of[name] for name in node.input if name in group_of), "")
        if not group:
            continue
        group_of.update(dict.fromkeys(node.output, group))
        if node.name not in left_out:
            members.setdefault(group, []).append(node.name)
    return members


def _weights(graph: GraphProto) -> dict[str, str]:
    """Return the name of each layer's weights; where they have none of a module, that of the bias added, or the node's.

    An exporter that turns the weights of a linear layer gives them a name of its own.
    """
    stored, read = stored_tensors(graph), consumers(graph)
    found: dict[str, str] = {}
    for node in graph.node:
        added = [other for other in read.get(node.output[0], ()) if other.op_type == "Add"]
        names = [*node.input[1:3], *(name for other in added for name in other.input)]
        path = node.name.strip("/").replace("/", ".")
        found[node.name] = next((name for name in names if name in stored and "." in name), path)
    return found


def _block(weight: str) -> str:
    """Cut a weight's name after its first run of numbers; without numbers return the name of the layer."""
    parts = weight.removeprefix("model.").removesuffix(".weight").removesuffix(".bias").split(".")
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
    weighted = layers(graph)
    return {
        node.input[1].removeprefix("model.").removesuffix(".weight"): (node.input[0], node.name)
        for node in graph.node
        if node.name in weighted and node.input[1].endswith(".weight")
    }


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
