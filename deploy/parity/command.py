"""The command ``kdc parity``: is this the same network still, and if not, since when."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...distill import console
from ...distill.errors import NumbersError, UsageError, WeightsError
from ...distill.run.records import Record
from ..flags import steady, takes_runtime_options

if TYPE_CHECKING:
    from ...distill.data import Dataset
    from ..runtimes.options import RuntimeOptions
    from .chain import Outcome
    from .golden import GoldenResult
    from .layers import Explanation


@dataclass(frozen=True)
class ParityResult(Record):
    """Every comparison, in order; ``first_broken`` is the stage of the first that failed."""

    kind: str
    arrows: "list[Outcome]"
    first_broken: str | None
    explanation: "Explanation | None"


@dataclass(frozen=True)
class GoldenCheck(Record):
    """A file against the golden image that travels with it."""

    MERGED = ("result",)

    kind: str
    result: "GoldenResult"


@takes_runtime_options()
@steady
def parity(
    first: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN|FILE",
            help="A run: every file in its export/, each against what it was made from (the last run if not named). "
            "A file alone: against the golden image that travels with it; an ONNX file without, or with --data: in "
            "every runtime that opens it here, against ONNX Runtime.",
        ),
    ] = None,
    second: Annotated[
        str | None, typer.Argument(metavar="RUN|FILE", help="What is compared with the first, which is trusted.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Images of every comparison, evenly spread (default 16).")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Find the first layer that diverges (checkpoint or ONNX against ONNX).")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME|DIR", help="Data that files are compared on; those of their run if not named."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of --data (default val).")] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="HxW", help="Input size of two things that are made for none.")
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Of a run, compare the checkpoint compiled by torch, too.")
    ] = False,
    *,
    options: "RuntimeOptions",
) -> "ParityResult | GoldenCheck":
    """Compare exported files with what they were made from: logits, masks, scores, preprocessing (exit 6 if broken)."""
    from ...distill.run.folder import find_run
    from ...distill.settings.config import parse_size
    from ..artefacts.beside import EXPORTED, golden_path
    from ..runtimes.options import is_onnx

    alone = second is None
    is_file = alone and first is not None and Path(first).suffix.lower() in EXPORTED
    settings = {"--data": data, "--size": size, "--split": split}
    if alone and not is_file and (idle := [flag for flag, value in settings.items() if value is not None]):
        raise UsageError(f"{idle[0]} is for two things that are compared: kdc parity FIRST SECOND {idle[0]} ...")
    if compiled and (is_file or not alone):
        raise UsageError("--compiled is for a whole run: kdc parity RUN --compiled")
    if is_file and explain:
        raise UsageError(f"--explain needs what {first} was made from: kdc parity RUN|OTHER {first} --explain")
    dataset, shape, count = _open_data(data, split), parse_size(size) if size else None, images or 16

    if is_file and first is not None:
        file = Path(first)
        asked = any(value is not None for value in (data, size, images))
        if not asked and (not is_onnx(file) or golden_path(file).is_file() or not file.is_file()):
            return _check_file(file, options)
        from .across import across

        outcomes = across(file, dataset or _own_data(file), images=count, options=options, size=shape)
    elif first is not None and second is not None:
        from .chain import compare

        outcomes = [
            compare(first, second, dataset=dataset, images=count, options=options, size=shape, explained=explain)
        ]
    else:
        from .chain import walk

        outcomes = walk(find_run(first), images=images or 16, options=options, compiled=compiled, explained=explain)

    _show_outcomes(outcomes)
    broken = next((each for each in outcomes if each.failed), None)
    explanation = next((each.explanation for each in outcomes if each.explanation), None)
    if explanation is not None:
        _show_layers(explanation)
    result = ParityResult("parity", outcomes, broken.comparison.stage if broken else None, explanation)
    if broken is not None:
        raise NumbersError(
            f"the first broken stage is {broken.comparison.stage}: {'; '.join(broken.reasons())}", result
        )
    return result


def _open_data(data: str | None, split: str | None) -> "Dataset | None":
    if data is None:
        if split is not None:
            raise UsageError("--split goes with --data NAME|DIR")
        return None
    from ...distill.data import open_data

    return open_data(data, split or "val")


def _own_data(file: Path) -> "Dataset":
    from ..artefacts.beside import golden_path, owner

    run = owner(file)
    if run is None:
        raise WeightsError(
            f"{file} is in no run and has no golden image beside it: copy {golden_path(file).name} along, or name data "
            f"that its runtimes are compared on: kdc parity {file} --data NAME|DIR"
        )
    return run.open_data(run.config.data.split)


def _check_file(artefact: Path, options: "RuntimeOptions") -> GoldenCheck:
    from .golden import check_golden

    result = check_golden(artefact, options)
    console.say(f"{artefact.name}: {'passed' if result.passed else 'FAILED'}, {result.line()}")
    check = GoldenCheck("golden", result)
    if not result.passed:
        raise NumbersError(f"{artefact.name} is not what passed its gate: {'; '.join(result.reasons)}", check)
    return check


def _show_outcomes(outcomes: "list[Outcome]") -> None:
    rows = []
    for each in outcomes:
        ends = each.to_dict()
        name = f"{ends['from']} -> {ends['to']}"
        if each.result is None:
            rows.append([name, "BROKEN" if each.broken else "not run", *["-"] * 8])
            continue
        r = each.result
        worst = f"{r.worst_class.name} {r.worst_class.drop:+.2f}" if r.worst_class else "-"
        rows.append(
            [
                name,
                "passed" if r.passed else "BROKEN",
                f"{100 * r.agreement:.3f}",
                f"{100 * r.tied:.3f}",
                _number(r.max_diff),
                _number(r.mean_diff),
                str(r.not_finite[1]),
                "-"
                if r.miou_reference is None
                else f"{100 * r.miou_reference:.2f} -> {100 * (r.miou_candidate or 0):.2f}",
                worst,
                "-" if r.boundary_drop is None else f"{r.boundary_drop:+.2f}",
            ]
        )

    first = next((each.result for each in outcomes if each.result), None)
    title = f"parity on {first.images} images of {first.data}; lost points of IoU are positive" if first else "parity"
    columns = ("from -> to", "", "agree %", "ties %", "max diff", "mean", "NaN/inf", "mIoU", "worst class", "boundary")
    console.table(title, columns, rows)

    for each in outcomes:
        if each.failed:
            console.warn(f"{each.comparison.stage}: {'; '.join(each.reasons())}")
        elif each.unrun:
            console.warn(f"{each.comparison.stage}: not run here: {each.unrun}")


def _show_layers(explanation: "Explanation") -> None:
    console.say(explanation.line())
    rows = [[layer.name, layer.op, f"{layer.error:.2g}", f"{layer.error_in:.2g}"] for layer in explanation.worst]
    console.table("layers that add most", ("layer", "operator", "relative error", "of its inputs"), rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
