"""What an ONNX file costs: the parameters and multiply-adds of its convolutions, counted without running it."""

import math
from pathlib import Path

import onnx
from onnx import shape_inference

from ...distill.errors import UsageError, WeightsError
from ..runtimes.ort_runtime import read_info

#: the inputs of each kind of convolution that are its weight and its bias
_CONVOLUTIONS = {"Conv": (1, 2), "ConvInteger": (1, None), "QLinearConv": (3, 8)}
#: what may stand between a weight in the file and its convolution
_PASSES = ("DequantizeLinear", "QuantizeLinear", "Cast", "Identity", "Transpose", "Reshape")


def count_onnx(path: Path, size: tuple[int, int] | None = None) -> tuple[int, int, tuple[int, int]]:
    """Return parameters, multiply-adds (MACs) for one image, and the input size they are for.

    As ``distill.cost.macs`` counts them: convolutions, each at its output size. Parameters are the weights and biases
    of the convolutions in the file, batch normalisation folded in.

    Args:
        path: an ONNX file.
        size: input height and width, for a file that leaves them free.

    Raises:
        UsageError: the file leaves the size free and ``size`` is None, or it is made for another.
        WeightsError: the file is broken, or the output size of a convolution is unknown.
    """
    info = read_info(path)
    if any(own is not None and size is not None and own != n for own, n in zip(info.size, size or (), strict=False)):
        raise UsageError(f"{path} is made for {info.size[0]}x{info.size[1]}; leave out --size")
    height, width = (own or (size[i] if size else None) for i, own in enumerate(info.size))
    if height is None or width is None:
        raise UsageError(f"{path} takes any image size; name the one to count for: --size HxW")

    # infer the shapes for that size
    model = onnx.load(str(path), load_external_data=False)
    image = next(value for value in model.graph.input if value.name == info.input)
    first = 1 if info.layout == "NHWC" else 2
    for at, n in enumerate((height, width), first):
        image.type.tensor_type.shape.dim[at].dim_value = n
    del model.graph.value_info[:]  # may name dimensions that have a size now
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }

    stored = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}

    def in_file(name: str) -> str | None:
        while name not in stored:
            producer = producers.get(name)
            if producer is None or producer.op_type not in _PASSES:
                return None
            name = producer.input[0]
        return name

    macs, weights = 0, set()
    for node in graph.node:
        if node.op_type not in _CONVOLUTIONS:
            continue
        at, bias_at = _CONVOLUTIONS[node.op_type]
        weight, out = in_file(node.input[at]), shapes.get(node.output[0], [])
        if weight is None or len(out) != 4 or 0 in out[2:]:
            raise WeightsError(f"{path}: the output size of convolution {node.name or node.output[0]} is unknown")
        macs += math.prod(stored[weight]) * out[2] * out[3]
        bias = in_file(node.input[bias_at]) if bias_at and len(node.input) > bias_at else None
        weights |= {name for name in (weight, bias) if name}
    return sum(math.prod(stored[name]) for name in weights), macs, (height, width)
