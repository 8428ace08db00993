"""The report's curves: validation, losses, terms, phases, and the magnitudes of the features that are compared."""

from functools import reduce
from typing import Any

from markupsafe import Markup

from ...distill.charts.lines import Series, line_chart
from ...distill.run.folder import Run

Record = dict[str, Any]


def charts(run: Run, baseline: Run | None, scores: dict[str, Record], names: dict[str, str]) -> list[Record]:
    """Return a title and an SVG for everything that metrics.jsonl follows over the steps.

    Args:
        run: whose curves they are.
        baseline: drawn beside it where the validation is.
        scores: final scores by role; the teacher's is a level line.
        names: what the page calls the roles.
    """
    stages = _stages(run)
    main = stages.pop("main", [])
    alone = _stages(baseline).get("main", []) if baseline else []

    lines = [_line(names.get("before", ""), "before", alone, "val", "miou")]
    lines.append(_line(names["after"], "after", main, "val", "miou"))
    level, steps = scores.get("teacher", {}).get("miou"), [step for line in lines for step, _ in line.points]
    if level is not None and steps:
        lines.insert(0, Series("teacher", [(min(steps), level), (max(steps), level)], "teacher"))
    drawn = [("Validation mIoU, %", line_chart("Validation mIoU", lines, percent=True))]

    tasks = zip(_names(main, "task"), ("before", "teacher"), strict=False)
    lines = [_line("total", "after", main, "loss"), *(_line(name, role, main, "task", name) for name, role in tasks)]
    drawn.append(("Loss: total and task", line_chart("Loss", lines)))
    weights = next((r["weights"] for r in reversed(main) if r.get("weights")), {})
    for name in _names(main, "terms"):
        weight = f", weight {weights[name]:g}" if name in weights else ""
        line = _line(name.split(".")[-1], "after", main, "terms", name)
        drawn.append((f"Term {name}{weight}", line_chart(name, [line])))

    for method in _names(main, "features"):  # as in figure 2 of Rethinking KD with Raw Features
        features = ("teacher m", "teacher", "m"), ("student n", "after", "n"), ("mn/N", "after", "mn/N")
        *both, angle = (_line(name, role, main, "features", method, key) for name, role, key in features)
        drawn.append((f"{method}: magnitudes of the features", line_chart(f"Magnitudes, {method}", both)))
        title = f"{method}: mn/N, the weight of the angle"
        drawn.append((title, line_chart(title, [angle])))
    for stage, records in stages.items():
        drawn.append((f"Phase {stage}: loss", line_chart(f"Phase {stage}", [_line("loss", "after", records, "loss")])))
    return [{"title": title, "svg": Markup(svg)} for title, svg in drawn if svg]


def _stages(run: Run) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in run.records():
        found.setdefault(record.get("stage", "main"), []).append(record)
    return found


def _names(records: list[Record], group: str) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record.get(group) or {}))


def _line(name: str, role: str, records: list[Record], *keys: str) -> Series:
    """Return the line of a value: ``keys`` lead to it in each record that has it."""
    found = ((record["step"], reduce(lambda group, key: (group or {}).get(key), keys, record)) for record in records)
    return Series(name, [(step, value) for step, value in found if value is not None], role)
