"""The precision of an engine: the type that each layer computes in, as the engine inspector says, and its time.

The JSON is documented in NVIDIA's pages "Engine Inspector" and "Migrating IEngineInspector Usage from TensorRT 10.x to
11.x": version 11 split a tensor's ``Format/Datatype`` into two fields and put objects in the place of ``Bindings``.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ....distill.errors import ExportError
from ....distill.run.records import Record

#: how the inspector writes types, the narrower names first: "Half", "Row major linear FP16 format", "BFloat16", ...
_NAMES = (
    ("bf16", r"bf16|bfloat16"),
    ("fp16", r"fp16|half|float16"),
    ("fp8", r"fp8|float8|e4m3|e5m2"),
    ("fp4", r"fp4|float4|e2m1"),
    ("uint8", r"uint8"),
    ("int8", r"int8"),
    ("int4", r"int4"),
    ("int32", r"int32"),
    ("int64", r"int64"),
    ("bool", r"bool"),
    ("fp32", r"fp32|float32|float"),
)
#: what a file of a precision must show; float32 needs nothing
WANTED = {"fp16": ("fp16",), "bf16": ("bf16",), "int8": ("int8",), "fp8": ("fp8",)}
_REFORMAT = re.compile(r"reformat|no-?op", re.IGNORECASE)


@dataclass(frozen=True)
class Layer:
    """A layer of an engine: what it is, the type it computes in, its FLOPs where they follow, and its time."""

    name: str
    kind: str
    type: str
    reformat: bool = False
    flops: int | None = None
    ms: float | None = None


@dataclass
class PrecisionShares(Record):
    """Shares of an engine by type ("tf32" is float32 with TF32 products; "reformat" are copies between layouts).

    ``time`` and ``flops`` are None where no times were measured, and where no layer's FLOPs follow from the JSON.
    """

    layers: int
    reformat_layers: int
    by_layers: dict[str, float]
    by_flops: dict[str, float] | None
    by_time: dict[str, float] | None
    total_ms: float | None
    #: milliseconds of profiled layers that the inspector does not name
    unknown_ms: float = 0.0
    #: what contradicts the precision of the file; empty if nothing does
    reasons: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Say it in one line."""
        what, shares = next(
            (what, shares)
            for what, shares in (("time", self.by_time), ("FLOPs", self.by_flops), ("layers", self.by_layers))
            if shares is not None
        )
        parts = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())
        return f"{parts} of the {what}; {self.layers} layers, {self.reformat_layers} of them reformats"


def read_layers(inspected: str | Mapping[str, Any], times: Mapping[str, float] | None = None) -> list[Layer]:
    """Read what ``get_engine_information(JSON)`` of TensorRT 10 or 11 says.

    Args:
        inspected: the JSON, as text or parsed.
        times: milliseconds by layer name, as a profiler got them.

    Raises:
        ExportError: it is no JSON of an inspector, or the engine was built without details.
    """
    try:
        values = json.loads(inspected) if isinstance(inspected, str) else inspected
        layers = values["Layers"]
        detailed = all(isinstance(each, Mapping) for each in layers)
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"the engine inspector's answer cannot be read ({type(error).__name__}: {error})") from error
    if not detailed or not layers:
        raise ExportError(
            "the engine holds no details of its layers, so its precision cannot be checked; build it again"
        )
    return [_layer(each, times or {}) for each in layers]


def check_precision(
    layers: Iterable[Layer], precision: str, times: Mapping[str, float] | None = None
) -> PrecisionShares:
    """Sum layers up by type, and say whether they show the precision of the file.

    Args:
        layers: as ``read_layers`` gives them.
        precision: "fp32", "fp16", "bf16", "int8", "fp8", or two of them such as "int8+fp16".
        times: what ``read_layers`` got, to count what it could not place.
    """
    layers = list(layers)
    timed = [layer for layer in layers if layer.ms is not None]
    by_time = _shares((layer, layer.ms or 0.0) for layer in timed)
    result = PrecisionShares(
        layers=len(layers),
        reformat_layers=sum(layer.reformat for layer in layers),
        by_layers=_shares((layer, 1) for layer in layers) or {},
        by_flops=_shares((layer, layer.flops or 0) for layer in layers),
        by_time=by_time,
        total_ms=sum(layer.ms or 0.0 for layer in timed) if by_time else None,
        unknown_ms=max(0.0, sum((times or {}).values()) - sum(layer.ms or 0.0 for layer in timed)),
    )
    what = "time" if result.by_time else "FLOPs" if result.by_flops else "layers"
    shares = result.by_time or result.by_flops or result.by_layers
    for part in precision.split("+"):
        for kind in WANTED.get(part, ()):
            if not shares.get(kind):
                result.reasons.append(f"{part} was asked for and none of the {what} is in {kind} ({result.line()})")
    return result


def _layer(values: Mapping[str, Any], times: Mapping[str, float]) -> Layer:
    name, kind = str(values.get("Name", "")), str(values.get("LayerType", ""))
    reformat = bool(_REFORMAT.search(kind) or _REFORMAT.search(str(values.get("Origin", ""))))
    weights = values.get("Weights")
    texts = [str(weights.get("Type", ""))] if isinstance(weights, Mapping) else []
    # quantised layers read the narrow type and may write a wider one, so inputs say it
    texts += [_type_text(each) for each in (*values.get("Inputs", ()), *values.get("Outputs", ()))]
    type = next((known for text in texts if (known := _type(text))), "unknown")
    if type == "fp32" and "tf32" in str(values.get("TacticName", "")).lower():
        type = "tf32"
    # with several profiles or dynamic shapes the inspector adds " [profile 0]" to the names
    ms = times.get(name, times.get(re.sub(r" \[profile \d+\]$", "", name)))
    return Layer(name, kind, type, reformat, None if reformat else _flops(values), ms)


def _type_text(tensor: Mapping[str, Any]) -> str:
    """Return the text that holds a tensor's type: one field for both in TensorRT 10, one of its own in 11."""
    lowered = {key.lower(): str(value) for key, value in tensor.items()}
    return lowered.get("datatype") or lowered.get("format/datatype") or lowered.get("format", "")


def _type(text: str) -> str | None:
    return next((name for name, pattern in _NAMES if re.search(pattern, text.lower())), None)


def _flops(values: Mapping[str, Any]) -> int | None:
    """Twice the multiply-adds of a layer with weights; None where the JSON does not tell."""
    kind = f"{values.get('LayerType', '')} {values.get('ParameterType', '')}".lower()
    weights, inputs, outputs = values.get("Weights"), values.get("Inputs", ()), values.get("Outputs", ())
    if not outputs or not any(word in kind for word in ("conv", "gemm", "matmul", "matrixmultiply", "fullyconnected")):
        return None
    out = outputs[0].get("Dimensions", ())
    read = [each.get("Dimensions", ()) for each in inputs]
    if min((*out, *(n for shape in read for n in shape)), default=0) < 1:
        return None
    if isinstance(weights, Mapping) and int(weights.get("Count", 0)) and len(out) == 4:
        # every weight meets every pixel of the output (of the input, where a layer is transposed) once
        pixels = read[0] if "deconv" in kind else out
        return 2 * pixels[0] * pixels[2] * pixels[3] * int(weights["Count"])
    if "conv" in kind and len(read) > 1 and len(read[1]) == 4:
        return 2 * math.prod(out) * math.prod(read[1][1:])
    if "conv" not in kind and len(read) > 1 and read[0]:
        return 2 * math.prod(out) * read[0][-1]
    return None


def _shares(weighed: Iterable[tuple[Layer, float]]) -> dict[str, float] | None:
    """Return each type's share, largest first; None where there is nothing to share."""
    sums: dict[str, float] = {}
    for layer, weight in weighed:
        if weight:
            key = "reformat" if layer.reformat else layer.type
            sums[key] = sums.get(key, 0.0) + weight
    total = sum(sums.values())
    return {key: value / total for key, value in sorted(sums.items(), key=lambda pair: -pair[1])} if total else None
