"""The half-precision cast by NVIDIA ModelOpt's AutoCast: ``--caster modelopt``."""

import re
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType

import onnx
from onnx import TensorProto

from ..deploy.artefacts.safe_onnx import save_own
from ..distill.errors import ExportError, need
from ..distill.quiet import quiet
from .cast import BLOCKED, LOW, CastReport, examined
from .onnx_graph import before_network, finished, load_named


def modelopt_version() -> str:
    """Return the version of ModelOpt."""
    try:
        return metadata.version("nvidia-modelopt")
    except metadata.PackageNotFoundError:
        return "of unknown version"


def tool() -> ModuleType:
    """Import AutoCast.

    Raises:
        ExportError: ModelOpt is not installed.
    """
    return need("modelopt.onnx.autocast", "modelopt")


def autocast(
    source: Path,
    target: Path,
    *,
    low: str = "fp16",
    block_nodes: Collection[str] = (),
    largest: Mapping[str, float] | None = None,
) -> CastReport:
    """Write a half-precision file as ``cast_half`` does, with the casts that AutoCast chooses.

    AutoCast's own examination of the activations is off: it takes one input, ``largest`` is of all images.

    Raises:
        ExportError: AutoCast cannot be imported or refuses the graph.
    """
    convert = tool().convert_to_mixed_precision
    model = load_named(str(source))
    report = CastReport(low, caster=f"ModelOpt {modelopt_version()} AutoCast")
    high = [*block_nodes, *before_network(model.graph), *examined(model.graph, largest or {}, report)]

    named = target.with_name(f"{target.name}.named.onnx")
    try:
        onnx.save(model, str(named))
        with quiet():
            cast = convert(
                onnx_path=str(named),
                low_precision_type=low,
                nodes_to_exclude=[f"^{re.escape(name)}$" for name in dict.fromkeys(high)],
                op_types_to_exclude=sorted(BLOCKED),
                data_max=float("inf"),
                init_max=LOW[low][1],
                keep_io_types=True,
            )
    except (RuntimeError, ValueError, AssertionError, KeyError, TypeError) as error:
        raise ExportError(f"{report.caster} cannot cast {source.name}: {str(error).strip()[:200]}") from error
    finally:
        named.unlink(missing_ok=True)
    cast.metadata_props.MergeFrom(p for p in model.metadata_props if p.key not in _keys(cast))
    cast = finished(cast, low)
    save_own(cast, target)

    _count(cast, report)
    return report


def _keys(model: onnx.ModelProto) -> set[str]:
    return {prop.key for prop in model.metadata_props}


def _count(model: onnx.ModelProto, report: CastReport) -> None:
    values = {v.name: v.type.tensor_type.elem_type for v in [*model.graph.value_info, *model.graph.output]}
    for node in model.graph.node:
        kind = values.get(node.output[0])
        if node.op_type == "Cast":
            report.casts += 1
        elif kind == LOW[report.low][0]:
            report.half_nodes += 1
        elif kind == TensorProto.FLOAT:
            report.float_nodes.append(node.name)
    report.initializers = sum(tensor.data_type == LOW[report.low][0] for tensor in model.graph.initializer)
