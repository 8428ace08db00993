"""The commands of this room: ``kdc export onnx`` and ``kdc export trt``."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..distill import console
from ..distill.errors import ExportError, UsageError
from .flags import (
    FORM,
    Agreement,
    Batches,
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
    from ..distill.run.folder import Run

#: flags of ``kdc export onnx`` that an ONNX file that exists has no use for
_ONNX_FLAGS = (*FORM, "precision", "opset", "images", "agreement", "keep_fp32")


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
    which: Which = None,
    dry_run: Dry = False,
    json: Json = False,
) -> None:
    """Write self-contained ONNX files (fp32 unless --precision says more) and compare each with torch on real images.

    A file beyond the gate's tolerance is removed (exit 6).
    """
    settings = export_settings(size, head, input, dynamic_batch, images, agreement, which, precision, opset, keep_fp32)
    console.json_mode = json
    result = _plan(run, settings) if dry_run else {"files": [each.manifest for each in _export(run, settings)]}
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
    """Write typed ONNX files (fp32, fp16) through their gates, then build engines with the TensorRT that is there."""
    from . import to_trt

    precision = "both" if precision is None else precision
    settings = export_settings(size, head, input, dynamic_batch, images, agreement, which, precision, opset, keep_fp32)
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
        result: dict[str, Any] = {"onnx": [run]} if dry_run else {}
        files = [Path(run)]
    else:
        if batches and not dynamic_batch:
            raise UsageError("--batches is for engines with a free batch: add --dynamic-batch")
        if sizes:
            raise UsageError("--sizes is for an ONNX file that leaves height and width free; kdc's own never do")
        with contextlib.suppress(ExportError):  # without a TensorRT the ONNX files are written all the same
            to_trt.check_flags(building)
        result = _plan(run, settings) if dry_run else {}
        exported = [] if dry_run else _export(run, settings)
        files = [each.path for each in exported if each.precision in settings.precisions]

    if dry_run:
        result |= _plan_engines(result["onnx"], building)
    else:
        result["engines"] = [_engine(file, building, settings) for file in files]
    if json:
        console.emit(result)


def _export(run: str | None, settings: ExportSettings) -> list[Any]:
    from ..distill.run.folder import find_run
    from .to_onnx import export_run

    return export_run(find_run(run), settings)


def _engine(file: Path, building: BuildFlags, settings: ExportSettings) -> dict[str, Any]:
    """Build the engine of an ONNX file; one that runs here and belongs to a run goes through the gate too."""
    from ..deploy.artefacts.beside import owner
    from ..deploy.artefacts.lock import exporting
    from ..deploy.parity.produce import prove
    from . import to_trt

    path = to_trt.engine_path(file)
    if (run := owner(path)) is None:
        return to_trt.build_engine(file, path, building)
    with exporting(run):
        manifest = to_trt.build_engine(file, path, building)
        if manifest["proof"]:
            gate = {"images": settings.images, "agreement": settings.agreement}
            return prove(run, path, file, manifest, **gate, cure=to_trt.CURE)
        run.seal()
    return manifest


def _plan(run: str | None, settings: ExportSettings) -> dict[str, Any]:
    from ..distill.run.folder import find_run
    from .to_onnx import plan_run

    plan = plan_run(find_run(run), settings)
    console.say(f"{plan['model']} of {plan['run']} at {plan['size'][0]}x{plan['size'][1]} would be written to:")
    for file in plan["onnx"]:
        console.say(f"  {file}")
    return plan


def _plan_engines(files: list[str], building: BuildFlags) -> dict[str, Any]:
    from . import to_trt

    name, version = to_trt.check_flags(building)
    engines = [str(to_trt.engine_path(Path(file))) for file in files]
    console.say(f"{name} {version} would build:")
    for engine in engines:
        console.say(f"  {engine}")
    return {"flavour": name, "version": version, "engines": engines}
