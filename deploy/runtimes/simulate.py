"""A float32 twin of a half or 8-bit-float graph, which computes the typed graph's numbers on any CPU.

ONNX Runtime's CPU has no bfloat16 convolutions, its optimisers stumble over 8-bit floats beside Clip, and with float16
scales one of them quantises biases again (bisected on 1.31.1). So every half value becomes a float32 one that is
rounded to the half type where it is made, and every 8-bit float one that is rounded by casts. Sums within a layer are
float32's, as on a GPU's matrix units. INT8 pairs stay, with float32 scales, and are computed exactly.
"""

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

#: precisions that ONNX Runtime's CPU provider computes as they are
COMPUTED = ("fp32", "fp16", "int8")
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_FLOAT8 = TensorProto.FLOAT8E4M3FN


def twin(model: ModelProto) -> ModelProto:
    """Return the float32 twin of a typed graph whose inputs and outputs are no halves; metadata are kept."""
    whole = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    graph = whole.graph
    values = [*graph.value_info, *graph.output]
    half = {v.name: v.type.tensor_type.elem_type for v in values if v.type.tensor_type.elem_type in _HALVES}
    stored = {tensor.name: _widened(tensor) for tensor in graph.initializer}
    eighths = {n.input[2] for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")}
    eighths = {name for name in eighths if stored[name].data_type == _FLOAT8}

    nodes: list[NodeProto] = []
    for node in graph.node:
        if len(node.input) == 3 and node.input[2] in eighths:
            nodes += _rounded(node, stored)
            continue

        kinds = [half.get(name) for name in node.output]
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _HALVES:
                attribute.i = TensorProto.FLOAT
        nodes.append(node)

        # the layer behind a DQ computes with integers: what DQ gives is never written in half
        for position, kind in enumerate(kinds if node.op_type != "DequantizeLinear" else ()):
            if kind is not None:
                name = node.output[position]
                node.output[position] = f"{name}_exact"
                nodes += [
                    helper.make_node("Cast", [f"{name}_exact"], [f"{name}_rounded"], name=f"round_{name}", to=kind),
                    helper.make_node("Cast", [f"{name}_rounded"], [name], name=f"widen_{name}", to=TensorProto.FLOAT),
                ]

    used = {name for node in nodes for name in node.input}
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensor for name, tensor in stored.items() if name in used)
    return whole


def _rounded(node: NodeProto, stored: dict[str, TensorProto]) -> list[NodeProto]:
    """Write Q and DQ of 8-bit floats as a division and a cast, a cast and a product; of weights, as what they hold."""
    value, scale, _ = node.input
    inner, name = f"{node.output[0]}_inner", node.output[0]
    if value in stored:
        weights, steps = (numpy_helper.to_array(stored[each]).astype(np.float32) for each in (value, scale))
        axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
        along = [-1 if i == axis else 1 for i in range(weights.ndim)]
        stored[name] = numpy_helper.from_array(weights * steps.reshape(along if steps.ndim else ()), name)
        return []
    if node.op_type == "QuantizeLinear":
        return [
            helper.make_node("Div", [value, scale], [inner], name=f"{node.name}_divide"),
            helper.make_node("Cast", [inner], [name], name=f"{node.name}_round", to=_FLOAT8),
        ]
    return [
        helper.make_node("Cast", [value], [inner], name=f"{node.name}_widen", to=TensorProto.FLOAT),
        helper.make_node("Mul", [inner, scale], [name], name=f"{node.name}_multiply"),
    ]


def _widened(tensor: TensorProto) -> TensorProto:
    if tensor.data_type not in _HALVES:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
