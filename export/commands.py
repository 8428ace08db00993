"""The commands of this room: ``kdc export onnx`` and ``kdc export trt``."""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..calib.commands import calib_with
from ..deploy.flags import takes_said
from ..distill import console
from ..distill.commands.command import command, group
from ..distill.commands.flags import takes
from ..distill.errors import ExportError, UsageError
from ..distill.run.records import Record
from .flags import Dry, EngineFlags, FileData, FileOut, OnnxFlags, SourceOrFile, refuse_idle, refuse_of_files
from .settings import BuildFlags, ExportSettings
from .targets_command import ExportedFiles, add_targets

if TYPE_CHECKING:
    from ..calib.low_manifest import LowPrecisionManifest
    from ..deploy.parity.produce import Product
    from ..deploy.runtimes.said import Said
    from ..distill.run.folder import Run
    from .demo import DemoPlan, DemoResult
    from .to_onnx import ExportPlan, OnnxManifest
    from .trt_manifest import EngineManifest


def register(app: typer.Typer) -> None:
    """Add ``kdc export`` to the command line."""
    exporting = group("Write a network for other runtimes, each file through a gate.")
    exporting.command("onnx")(command(export_onnx))
    exporting.command("trt")(command(export_trt))
    add_targets(exporting)
    app.add_typer(exporting, name="export")
    app.command("demo")(command(demo))


def export_like(run: "Run", like: Path, dry: bool = False) -> Path:
    """Do what ``to_onnx.export_like`` does; torch is imported only now."""
    from . import to_onnx

    return to_onnx.export_like(run, like, dry)


@dataclass(frozen=True)
class Engines(Record):
    """The manifests of the engines that were built."""

    engines: "list[EngineManifest]"


@dataclass(frozen=True)
class EnginePlan(Record):
    """What would be written and built."""

    MERGED = ("export",)

    export: "ExportPlan | NamedFile"
    flavour: str
    version: str
    engines: list[str]


@dataclass(frozen=True)
class NamedFile(Record):
    """An ONNX file that comes from no run."""

    onnx: list[str]


@takes_said
@takes("flags", OnnxFlags)
def export_onnx(
    run: SourceOrFile = None,
    *,
    flags: OnnxFlags,
    data: FileData = None,
    out: FileOut = None,
    said: "Said",
    dry_run: Dry = False,
) -> "ExportedFiles | ExportPlan | NamedFile":
    """Write self-contained ONNX files (fp32 unless --precision says more) and compare each with torch on real images.

    Of another maker's file: write one that says all that was settled of it. What fails its gate is not kept (exit 6).
    """
    settings = flags.settings()
    if run is not None and run.endswith(".onnx") and not _is_own(Path(run)):
        refuse_idle(vars(replace(flags, **dict.fromkeys(_OF_FILES))), f"{run} has a form already")
        return _export_file(Path(run), settings, said, data, out, dry_run)
    refuse_of_files(run or "the last run", said, data, out)
    if dry_run:
        return _plan(run, settings)
    return ExportedFiles([each.manifest for each in _export(run, settings)])


#: flags of ``kdc export onnx`` that mean something to a file of another maker
_OF_FILES = ("size", "precision", "images", "agreement", "keep_fp32", "allow_partial", "caster", "fit")


def _is_own(file: Path) -> bool:
    """Tell whether a file is kdc's own and lies in its run, which is then exported."""
    from ..deploy.artefacts.beside import owner
    from ..deploy.runtimes.ort_runtime import read_info

    return owner(file) is not None and read_info(file).own


def _export_file(
    file: Path, settings: ExportSettings, said: "Said", data: str | None, out: Path | None, dry_run: bool
) -> "ExportedFiles | NamedFile":
    from .from_file import export_file, written_path

    if dry_run:
        plan = NamedFile([str(written_path(file, out))])
        console.say(f"{file} would be written, with what was settled of it, to {plan.onnx[0]}")
        return plan
    return ExportedFiles([each.manifest for each in export_file(file, settings, said=said, data=data, out=out)])


@takes_said
@takes("engine", EngineFlags)
@takes("flags", OnnxFlags)
def export_trt(
    run: SourceOrFile = None,
    *,
    flags: OnnxFlags,
    engine: EngineFlags,
    said: "Said",
    dry_run: Dry = False,
) -> Engines | EnginePlan:
    """Write typed ONNX files (fp32, fp16) through their gates, then build engines with the installed TensorRT."""
    from . import to_trt

    settings = flags.settings()
    building = engine.build_flags()
    if run is not None and run.endswith(".onnx"):
        refuse_idle(vars(flags), f"{run} is built as it is")
        files, plan = [Path(run)], NamedFile([run])
    else:
        refuse_of_files(run or "the last run", said, None)
        if building.batches and not flags.dynamic_batch:
            raise UsageError("--batches is for engines with a free batch: add --dynamic-batch")
        if building.sizes:
            raise UsageError("--sizes is for an ONNX file that leaves height and width free; kdc's own never do")
        with contextlib.suppress(ExportError):  # without a TensorRT the ONNX files are written all the same
            to_trt.check_flags(building)

        if dry_run:
            plan = _plan(run, settings)
            files = [Path(file) for file in plan.onnx]
        else:
            exported, plan = _export(run, settings), None
            files = [each.path for each in exported if each.manifest.precision in settings.precisions]

    if dry_run and plan is not None:
        return _plan_engines(files, building, plan)
    return Engines([to_trt.build_engine(file, to_trt.engine_path(file), building, settings, said) for file in files])


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


def _plan_engines(files: list[Path], building: BuildFlags, plan: "ExportPlan | NamedFile") -> EnginePlan:
    from . import to_trt

    name, version = to_trt.check_flags(building)
    engines = [str(to_trt.engine_path(file)) for file in files]
    console.say(f"{name} {version} would build:")
    for engine in engines:
        console.say(f"  {engine}")
    return EnginePlan(plan, name, version, engines)


#: the function of ``kdc calib``, which exports the network that ``--qat`` has trained
calibrate = calib_with(export_like)


def demo(
    seed: Annotated[int, typer.Option(help="Seed of weights, sample order and augmentation.")] = 0,
    dry_run: Dry = False,
) -> "DemoResult | DemoPlan":
    """Do the whole job on generated scenes, say at the start how long it takes, and end with what was measured."""
    from .demo import plan_demo, run_demo

    return plan_demo(seed) if dry_run else run_demo(seed)
