"""How a comparison is told: tables on the terminal, CSV, JSON and a Markdown page with its plots beside it."""

import csv
import io
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .. import console
from ..run.files import write_bytes, write_json
from .difference_chart import difference_chart
from .folder import Comparison
from .grid_chart import grid_charts

#: methods that a table by class can show side by side; the CSV holds all
_MOST_COLUMNS = 10


def write(folder: Comparison, result: dict[str, Any]) -> list[Path]:
    """Write results.json, the CSV files, the plots and summary.md; return their paths."""
    charts = {"comparison.svg": difference_chart(result["summary"], result["teachers"])}
    charts |= grid_charts(result["summary"], result["teachers"])
    charts = {name: text for name, text in charts.items() if text}
    texts = {
        "results.csv": _csv(result["runs"], drop=("iou",), names=result["names"]),
        "summary.csv": _csv(result["summary"], drop=("pairs", "scores")),
        "per_class.csv": _csv(result["classes"]),
        **charts,
        "summary.md": markdown(result, list(charts)),
    }
    write_json(folder.path / "results.json", result)
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


def cells(row: dict[str, Any]) -> list[str]:
    """Write one row of the summary for people: per cent and points."""
    failed = f", {row['failed']} failed" if row["failed"] else ""
    interval = "-" if row["low"] is None else f"{points(row['low'])} to {points(row['high'])}"
    best, worst = (
        f"{c['name']} {points(c['difference'])}" if c else "-" for c in (row["best_class"], row["worst_class"])
    )
    return [
        row["label"],
        f"{len(row['seeds'])} of {row['planned']}{failed}",
        percent(row["miou"]),
        percent(row["sd"]),
        points(row["difference"]),
        interval,
        *(
            "-" if row[key] is None else f"{row[key]:.3f}" if row[key] >= 0.001 else "< 0.001"
            for key in ("p", "p_holm")
        ),
        row["verdict"] or "baseline",
        best,
        worst,
        percent(row["miou_last"]),
    ]


def percent(value: float | None) -> str:
    """Write a share in per cent."""
    return "-" if value is None else f"{100 * value:.2f}"


def points(value: float | None) -> str:
    """Write a change in percentage points, signed."""
    return "-" if value is None else f"{100 * value:+.2f}".replace("-", "\u2212")


def show(result: dict[str, Any]) -> None:
    """Print the summary for people."""
    console.table(_title(result), COLUMNS, [cells(row) for row in result["summary"]])
    for line in _teacher_lines(result):
        console.say(line)
    for note in result["notes"]:
        console.say(note)
    for name, error in result["failed"].items():
        console.say(f"{name} failed: {error}")
    console.say(f"tables and plots: {Path(result['out']) / 'summary.md'}")


def _title(result: dict[str, Any]) -> str:
    model, data = result["protocol"]["model"], result["protocol"]["data"]
    teacher = f"{model['teacher']} to " if model["teacher"] else ""
    return f"{teacher}{model['student']} on {data['source']}, {data['split']}"


def _teacher_lines(result: dict[str, Any]) -> list[str]:
    return [
        f"Teacher: {t['name']} from {t['source']}, mIoU {percent(t['miou'])} %"
        + (", privileged: it is shown the label" if t["privileged"] else "")
        for t in result["teachers"]
    ]


def markdown(result: dict[str, Any], charts: Sequence[str]) -> str:
    """Write the comparison as a Markdown page, the plots beside it."""
    train, model = result["protocol"]["train"], result["protocol"]["model"]
    crop = "x".join(map(str, train["crop"]))
    start = model["init"] or model["student_weights"] or "random weights"
    states = ", ".join(f"{count} {state}" for state, count in result["states"].items())
    lines = [f"# {_title(result)}", ""]
    lines += [
        f"{train['iters']} steps of {train['batch']} images at {crop}, {train['optimizer']}, learning rate "
        f"{train['lr']:g}, weight decay {train['weight_decay']:g}, precision {train['precision']}; the student starts "
        f"from {start}. Runs: {states}.",
        "",
    ]
    lines += [*_teacher_lines(result), ""] if result["teachers"] else []
    lines += [*_table(COLUMNS, [cells(row) for row in result["summary"]]), ""]
    lines += [f"- {note}" for note in result["notes"]] + [""]
    lines += [f"![{name.removesuffix('.svg').replace('-', ' ')}]({name})\n" for name in charts]
    lines += _class_table(result)
    if result["failed"]:
        lines += ["## Failed", "", *(f"- `{name}`: {error}" for name, error in result["failed"].items()), ""]
    lines += ["## Commands", "", "```", *(shlex.join(command) for command in result["commands"]), "```", ""]
    lines += ["Every run: `results.csv`; by class with intervals: `per_class.csv`; all of it: `results.json`."]
    return "\n".join(lines) + "\n"


def _class_table(result: dict[str, Any]) -> list[str]:
    labels = list(dict.fromkeys(row["label"] for row in result["classes"]))
    if not 0 < len(labels) <= _MOST_COLUMNS:
        return []
    found = {(row["label"], row["class"]): row for row in result["classes"]}
    rows = []
    for name in result["names"]:
        row = [name]
        for label in labels:
            values = found[label, name]
            change = "" if values["difference"] is None else f" ({points(values['difference'])})"
            row.append(percent(values["iou"]) + change)
        rows.append(row)
    text = "Mean IoU in per cent and, in brackets, the mean paired difference; no verdict is made class by class."
    return ["## By class", "", text, "", *_table(["class", *labels], rows), ""]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    ruler = ["---", *["--:"] * (len(columns) - 1)]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in (columns, ruler, *rows)]
