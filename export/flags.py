"""Flags of the export commands, and how they become settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..distill.errors import UsageError, closest
from ..distill.preprocess import POLICIES
from .settings import BuildFlags, ExportSettings, SizeRange

if TYPE_CHECKING:
    from ..deploy.runtimes.said import Said
    from ..distill.run.folder import Run

Source = Annotated[str | None, typer.Argument(metavar="RUN", help="Run folder or name; the last run if not named.")]
SourceOrFile = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN|FILE.onnx", help="Run folder or name, the last run if not named; or an ONNX file of any maker."
    ),
]
SizeFlag = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="HxW",
        help="Input size (default: the usual validation image, rounded up to the stride).",
    ),
]
Head = Annotated[str | None, typer.Option(help="logits (float32 scores, the default) or argmax (uint8 mask).")]
Input = Annotated[
    str | None,
    typer.Option(help="float (normalised NCHW, the default) or uint8 (raw RGB NHWC, normalised in the graph)."),
]
Dynamic = Annotated[bool, typer.Option("--dynamic-batch", help="Leave the batch free (default: a batch of 1).")]
Precision = Annotated[str | None, typer.Option(help="fp32, fp16 or both.")]
Opset = Annotated[int | None, typer.Option(help="ONNX opset, 18 to 25 (default 20).")]
Images = Annotated[int | None, typer.Option(min=1, help="Validation images for the gate of each file (default 16).")]
Agreement = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        min=0,
        max=1,
        help="Share of pixels that must agree at the gate (default 0.9999 fp32, 0.999 fp16).",
    ),
]
KeepFloat = Annotated[
    list[str] | None,
    typer.Option("--keep-fp32", metavar="NODE", help="Node that stays float32 in the fp16 file; may be repeated."),
]
AllowPartial = Annotated[
    bool,
    typer.Option("--allow-partial", help="Write an fp16 file with less than half of its multiply-adds in fp16, too."),
]
Caster = Annotated[
    str | None, typer.Option(help="What casts the fp16 file: kdc (default), or modelopt (NVIDIA ModelOpt's AutoCast).")
]
Which = Annotated[str | None, typer.Option(help="best (default) or last weights.")]
FitFlag = Annotated[
    str | None,
    typer.Option(
        "--fit",
        metavar="pad|resize|tile",
        help="How the file takes images of other sizes: shrunk with their shape kept and padded, resized, or in tiles "
        "(default: data.fit of the run, which is pad where nothing was set).",
    ),
]
FileData = Annotated[
    str | None,
    typer.Option("--data", metavar="NAME|DIR", help="Images that a file of no run is compared on (of a run: its own)."),
]
FileOut = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Folder of what is made of a file (default: that of the file)."),
]
Dry = Annotated[bool, typer.Option("--dry-run", help="Print the plan; write nothing.")]
PRECISIONS = {"fp32": ("fp32",), "fp16": ("fp16",), "both": ("fp32", "fp16")}


DropStale = Annotated[
    bool,
    typer.Option("--drop-stale", help="Remove what was made from an earlier network; else it is marked."),
]


@dataclass(frozen=True)
class OnnxFlags:
    """The flags that say how ONNX files are written, in the order of the help; None is not given."""

    size: SizeFlag = None
    head: Head = None
    input: Input = None
    dynamic_batch: Dynamic = False
    precision: Precision = None
    opset: Opset = None
    images: Images = None
    agreement: Agreement = None
    keep_fp32: KeepFloat = None
    allow_partial: AllowPartial = False
    caster: Caster = None
    which: Which = None
    fit: FitFlag = None
    drop_stale: DropStale = False

    def settings(self) -> ExportSettings:
        """Make settings of them, with the defaults of ``ExportSettings``.

        Raises:
            UsageError: a size, fit, precision or ``--which`` that is not accepted.
        """
        if self.which not in (None, "best", "last"):
            raise UsageError(f"--which {self.which!r}: accepted are best and last")
        if self.fit is not None and self.fit not in POLICIES:
            raise UsageError(f"--fit {self.fit!r}: accepted are {', '.join(POLICIES)}{closest(self.fit, POLICIES)}")
        values = {name: value for name, value in vars(self).items() if value is not None}
        if self.size is not None:
            values["size"] = _size(self.size)
        if self.precision is not None:
            values["precisions"] = precisions_of(values.pop("precision"))
        if self.keep_fp32 is not None:
            values["block_nodes"] = values.pop("keep_fp32")
        settings = ExportSettings(**values)
        for flag, given in (("--caster", self.caster is not None), ("--allow-partial", self.allow_partial)):
            if given and "fp16" not in settings.precisions:
                raise UsageError(f"{flag} is for the fp16 file: add --precision fp16 or both")
        return settings


@dataclass(frozen=True)
class EngineFlags:
    """The flags that say how engines are built, in the order of the help."""

    flavour: Annotated[str | None, typer.Option(help="tensorrt or tensorrt_rtx (default: the installed one).")] = None
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SM", help="Compute capability to build for, such as sm86 (tensorrt_rtx); may be repeated."
        ),
    ] = None
    batches: Annotated[
        str | None,
        typer.Option(
            metavar="MIN,OPT,MAX", help="Smallest, usual and largest batch, for a free batch (default 1,4,16)."
        ),
    ] = None
    workspace: Annotated[
        int | None, typer.Option(metavar="MIB", min=1, help="Scratch memory that the engine may use.")
    ] = None
    opt_level: Annotated[
        int | None, typer.Option(min=0, max=5, help="Builder effort, 0 to 5 (tensorrt, whose default is 3).")
    ] = None
    timing_cache: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Timings to reuse and update, for faster builds (tensorrt).")
    ] = None
    sizes: Annotated[
        str | None,
        typer.Option(
            metavar="MIN,OPT,MAX", help="Smallest, usual and largest HxW, for an ONNX file that leaves them free."
        ),
    ] = None
    version_compatible: Annotated[
        bool,
        typer.Option("--version-compatible", help="Let newer versions of TensorRT load the engine too (tensorrt)."),
    ] = False
    hardware: Annotated[
        str | None,
        typer.Option(
            help="ampere+ (any GPU from compute capability 8.0) or same (any of this capability); default: this GPU "
            "model."
        ),
    ] = None
    refit: Annotated[bool, typer.Option("--refit", help="Allow the weights to be replaced later.")] = False
    strip_weights: Annotated[
        bool,
        typer.Option(
            "--strip-weights",
            help="Leave the weights out; they are read from the ONNX file beside the engine when it is opened.",
        ),
    ] = False
    no_tf32: Annotated[bool, typer.Option("--no-tf32", help="Compute float32 products in float32, not in TF32.")] = (
        False
    )

    def build_flags(self) -> BuildFlags:
        """Read them (UsageError)."""
        return BuildFlags(
            flavour_name=self.flavour,
            targets=self.target or (),
            batches=None if self.batches is None else parse_batches(self.batches),
            sizes=None if self.sizes is None else parse_sizes(self.sizes),
            workspace_mib=self.workspace,
            opt_level=self.opt_level,
            timing_cache=self.timing_cache,
            version_compatible=self.version_compatible,
            hardware=self.hardware,
            refit=self.refit,
            strip_weights=self.strip_weights,
            tf32=not self.no_tf32,
        )


def refuse_of_files(run: "str | Run", said: "Said", data: str | None, out: Path | None = None) -> None:
    """Refuse flags that say something of a file where a run was named, which says all of itself (UsageError)."""
    given = [*said.flags, *(["--data"] if data is not None else []), *(["--out"] if out is not None else [])]
    if given:
        raise UsageError(f"{given[0]} is for a file, and {run} is a run: leave it out, or name the file")


def refuse_idle(flags: Mapping[str, object], why: str) -> None:
    """Refuse flags that were given, by name and value, and have no effect (UsageError)."""
    given = [name.replace("_", "-") for name, value in flags.items() if value is not None and value is not False]
    if words := ", ".join(f"--{name}" for name in given):
        raise UsageError(f"{why}: leave out {words}, or name the run")


def precisions_of(name: str) -> tuple[str, ...]:
    """Return the precisions that ``--precision`` names (UsageError)."""
    if name in PRECISIONS:
        return PRECISIONS[name]
    hint = closest(name, PRECISIONS)
    if name in ("bf16", "int8", "fp8"):
        hint = f"; for that: kdc calib RUN --to {name} --for trt, then kdc export trt FILE.onnx"
    raise UsageError(f"--precision {name!r}: accepted are {', '.join(PRECISIONS)}{hint}")


def _size(text: str) -> tuple[int, int]:
    from ..distill.settings.config import parse_size

    if any(mark in text.lower() for mark in ("dyn", "-1", "?", "any", "*")):
        raise UsageError(
            f"--size {text}: height and width are fixed at export, because pooling and upsampling are exact for "
            "one size only; export once a size (--size HxW), or leave the batch free with --dynamic-batch"
        )
    return parse_size(text)


def parse_batches(text: str) -> tuple[int, ...]:
    """Read ``MIN,OPT,MAX`` (UsageError)."""
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"--batches {text!r}: smallest, usual and largest batch are needed, such as 1,4,16")
    return tuple(int(part) for part in parts)


def parse_sizes(text: str) -> SizeRange:
    """Read three sizes ``HxW`` with commas between them (UsageError)."""
    parts = text.split(",")
    if len(parts) != 3:
        raise UsageError(f"--sizes {text!r}: smallest, usual and largest, such as 512x512,512x1024,1024x2048")
    smallest, usual, largest = (_size(part) for part in parts)
    return smallest, usual, largest
