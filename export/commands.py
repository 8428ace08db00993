"""The commands of this room: ``kdc export onnx`` and ``kdc export trt``."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..distill import console
from ..distill.errors import ExportError, UsageError
from .flags import (
    FORM,
    Agreement,
    Batches,
    Caster,
    Dry,
    Dynamic,
    Flavour,
    Hardware,
    Head,
    Images,
    Input,
    Json,
    KeepFloat,
    NoTf32,
    Opset,
    OptLevel,
    Precision,
    Refit,
    SizeFlag,
    Sizes,
    Source,
    SourceOrFile,
    Strip,
    Target,
    TimingCache,
    VersionCompatible,
    Which,
    Workspace,
    export_settings,
    parse_batches,
    parse_sizes,
    refuse_idle,
)
from .settings import BuildFlags, ExportSettings

if TYPE_CHECKING:
    from ..calib.calibrate import LowPrecisionManifest
    from ..deploy.parity.produce import Product
    from ..distill.run.folder import Run
    from .to_onnx import ExportPlan, OnnxManifest

#: flags of ``kdc export onnx`` that an ONNX file that exists has no use for
_ONNX_FLAGS = (*FORM, "precision", "opset", "images", "agreement", "keep_fp32", "caster")


def register(app: typer.Typer) -> None:
    """Add ``kdc export`` to the command line."""
    from .targets_command import add_targets  # here: it takes its flags from this file

    group = typer.Typer(
        help="Write a network for other runtimes, each file through a gate.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    group.command("onnx")(onnx)
    group.command("trt")(trt)
    add_targets(group)
    app.add_typer(group, name="export")


def export_like(run: "Run", like: Path, dry: bool = False) -> Path:
    """Do what ``to_onnx.export_like`` does; torch is imported only now."""
    from . import to_onnx

    return to_onnx.export_like(run, like, dry)


def onnx(
    run: Source = None,
    size: SizeFlag = None,
    head: Head = None,
    input: Input = None,
    dynamic_batch: Dynamic = False,
    precision: Precision = None,
    opset: Opset = None,
    images: Images = None,
    agreement: Agreement = None,
    keep_fp32: KeepFloat = None,
    caster: Caster = None,
    which: Which = None,
    dry_run: Dry = False,
    json: Json = False,
) -> None:
    """Write self-contained ONNX files (fp32 unless --precision says more) and compare each with torch on real images.

    A file beyond the gate's tolerance is not kept, an earlier one stays (exit 6).
    """
    settings = export_settings(
        size, head, input, dynamic_batch, images, agreement, which, precision, opset, keep_fp32, caster
    )
    console.json_mode = json
    if dry_run:
        result = _plan(run, settings).to_dict()
    else:
        result = {"files": [each.manifest.to_dict() for each in _export(run, settings)]}
    if json:
        console.emit(result)


def trt(
    context: typer.Context,
    run: SourceOrFile = None,
    size: SizeFlag = None,
    head: Head = None,
    input: Input = None,
    dynamic_batch: Dynamic = False,
    precision: Precision = None,
    opset: Opset = None,
    images: Images = None,
    agreement: Agreement = None,
    keep_fp32: KeepFloat = None,
    caster: Caster = None,
    which: Which = None,
    flavour: Flavour = None,
    target: Target = None,
    batches: Batches = None,
    workspace: Workspace = None,
    opt_level: OptLevel = None,
    timing_cache: TimingCache = None,
    sizes: Sizes = None,
    version_compatible: VersionCompatible = False,
    hardware: Hardware = None,
    refit: Refit = False,
    strip_weights: Strip = False,
    no_tf32: NoTf32 = False,
    dry_run: Dry = False,
    json: Json = False,
) -> None:
    """Write typed ONNX files (fp32, fp16) through their gates, then build engines with the installed TensorRT."""
    from . import to_trt

    precision = "both" if precision is None else precision
    settings = export_settings(
        size, head, input, dynamic_batch, images, agreement, which, precision, opset, keep_fp32, caster
    )
    building = BuildFlags(
        flavour_name=flavour,
        targets=target or (),
        batches=None if batches is None else parse_batches(batches),
        sizes=None if sizes is None else parse_sizes(sizes),
        workspace_mib=workspace,
        opt_level=opt_level,
        timing_cache=timing_cache,
        version_compatible=version_compatible,
        hardware=hardware,
        refit=refit,
        strip_weights=strip_weights,
        tf32=not no_tf32,
    )
    console.json_mode = json

    if run is not None and run.endswith(".onnx"):
        refuse_idle(context, _ONNX_FLAGS, f"{run} is built as it is")
        files, result = [Path(run)], {"onnx": [run]}
    else:
        if batches and not dynamic_batch:
            raise UsageError("--batches is for engines with a free batch: add --dynamic-batch")
        if sizes:
            raise UsageError("--sizes is for an ONNX file that leaves height and width free; kdc's own never do")
        with contextlib.suppress(ExportError):  # without a TensorRT the ONNX files are written all the same
            to_trt.check_flags(building)

        if dry_run:
            plan = _plan(run, settings)
            files, result = [Path(file) for file in plan.onnx], plan.to_dict()
        else:
            exported = _export(run, settings)
            files = [each.path for each in exported if each.manifest.precision in settings.precisions]

    if dry_run:
        result |= _plan_engines(files, building)
    else:
        engines = [to_trt.build_engine(file, to_trt.engine_path(file), building, settings) for file in files]
        result = {"engines": [each.to_dict() for each in engines]}
    if json:
        console.emit(result)


def _export(run: str | None, settings: ExportSettings) -> "list[Product[OnnxManifest] | Product[LowPrecisionManifest]]":
    from ..distill.run.folder import find_run
    from .to_onnx import export_run

    return export_run(find_run(run), settings)


def _plan(run: str | None, settings: ExportSettings) -> "ExportPlan":
    from ..distill.run.folder import find_run
    from .to_onnx import plan_run

    plan = plan_run(find_run(run), settings)
    console.say(f"{plan.model} of {plan.run} at {plan.size[0]}x{plan.size[1]} would be written to:")
    for file in plan.onnx:
        console.say(f"  {file}")
    return plan


def _plan_engines(files: list[Path], building: BuildFlags) -> dict[str, str | list[str]]:
    from . import to_trt

    name, version = to_trt.check_flags(building)
    engines = [str(to_trt.engine_path(file)) for file in files]
    console.say(f"{name} {version} would build:")
    for engine in engines:
        console.say(f"  {engine}")
    return {"flavour": name, "version": version, "engines": engines}
