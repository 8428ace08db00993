"""The output of a comparison: tables on the terminal, CSV, JSON, a Markdown page with its plots, and an HTML page."""

import csv
import io
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .. import console, units
from ..run.files import write_bytes, write_json
from ..settings.config import Config
from .difference_chart import difference_chart
from .folder import Comparison
from .grid_chart import grid_charts
from .page import comparison_page
from .results import Results, SummaryRow

#: the page that shows all of it
PAGE = "comparison.html"
#: methods that a table by class can show side by side; the CSV holds all
_MOST_COLUMNS = 10


def write(folder: Comparison, results: Results) -> list[Path]:
    """Write results.json, the CSV files, the plots, summary.md and the HTML page; return their paths."""
    charts = {"comparison.svg": difference_chart(results.summary, results.teachers)}
    charts |= grid_charts(results.summary, results.teachers)
    charts = {name: text for name, text in charts.items() if text}

    values = results.to_dict()
    texts = {
        "results.csv": _csv(values["runs"], drop=("iou",), names=results.names),
        "summary.csv": _csv(values["summary"], drop=("pairs", "scores")),
        "per_class.csv": _csv(values["classes"]),
        **charts,
        "summary.md": markdown(results, list(charts)),
        PAGE: comparison_page(results, _title(results), charts),
    }

    write_json(folder.path / "results.json", values)
    for name, text in texts.items():
        write_bytes(folder.path / name, text.encode())
    for old in folder.path.glob("*.svg"):  # of a grid that is no longer in the plan
        if old.name not in charts:
            old.unlink()
    return [folder.path / name for name in ("results.json", *texts)]


def _csv(rows: Sequence[dict[str, Any]], drop: Sequence[str] = (), names: Sequence[str] = ()) -> str:
    """Write rows as CSV, fractions as they are; with ``names`` the IoU of each class at the end."""
    keys = [key for key in (rows[0] if rows else ()) if key not in drop]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*keys, *(f"iou {name}" for name in names)])
    for row in rows:
        table.writerow([*(_flat(row[key]) for key in keys), *(row["iou"] or [""] * len(names) if names else ())])
    return text.getvalue()


def _flat(value: Any) -> Any:
    if isinstance(value, dict):
        return " ".join(f"{key}={each}" for key, each in value.items()) if "name" not in value else value["name"]
    return " ".join(map(str, value)) if isinstance(value, list) else value


COLUMNS = (
    "method", "runs", "mIoU %", "sd", "difference", "95 % interval", "p", "p (Holm)", "verdict", "best class",
    "worst class", "last step %",
)  # fmt: skip


def cells(row: SummaryRow) -> list[str]:
    """Write one row of the summary for people: per cent and points."""
    failed = f", {row.failed} failed" if row.failed else ""
    best, worst = (f"{c.name} {points(c.difference)}" if c else "-" for c in (row.best_class, row.worst_class))
    return [
        row.label,
        f"{len(row.seeds)} of {row.planned}{failed}",
        percent(row.miou),
        percent(row.sd),
        points(row.difference),
        " to ".join(map(points, row.interval)) if row.interval else "-",
        *("-" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001" for p in (row.p, row.p_holm)),
        row.verdict or "baseline",
        best,
        worst,
        percent(row.miou_last),
    ]


def percent(value: float | None) -> str:
    """Write a share in per cent."""
    return "-" if value is None else units.percent(value)


def points(value: float | None) -> str:
    """Write a change in percentage points, signed."""
    return "-" if value is None else units.points(value)


def show_results(results: Results) -> None:
    """Print the summary for people."""
    console.table(_title(results), COLUMNS, [cells(row) for row in results.summary])
    for line in (*_teacher_lines(results), *results.notes):
        console.say(line)
    for name, error in results.failed.items():
        console.say(f"{name} failed: {error}")
    console.say(f"tables and plots: {Path(results.out) / 'summary.md'}, {PAGE}")


def _title(results: Results) -> str:
    base = Config.model_validate(results.protocol)
    teacher = f"{base.model.teacher} to " if base.model.teacher else ""
    return f"{teacher}{base.model.student} on {base.data.source}, {base.data.split}"


def _teacher_lines(results: Results) -> list[str]:
    return [
        f"Teacher: {teacher.name} from {teacher.source}, mIoU {percent(teacher.miou)} %"
        + (", privileged: it is shown the label" if teacher.privileged else "")
        for teacher in results.teachers
    ]


def markdown(results: Results, charts: Sequence[str]) -> str:
    """Write the comparison as a Markdown page, the plots beside it."""
    base = Config.model_validate(results.protocol)
    train, crop = base.train, "x".join(map(str, base.train.crop))
    start = base.model.init or base.model.student_weights or "random weights"
    states = ", ".join(f"{count} {state}" for state, count in results.states.items())
    lines = [
        f"# {_title(results)}",
        "",
        f"{train.iters} steps of {train.batch} images at {crop}, {train.optimizer}, learning rate {train.lr:g}, weight "
        f"decay {train.weight_decay:g}, precision {train.precision}; the student starts from {start}. Runs: {states}.",
        "",
    ]

    lines += [*_teacher_lines(results), ""] if results.teachers else []
    lines += [*_table(COLUMNS, [cells(row) for row in results.summary]), ""]
    lines += [f"- {note}" for note in results.notes] + [""]
    lines += [f"![{name.removesuffix('.svg').replace('-', ' ')}]({name})\n" for name in charts]
    lines += _class_table(results)

    if results.failed:
        lines += ["## Failed", "", *(f"- `{name}`: {error}" for name, error in results.failed.items()), ""]
    lines += ["## Commands", "", "```", *(shlex.join(command) for command in results.commands), "```", ""]
    lines += ["Every run: `results.csv`; by class with intervals: `per_class.csv`; all of it: `results.json`."]
    return "\n".join(lines) + "\n"


def _class_table(results: Results) -> list[str]:
    labels = list(dict.fromkeys(row.label for row in results.classes))
    if not 0 < len(labels) <= _MOST_COLUMNS:
        return []
    by_place = {(row.label, row.name): row for row in results.classes}
    rows = []
    for name in results.names:
        cells_of_class = [name]
        for label in labels:
            row = by_place[label, name]
            change = "" if row.difference is None else f" ({points(row.difference)})"
            cells_of_class.append(percent(row.iou) + change)
        rows.append(cells_of_class)
    text = "Mean IoU in per cent and, in brackets, the mean paired difference; no verdict is made class by class."
    return ["## By class", "", text, "", *_table(["class", *labels], rows), ""]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    ruler = ["---", *["--:"] * (len(columns) - 1)]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in (columns, ruler, *rows)]
