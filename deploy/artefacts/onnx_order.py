"""What ONNX Runtime puts up with and others refuse, put right: nodes out of order, outputs without a shape."""

from graphlib import CycleError, TopologicalSorter

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto, shape_inference


def put_right(model: ModelProto) -> bool:
    """Sort the nodes of every graph in place, and give outputs the shapes that follow; tell whether anything changed.

    An output whose shape does not follow is left without dimensions. A graph with a circle stays as it is.
    """
    sorted_here = _sort(model.graph)
    shapeless = [value for value in model.graph.output if not value.type.tensor_type.HasField("shape")]
    if shapeless:
        known = {value.name: value for value in _inferred(model)}
        for value in shapeless:
            if value.name in known:
                value.CopyFrom(known[value.name])
            value.type.tensor_type.shape.SetInParent()
    return sorted_here or bool(shapeless)


def _inferred(model: ModelProto) -> list[ValueInfoProto]:
    try:
        return list(shape_inference.infer_shapes(model).graph.output)
    except shape_inference.InferenceError:
        return []


def _sort(graph: GraphProto) -> bool:
    inner = [_sort(each) for node in graph.node for each in _graphs(node)]
    changed = any(inner)
    makers = {name: at for at, node in enumerate(graph.node) for name in node.output if name}
    reads = {at: {makers[name] for name in _read(node) if name in makers} for at, node in enumerate(graph.node)}
    if all(before < at for at, needed in reads.items() for before in needed):
        return changed
    try:
        order = list(TopologicalSorter(reads).static_order())
    except CycleError:
        return changed
    nodes = [graph.node[at] for at in order]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return True


def _graphs(node: NodeProto) -> list[GraphProto]:
    return [
        graph
        for each in node.attribute
        for graph in (*([each.g] if each.type == AttributeProto.GRAPH else []), *each.graphs)
    ]


def _read(node: NodeProto) -> list[str]:
    """Name the values that a node reads, those of graphs within it included."""
    return [*node.input, *(name for graph in _graphs(node) for each in graph.node for name in _read(each))]
