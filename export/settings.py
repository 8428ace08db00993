"""What a run is exported as, and how its files are gated: the settings of ``kdc export onnx`` as one value."""

from collections.abc import Sequence
from dataclasses import dataclass

#: the exporter writes no older one, TensorRT's parser reads no newer one
OPSETS = range(18, 26)
OPSET = 20


@dataclass(frozen=True)
class ExportSettings:
    """The form of a run's ONNX files, and their gate.

    Attributes:
        size: (H, W) in pixels, fixed (default: the validation size rounded up to the output stride).
        head: "logits" (float32 ``(B, K, H, W)``) or "argmax" (uint8 ``(B, H, W)``).
        input: "float" (normalised ``(B, 3, H, W)``) or "uint8" (raw RGB ``(B, H, W, 3)``).
        dynamic_batch: leave B free (else it is 1).
        precisions: with "fp16" the float32 file, which is written and gated in any case, is also cast as ``kdc calib
            --to fp16`` does it: what leaves the range of float16 on calibration images stays in float32.
        opset: 18 to 25.
        which: "best" or "last" weights.
        images: validation images of every gate; None for all.
        agreement: replaces the gate's least share of agreeing pixels.
        block_nodes: nodes that stay in float32 in the float16 file.
    """

    size: tuple[int, int] | None = None
    head: str = "logits"
    input: str = "float"
    dynamic_batch: bool = False
    precisions: Sequence[str] = ("fp32",)
    opset: int = OPSET
    which: str = "best"
    images: int | None = 16
    agreement: float | None = None
    block_nodes: Sequence[str] = ()


DEFAULTS = ExportSettings()
