"""The arithmetic of an ONNX graph: the multiply-adds of every node, and which of its tensors are parameters.

Counted as torch's own counter does: convolutions, matrix products and attention; pooling, resizing and element-wise
work are not, in whatever form they are written.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, inliner, numpy_helper

#: value -> its size along each dimension; a KeyError where that is not known
Shape = Callable[[str], list[int]]

_CONVOLUTIONS = ("Conv", "ConvInteger", "FusedConv", "DeformConv")
_PRODUCTS = ("MatMul", "MatMulInteger", "FusedMatMul", "MatMulNBits", "DynamicQuantizeMatMul", "MatMulIntegerToFloat")
_RECURRENT = ("LSTM", "GRU", "RNN")
_OTHERS = ("ConvTranspose", "Gemm", "Einsum", "Attention", "MultiHeadAttention")
#: operator -> where its two factors stand among its inputs
FACTORS: dict[str, tuple[int, int]] = {
    **dict.fromkeys((*_CONVOLUTIONS, *_PRODUCTS, *_RECURRENT, *_OTHERS), (0, 1)),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), (0, 3)),
}

#: floating-point inputs that say how an operator works and are no parameters, by position
_SETTINGS: dict[str, tuple[int, ...]] = {
    "Resize": (1, 2),
    "Upsample": (1,),
    "Clip": (1, 2),
    "Pad": (2,),
    "Pow": (1,),
    "Dropout": (1,),
    "BatchNormalization": (3, 4),  # running statistics: buffers, not parameters
    "QuantizeLinear": (1,),
    "DequantizeLinear": (1,),
    "QLinearConv": (1, 4, 6),
    "QLinearMatMul": (1, 4, 6),
    "QGemm": (1, 4, 7),
    "DynamicQuantizeMatMul": (2,),
    "MatMulIntegerToFloat": (2, 3),
    "MatMulNBits": (2,),
}
#: integer inputs that are parameters all the same
_INTEGERS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("ConvInteger", *_PRODUCTS), (1,)),
    "DequantizeLinear": (0,),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (3,),
    "QGemm": (3, 6),
}
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
#: the most entries of a matrix that is examined for being a pooling
_EXAMINED = 1 << 22


def flat(model: ModelProto) -> ModelProto:
    """Return a model with the functions of its file put into its graph."""
    return inliner.inline_local_functions(model) if model.functions else model


def multiply_adds(graph: GraphProto, free: int = 0) -> dict[str, int | None]:
    """Return the multiply-adds of each node that has any, by its first output; None where a shape is not known.

    Args:
        graph: shapes inferred, without functions; the numbers are for all images of its batch.
        free: what a free dimension is taken for, where shares are enough; 0 leaves it unknown.
    """
    return _multiply_adds(graph, {}, free)


def _multiply_adds(graph: GraphProto, outside: dict[str, list[int]], free: int) -> dict[str, int | None]:
    known = outside | {name: list(tensor.dims) for name, tensor in stored_tensors(graph).items()}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        dims = [dim.dim_value or free for dim in kind.shape.dim]
        if kind.HasField("shape") and all(n > 0 for n in dims):
            known[value.name] = dims
    fixed = pooling(graph)

    counts: dict[str, int | None] = {}
    for node in graph.node:
        if node.op_type in FACTORS and node.output[0] not in fixed:
            try:
                counts[node.output[0]] = _of_node(node, known.__getitem__)
            except (KeyError, IndexError):
                counts[node.output[0]] = None
        for body in bodies(node):
            inner = _multiply_adds(body, known, free).values()
            # how often a loop runs is not known; of branches the dearest one counts
            whole = None if None in inner or node.op_type != "If" else sum(count or 0 for count in inner)
            before = counts.get(node.output[0], 0)
            if inner:
                counts[node.output[0]] = None if whole is None or before is None else max(before, whole)
    return counts


def _of_node(node: NodeProto, shape: Shape) -> int:
    """Return the multiply-adds of a node.

    Raises:
        KeyError: a shape is not known.
        IndexError: a shape is none that the operator takes.
    """
    kind, facts = node.op_type, {each.name: helper.get_attribute_value(each) for each in node.attribute}
    first, second = (node.input[at] for at in FACTORS[kind])
    if kind == "ConvTranspose":
        return math.prod(shape(first)) * math.prod(shape(second)[1:])
    if kind in (*_CONVOLUTIONS, "QLinearConv"):
        return math.prod(shape(node.output[0])) * math.prod(shape(second)[1:])
    if kind == "MatMulNBits":
        return math.prod(shape(first)) * facts["N"]
    if kind in _RECURRENT:
        return math.prod(shape(first)[:2]) * sum(math.prod(shape(name)) for name in node.input[1:3])
    if kind == "Einsum":
        return _of_einsum(facts["equation"].decode(), [shape(name) for name in node.input])
    if kind in ("Attention", "MultiHeadAttention"):
        return _of_attention(node, shape, facts)
    return math.prod(shape(node.output[0])) * shape(first)[-2 if facts.get("transA") else -1]


def _of_einsum(equation: str, shapes: list[list[int]]) -> int:
    """Multiply the factors one after the other: each time every index that one of the two has, once."""
    terms, _, made = equation.replace(" ", "").replace("...", ".").partition("->")
    sizes: dict[str, int] = {}
    for term, own in zip(terms.split(","), shapes, strict=True):
        dots = len(own) - len(term.replace(".", ""))
        letters = [f".{i}" for i in range(dots)] if "." in term else []
        at = term.find(".")
        names = list(term) if at < 0 else [*term[:at], *letters, *term[at + 1 :]]
        sizes |= {name: max(sizes.get(name, 1), n) for name, n in zip(names, own, strict=True)}
    sizes["."] = math.prod(n for name, n in sizes.items() if name[0] == ".")

    first, *others = terms.split(",")
    total, held = 0, set(first)
    for i, term in enumerate(others, 1):
        held |= set(term)
        total += math.prod(sizes[name] for name in held)
        held &= set("".join(others[i:]) + made)
    return total


def _of_attention(node: NodeProto, shape: Shape, facts: dict[str, Any]) -> int:
    """Count the scores and their weighted sums; ONNX Runtime's own operator also projects its input."""
    query, key = shape(node.input[0]), shape(node.input[1])
    if node.domain == "com.microsoft" and node.op_type == "Attention":
        batch, length, width = query[0], query[1], key[1] // 3
        return batch * length * (math.prod(key) + 2 * length * width)
    value = shape(node.input[2])
    if len(query) == 4:
        return math.prod(query[:3]) * key[2] * (query[3] + value[3])
    shared = facts.get("q_num_heads", 1) // facts.get("kv_num_heads", 1)
    return math.prod(query[:2]) * key[1] * (query[2] + shared * value[2])


def parameters(graph: GraphProto) -> int:
    """Count the numbers that a network has learned: what it multiplies by and adds, each tensor once, of any type.

    A file does not tell learned numbers from fixed ones of the same use: masks and positions count too. Single numbers
    without a dimension, settings of operators, running statistics, scales and zero points of quantised tensors, the
    normalisation of the image, and poolings in the form of a product do not.
    """
    return sum(_parameters(graph, {}).values())


def _parameters(graph: GraphProto, outside: dict[str, TensorProto]) -> dict[str, int]:
    # a single number is a parameter only where it stands among them
    numbers = {tensor.name for tensor in graph.initializer if tensor.dims}
    own = {name: each for name, each in stored_tensors(graph).items() if name in numbers or math.prod(each.dims) > 1}
    stored = outside | own
    left_out = _before_network(graph, set(stored)) | pooling(graph)

    counts: dict[str, int] = {}
    for node in graph.node:
        for body in bodies(node):
            counts |= _parameters(body, stored)
        for at, name in enumerate(node.input):
            tensor = stored.get(name)
            if tensor is None or node.output[0] in left_out:
                continue
            if tensor.data_type in _FLOATS:
                learned = at not in _SETTINGS.get(node.op_type, ())
            else:
                learned = at in _INTEGERS.get(node.op_type, ())
            if learned:
                counts[name] = _numbers(node, tensor)
    return counts


def _numbers(node: NodeProto, tensor: TensorProto) -> int:
    """Count the numbers in a tensor; that of MatMulNBits holds several in each of its bytes."""
    facts = {each.name: each.i for each in node.attribute}
    return facts["K"] * facts["N"] if node.op_type == "MatMulNBits" else math.prod(tensor.dims)


def _before_network(graph: GraphProto, stored: set[str]) -> set[str]:
    """Return the values between the image and the first product: its normalisation."""
    image = {value.name for value in graph.input} - stored
    for node in graph.node:
        if node.op_type not in FACTORS and not image.isdisjoint(node.input):
            image.update(node.output)
    return image


def pooling(graph: GraphProto) -> set[str]:
    """Return the outputs of products with a fixed matrix that averages or interpolates.

    Its entries are not negative, and those that make one number of the result sum to 1: no learned matrix is so.
    """
    stored = stored_tensors(graph)
    found: set[str] = set()
    for node in graph.node:
        for at, name in enumerate(node.input[:2]) if node.op_type == "MatMul" else ():
            tensor = stored.get(name)
            if tensor is None or tensor.data_type not in _FLOATS or tensor.data_location == TensorProto.EXTERNAL:
                continue
            if len(tensor.dims) >= 2 and math.prod(tensor.dims) <= _EXAMINED:
                matrix = numpy_helper.to_array(tensor).astype(np.float64)
                sums = matrix.sum(-1 if at == 0 else -2)
                if matrix.min(initial=0) >= 0 and np.allclose(sums, 1, atol=0.01):
                    found.add(node.output[0])
    return found


def stored_tensors(graph: GraphProto) -> dict[str, TensorProto]:
    """Return the tensors that stand in a graph by name: its initialisers, and the values of its constants."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    constants = [node for node in graph.node if node.op_type == "Constant"]
    return stored | {node.output[0]: each.t for node in constants for each in node.attribute if each.name == "value"}


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs within a node."""
    for each in node.attribute:
        yield from [each.g] if each.type == AttributeProto.GRAPH else each.graphs
