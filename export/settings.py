"""What a run is exported as, and how an engine is built: the settings of ``kdc export`` as two values."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..distill.preprocess import Policy

#: the exporter writes no older one, TensorRT's parser reads no newer one
OPSETS = range(18, 26)
OPSET = 20
#: smallest, usual and largest (H, W) in pixels of an engine
SizeRange = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class ExportSettings:
    """The form of a run's ONNX files, and their gate.

    Attributes:
        size: (H, W) in pixels, fixed (default: ``Run.image_size``, rounded up to the output stride).
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
        allow_partial: keep a float16 file with less than half of its multiply-adds in float16, too.
        caster: what casts it: "kdc" or "modelopt" (NVIDIA ModelOpt's AutoCast).
        fit: how images of other sizes are taken, see ``evaluation.fit`` (default: ``data.fit`` of the run).
        drop_stale: remove what was made from an earlier network.
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
    allow_partial: bool = False
    caster: str = "kdc"
    fit: Policy | None = None
    drop_stale: bool = False


@dataclass(frozen=True)
class BuildFlags:
    """How an engine is built.

    Attributes:
        flavour_name: "tensorrt" or "tensorrt_rtx"; None takes the installed one.
        targets: compute capabilities such as "sm86", for tensorrt_rtx; none = its portable default.
        batches: min, opt, max of the profile where the batch is free (default 1, 4, 16).
        sizes: min, opt, max (H, W) in pixels of the profile, where height and width are free.
        workspace_mib: scratch memory that the engine may use.
        opt_level: 0 to 5, for tensorrt; its default is 3.
        timing_cache: read and written there, for tensorrt.
        version_compatible: newer TensorRTs may load the engine too.
        hardware: "ampere+" (any GPU from compute capability 8.0) or "same" (of the same one), for tensorrt.
        refit: its weights can be replaced.
        strip_weights: leave them out; they come back from the ONNX file beside the engine when it is opened.
        tf32: products of float32 may be computed in TF32, as is TensorRT's default.
    """

    flavour_name: str | None = None
    targets: Sequence[str] = ()
    batches: Sequence[int] | None = None
    sizes: SizeRange | None = None
    workspace_mib: int | None = None
    opt_level: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware: str | None = None
    refit: bool = False
    strip_weights: bool = False
    tf32: bool = True

    @property
    def builder_flags(self) -> dict[str, str]:
        """TensorRT's name of each builder flag that is on, by the flag of the command line."""
        flags = {"--version-compatible": ("VERSION_COMPATIBLE", self.version_compatible)}
        flags |= {"--refit": ("REFIT", self.refit), "--strip-weights": ("STRIP_PLAN", self.strip_weights)}
        return {word: name for word, (name, on) in flags.items() if on}

    def words(self) -> list[str]:
        """Return the flags of the command line that ask for this; the timing cache, of this machine, is left out."""
        sizes = self.sizes and ",".join(f"{h}x{w}" for h, w in self.sizes)
        valued = {"--batches": self.batches and ",".join(map(str, self.batches)), "--sizes": sizes}
        valued |= {"--workspace": self.workspace_mib, "--opt-level": self.opt_level, "--hardware": self.hardware}
        words = [word for target in self.targets for word in ("--target", target.lower())]
        words += [word for key, value in valued.items() if value is not None for word in (key, str(value))]
        return [*words, *self.builder_flags, *([] if self.tf32 else ["--no-tf32"])]


DEFAULTS, NO_FLAGS = ExportSettings(), BuildFlags()
