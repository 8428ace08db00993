"""The commands of this room: ``kdc bench``, ``eval``, ``predict``, ``report``, ``parity``, ``trust``, ``doctor``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..distill import console
from ..distill.commands.command import command
from ..distill.commands.flags import takes
from ..distill.run.records import Record
from .artefacts.trust_command import register_trust
from .bench.commands import register_bench
from .bench.evaluation_data import EvaluationData
from .flags import Blend, FitFlag, Overlap, Tile, read_size, takes_runtime_options
from .parity.command import parity
from .predict.command import predict

if TYPE_CHECKING:
    from .bench.accuracy import Evaluation
    from .doctor.doctor import Examination
    from .runtimes.options import RuntimeOptions


def register(app: typer.Typer) -> None:
    """Add this room's commands to the command line."""
    register_bench(app)
    app.command("eval")(command(evaluate))
    app.command("predict")(command(predict))
    app.command("report")(command(report))
    app.command("parity")(command(parity))
    register_trust(app)
    app.command("doctor")(command(doctor))


@takes("data", EvaluationData, first=4, before="tile")
@takes_runtime_options(split=True)
def evaluate(
    source: Annotated[
        str | None,
        typer.Argument(metavar="RUN|FILE", help="Run, checkpoint or ONNX file; the last run if not named."),
    ] = None,
    *,
    data: EvaluationData,
    options: "RuntimeOptions",
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Input size, for an ONNX file that leaves it free.")
    ] = None,
    tile: Tile = "off",
    overlap: Overlap = None,
    blend: Blend = None,
    fit: FitFlag = None,
) -> "Evaluation":
    """Evaluate a network on whole images: mIoU, per-class IoU, boundaries, pixel accuracy."""
    from .bench.accuracy import evaluate_source, show_evaluation
    from .predict.segmenter import Windows

    windows = Windows.from_flags(tile, overlap, blend, fit)
    result = evaluate_source(source, data, options=options, size=read_size(size), windows=windows)
    show_evaluation(result)
    return result


@dataclass(frozen=True)
class ReportPage(Record):
    """A report that was written."""

    path: Path


def report(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Run folder or name; the last run if not named.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="RUN", help="Compare with this run (default: the run's own baseline).")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="[TAP]",
            help="Draw where a feature is active in each network; the one that the method compares if not named.",
        ),
    ] = None,
    others: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="RUN", help="Picture this run's network, too; may be given several times."),
    ] = None,
) -> ReportPage:
    """Write one HTML file with everything that is known about a run."""
    from ..distill.run.folder import find_run
    from ..distill.run.seal import blaming
    from .report.report import collect, write_report

    folder, alone = find_run(run), find_run(baseline) if baseline else None
    with blaming(folder.path):
        page = collect(folder, alone, features=features, others=[find_run(other) for other in others or ()])
        path = write_report(folder, page)
    console.say(f"report: {path}")
    return ReportPage(path)


def doctor() -> "Examination":
    """Say what this machine has, what it lacks, and the command that cures it."""
    from .doctor.doctor import examine, show_examination

    result = examine()
    show_examination(result)
    return result
