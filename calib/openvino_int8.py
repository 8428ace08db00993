"""Static INT8 for OpenVINO by NNCF's post-training quantisation, from the same images as every other target.

NNCF takes no ranges from outside: it collects its own while it corrects the biases for the shift by quantisation.
OpenVINO also reads files quantised for other runtimes, but computes them wrong, so it never gets them. Neither reports
its use over the network here.
"""

import contextlib
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto

from ..deploy.runtimes.open import open_runtime
from ..deploy.runtimes.signal_stack import signal_stack_kept
from ..distill import console
from ..distill.errors import ExportError, UsageError, need
from ..distill.quiet import quiet
from .onnx_graph import before_network, makers, products, tail
from .qdq import Quantised, share_of

#: OpenVINO's operators that multiply, and those that move values: the scaling of stored weights is one
_PRODUCTS = (
    *("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData"),
    *("MatMul", "ScaledDotProductAttention"),
)
_MOVING = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Convert", "Multiply", "Subtract", "MaxPool", "Concat")


def tools() -> tuple[ModuleType, ModuleType]:
    """Import OpenVINO and NNCF.

    Raises:
        ExportError: one of them is missing.
    """
    os.environ.setdefault("NNCF_CI", "1")  # else it reports its use
    with quiet():  # NNCF's import makes torch look for CUDA
        return need("openvino", "openvino"), need("nncf", "openvino")


def quantise_for_openvino(
    source: Path,
    out: Path,
    images: Iterable[np.ndarray],
    *,
    named: ModelProto,
    keep: Sequence[str] = (),
) -> Quantised:
    """Write the INT8 form of a float32 ONNX file as ``out`` (.xml) with its weights beside it (.bin).

    Args:
        source: a file that ``open_runtime`` opens.
        out: where the network goes.
        images: uint8 RGB ``(H, W, 3)`` of any size, prepared by the file's own preprocessing.
        named: ``source`` with every node named: OpenVINO's own names for the others are not known here.
        keep: names of nodes left in float32; the classifier and the normalisation of the image always are.

    Raises:
        ExportError: openvino or nncf is missing, or one of them refuses the network.
        UsageError: no images.
    """
    ov, nncf = tools()
    fold = need("openvino._offline_transformations", "openvino").apply_moc_transformations
    high = [*keep, *tail(named.graph), *before_network(named.graph)]

    with open_runtime(source) as runtime, contextlib.ExitStack() as stack:
        batch = runtime.spec.batch or 1
        # as bytes: prepared they would take four times the memory
        pictures = [[view.image for view in runtime.fit.views(image)] for image in images]
        views = list(itertools.chain.from_iterable(pictures))
        if not views:
            raise UsageError("no calibration images were given; at least 1 is needed")

        step = stack.enter_context(console.steps(len(views), "calibrating"))
        stack.enter_context(quiet())
        stack.enter_context(signal_stack_kept())

        def prepared(image: np.ndarray) -> np.ndarray:
            step()
            return runtime.prepare(np.repeat(image[None], batch, axis=0))

        try:
            model = ov.Core().read_model(BytesIO(named.SerializeToString()))
            # unfolded, its depthwise convolutions have no constant weights: NNCF would leave them in float32
            fold(model, cf=False)
            names = _names(model, named.graph)
            ignored = [name for name, node in names.items() if node in high]
            model = nncf.quantize(
                model,
                nncf.Dataset(views, prepared),
                preset=nncf.QuantizationPreset.MIXED,  # asymmetric activations, as ONNX Runtime's are
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(views),
                model_type=nncf.ModelType.TRANSFORMER if _is_transformer(named.graph) else None,
                ignored_scope=nncf.IgnoredScope(names=ignored, validate=False) if ignored else None,
            )
        except (RuntimeError, ValueError, TypeError) as error:
            raise ExportError(
                f"NNCF cannot quantise {source.name}: {str(error).strip().splitlines()[-1][:200]}"
            ) from error

        model.set_rt_info('"int8"', ["framework", "kdc.precision"])
        ov.save_model(model, str(out), compress_to_fp16=False)

    left_out = {node.name for node in named.graph.node} - products(named.graph)  # poolings written as products
    factors = [op for op in model.get_ops() if op.get_type_name() in _PRODUCTS]
    work = {_name(op, names): _work(op) for op in factors if _name(op, names) not in left_out}
    low = [name for op in factors if (name := _name(op, names)) in work and _is_quantised(op)]
    pairs = sum(each.get_type_name() == "FakeQuantize" for each in model.get_ops())
    counts = len(work), len(low), share_of(low, work), pairs, pairs
    left = [name for name in work if name not in low]
    return Quantised("int8", "openvino", "nncf", len(pictures), *counts, left_high=left)


def _name(op: Any, names: Mapping[str, str]) -> str:
    return names.get(op.get_friendly_name(), op.get_friendly_name())


def _names(model: Any, graph: GraphProto) -> dict[str, str]:
    """Return the node of the ONNX file that each operation of OpenVINO's model comes from, known by the value it makes.

    OpenVINO's own names differ where two things of a file have one. A layer with a bias becomes two operations, of
    which the sum makes the value.
    """
    maker, kinds = makers(graph), products(graph)
    names: dict[str, str] = {}
    for each in model.get_ops():
        values = [name for port in each.outputs() for name in sorted(port.get_names()) if name in maker]
        if each.get_type_name() in _PRODUCTS and not values:
            summed = [maker[name] for port in _sums(each) for name in sorted(port.get_names()) if name in maker]
            factors = [name for node in summed for name in (*node.output, *node.input)]
            values = [name for name in factors if name in maker and maker[name].name in kinds]
        if values:
            names[each.get_friendly_name()] = maker[values[0]].name
    return names


def _sums(node: Any) -> list[Any]:
    """Return the outputs of the sums that read an operation."""
    readers = [target.get_node() for port in node.outputs() for target in port.get_target_inputs()]
    return [port for reader in readers if reader.get_type_name() == "Add" for port in reader.outputs()]


def _work(op: Any) -> int:
    """Return the multiply-adds of an operation; a free dimension counts as one."""
    shapes = [op.get_input_partial_shape(at) for at in range(op.get_input_size())] + [op.get_output_partial_shape(0)]
    first, second, *others, made = [[n.get_length() if n.is_static else 1 for n in shape] for shape in shapes]
    kind = op.get_type_name()
    if kind == "MatMul":
        return math.prod(made) * first[-2 if op.get_attributes()["transpose_a"] else -1]
    if kind == "ScaledDotProductAttention":
        return math.prod(first[:-1]) * second[-2] * (first[-1] + others[0][-1])
    filters = second[2:] if kind.startswith("Group") else second[1:]
    return math.prod(first if kind.endswith("BackpropData") else made) * math.prod(filters)


def _is_quantised(op: Any) -> bool:
    """Tell whether both factors of a product are rounded."""
    return all(_rounded(op.input_value(at).get_node()) for at in (0, 1))


def _is_transformer(graph: GraphProto) -> bool:
    """Tell whether a network normalises tokens or attends: NNCF then keeps its sums in float32."""
    return any(node.op_type in ("LayerNormalization", "Softmax", "Attention") for node in graph.node)


def _rounded(node: Any) -> bool:
    """Tell whether a value is rounded to 8 bits, behind what moves it without computing."""
    while node.get_type_name() in _MOVING:
        node = node.input_value(0).get_node()
    if node.get_type_name() == "Constant":  # weights are stored in 8 bits, and scaled
        return node.get_element_type().get_type_name() in ("i8", "u8")
    return node.get_type_name() == "FakeQuantize"
