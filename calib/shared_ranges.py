"""One scale for what is one tensor to a kernel: all that is concatenated, both sides of a pooling or a resize."""

from collections.abc import Iterable, Mapping

from onnx import NodeProto

Range = tuple[float, float]


def shared_ranges(
    nodes: Iterable[NodeProto], ranges: Mapping[str, Range], trained: Mapping[str, Range]
) -> dict[str, Range]:
    """Give one range to all tensors that a node joins: the widest, or the one that the network was trained with.

    What is rounded before a concatenation with the scale of the one behind it comes out as if it were rounded behind
    it alone, which is what training rounds.

    Args:
        nodes: concatenations, which join all their inputs and their output, and nodes that join their first input.
        ranges: of the tensors that are rounded; others are passed over.
        trained: of the tensors that a network was trained with; they keep theirs.
    """
    parent = {name: name for name in ranges}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for node in nodes:
        joined = [*(node.input if node.op_type == "Concat" else node.input[:1]), node.output[0]]
        first, *others = [name for name in joined if name in parent] or [""]
        for name in others:
            parent[root(name)] = root(first)

    fixed = {root(name) for name in trained if name in parent}
    union: dict[str, Range] = {}
    for name in ranges:
        if root(name) in fixed and name not in trained:
            continue
        own, (low, high) = trained.get(name, ranges[name]), union.get(root(name), (0.0, 0.0))
        union[root(name)] = min(low, own[0]), max(high, own[1])
    return {name: trained.get(name, union[root(name)]) for name in ranges}
