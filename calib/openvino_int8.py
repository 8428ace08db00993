"""Static INT8 for OpenVINO by NNCF's post-training quantisation, from the same images as every other target.

NNCF takes no ranges from outside: it collects its own while it corrects the biases for the shift by quantisation.
OpenVINO also reads files quantised for other runtimes, but computes them wrong, so it never gets them. Neither reports
its use over the network here.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from onnx import GraphProto

from ..deploy.runtimes.open import open_runtime
from ..deploy.runtimes.signal_stack import signal_stack_kept
from ..distill.errors import ExportError, UsageError, need
from ..distill.quiet import quiet
from .onnx_graph import WEIGHTED, before_network, tail
from .qdq import Quantised


def tools() -> tuple[ModuleType, ModuleType]:
    """Import OpenVINO and NNCF.

    Raises:
        ExportError: one of them is missing.
    """
    os.environ.setdefault("NNCF_CI", "1")  # else it reports its use
    with quiet():  # NNCF's import makes torch look for CUDA
        return need("openvino", "openvino"), need("nncf", "openvino")


def quantise_for_openvino(
    source: Path, out: Path, images: Iterable[np.ndarray], *, graph: GraphProto, keep: Sequence[str] = ()
) -> Quantised:
    """Write the INT8 form of a float32 ONNX file as ``out`` (.xml) with its weights beside it (.bin).

    Args:
        source: a file that ``open_runtime`` opens.
        out: where the network goes.
        images: uint8 RGB ``(H, W, 3)``, prepared by the file's own preprocessing.
        graph: of ``source``, every node named.
        keep: names of nodes left in float32; the classifier and the normalisation of the image always are.

    Raises:
        ExportError: openvino or nncf is missing, or one of them refuses the network.
        UsageError: no images.
    """
    ov, nncf = tools()
    fold = need("openvino._offline_transformations", "openvino").apply_moc_transformations
    pictures = list(images)  # as bytes: prepared they would take four times the memory
    if not pictures:
        raise UsageError("no calibration images were given; at least 1 is needed")
    high = [*keep, *tail(graph), *before_network(graph)]

    with open_runtime(source) as runtime, quiet(), signal_stack_kept():
        batch = runtime.spec.batch or 1

        try:
            model = ov.Core().read_model(str(source))
            # unfolded, its depthwise convolutions have no constant weights: NNCF would leave them in float32
            fold(model, cf=False)
            operations = {each.get_friendly_name() for each in model.get_ops()}
            # a convolution with a bias becomes two nodes, of which the second has its name
            names = [name for node in high for name in (node, f"{node}/WithoutBiases") if name in operations]
            model = nncf.quantize(
                model,
                nncf.Dataset(pictures, lambda image: runtime.prepare(np.repeat(image[None], batch, axis=0))),
                preset=nncf.QuantizationPreset.MIXED,  # asymmetric activations, as ONNX Runtime's are
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(pictures),
                ignored_scope=nncf.IgnoredScope(names=names, validate=False) if names else None,
            )
        except (RuntimeError, ValueError, TypeError) as error:
            raise ExportError(
                f"NNCF cannot quantise {source.name}: {str(error).strip().splitlines()[-1][:200]}"
            ) from error

        model.set_rt_info('"int8"', ["framework", "kdc.precision"])
        ov.save_model(model, str(out), compress_to_fp16=False)

    layers = [node for node in graph.node if node.op_type in WEIGHTED]
    quantised = sum(node.name not in high for node in layers)
    pairs = sum(each.get_type_name() == "FakeQuantize" for each in model.get_ops())
    return Quantised("int8", "openvino", "nncf", len(pictures), len(layers), quantised, pairs, pairs)
