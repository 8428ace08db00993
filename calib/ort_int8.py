"""Static INT8 for ONNX Runtime on CPUs: unsigned asymmetric activations, signed per-channel weights, Q/DQ in the graph.

x86's 8-bit dot products (VNNI) take unsigned activations: signed ones run 2.7 times slower there at the same accuracy.
The scheme is that of Jacob et al., CVPR 2018 (arXiv:1712.05877), the placement is ONNX Runtime's, which fuses its own
kernels by it; the ranges are kdc's: all that is concatenated has one, as in every other form.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import GraphProto, ModelProto

from ..deploy.machine.passport import has_vnni
from ..distill.errors import ExportError, need
from ..distill.quiet import quiet
from .onnx_graph import before_network, layers, makers, tail
from .shared_ranges import shared_ranges

#: operators worth quantising
OPERATORS = (
    *("Conv", "MatMul", "Gemm", "Relu", "Clip", "Add", "Concat"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Resize"),
)
#: what comes out of these has the scale of what goes in, in ONNX Runtime's placement
_PASSING_ON = ("MaxPool", "AveragePool", "Resize")


def quantise_for_ort(
    model: ModelProto,
    ranges: Mapping[str, tuple[float, float]],
    *,
    keep: Sequence[str] = (),
    narrow: bool | None = None,
    trained: Mapping[str, tuple[float, float]] | None = None,
) -> tuple[ModelProto, bool]:
    """Return the INT8 form of a float32 graph, and whether its weights have 7 bits.

    Args:
        model: every node named, shapes inferred.
        ranges: of its activations.
        keep: names of nodes left in float32; the classifier and the normalisation of the image always are.
        narrow: 7-bit weights, for CPUs whose 8-bit products saturate (default: where this CPU has no VNNI).
        trained: the ranges with which the network was trained, see ``shared_ranges``.

    Raises:
        ExportError: ONNX Runtime cannot quantise it.
    """
    quantization = need("onnxruntime.quantization", "cpu")
    quantizer = need("onnxruntime.quantization.qdq_quantizer", "cpu").QDQQuantizer
    left_out = [*keep, *tail(model.graph), *before_network(model.graph), *_unfit(model.graph)]
    joining = [n for n in model.graph.node if n.op_type in ("Concat", *_PASSING_ON) and n.name not in left_out]
    passed_on = {n.output[0]: ranges[n.input[0]] for n in joining if n.op_type != "Concat" and n.input[0] in ranges}
    tensors = {
        name: quantization.TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in shared_ranges(joining, {**ranges, **passed_on}, trained or {}).items()
    }

    narrow = has_vnni() is False if narrow is None else narrow
    copy = ModelProto()
    copy.CopyFrom(model)

    try:
        with quiet():
            work = quantizer(
                copy,
                True,  # a scale for every output channel
                narrow,
                quantization.QuantType.QInt8,
                quantization.QuantType.QUInt8,
                quantization.TensorsData(quantization.CalibrationMethod.MinMax, tensors),
                [],
                left_out,
                list(OPERATORS),
                {
                    "ActivationSymmetric": False,
                    "WeightSymmetric": True,
                    "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],  # their sums are given in float32
                },
            )
            work.quantize_model()
            work.model.topological_sort()
    except (ValueError, RuntimeError, KeyError, IndexError, TypeError) as error:
        raise ExportError(f"ONNX Runtime cannot quantise the network: {str(error).strip().splitlines()[0]}") from error

    result = work.model.model
    assert isinstance(result, onnx.ModelProto)
    return result, narrow


def _unfit(graph: GraphProto) -> list[str]:
    """Name what would lose more than it gains: products of activations, and sums that are no convolution's shortcut.

    The sums of a transformer carry its state past all layers; 8 bits would be all that is left of it.
    """
    weighted, maker = layers(graph), makers(graph)
    unfit = []
    for node in graph.node:
        product = node.op_type in ("MatMul", "Gemm") and node.name not in weighted
        sum_ = node.op_type == "Add" and not any(name in maker and maker[name].op_type == "Conv" for name in node.input)
        if product or sum_:
            unfit.append(node.name)
    return unfit
