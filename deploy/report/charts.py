"""The report's curves: validation, losses, terms, phases, and the magnitudes of the features that are compared."""

from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

from ...distill.run import Run
from ..pictures import Point, Series, line_chart


def charts(
    run: Run, baseline: Run | None, scores: dict[str, dict[str, Any]], names: dict[str, str]
) -> list[dict[str, Any]]:
    """Return a title and an SVG for everything that metrics.jsonl follows over the steps.

    Args:
        run: whose curves they are.
        baseline: drawn beside it where the validation is.
        scores: final scores by role; the teacher's is a level line.
        names: what the page calls the roles.
    """
    records = run.records()
    main = [r for r in records if r.get("stage", "main") == "main"]
    drawn = [("Validation mIoU, %", _validation(main, baseline, scores, names))]
    total = [(r["step"], r["loss"]) for r in main if "loss" in r]
    task, terms = _followed(main, "task"), _followed(main, "terms")
    roles = ("before", "teacher")
    parts = [Series(name, points, role) for (name, points), role in zip(task.items(), roles, strict=False)]
    drawn.append(("Loss: total and task", line_chart("Loss", [Series("total", total, "after"), *parts])))
    weights = next((r["weights"] for r in reversed(main) if r.get("weights")), {})
    for name, points in terms.items():
        weight = f", weight {weights[name]:g}" if name in weights else ""
        drawn.append((f"Term {name}{weight}", line_chart(name, [Series(name.split(".")[-1], points, "after")])))
    drawn += _magnitudes(main)
    for stage in dict.fromkeys(r["stage"] for r in records if r.get("stage", "main") != "main"):
        points = [(r["step"], r["loss"]) for r in records if r.get("stage") == stage and "loss" in r]
        drawn.append((f"Phase {stage}: loss", line_chart(f"Phase {stage}", [Series("loss", points, "after")])))
    return [{"title": title, "svg": Markup(svg)} for title, svg in drawn if svg]


def _validation(
    main: list[dict[str, Any]], baseline: Run | None, scores: dict[str, dict[str, Any]], names: dict[str, str]
) -> str:
    def vals(records: Iterable[dict[str, Any]]) -> list[Point]:
        return [(r["step"], r["val"]["miou"]) for r in records if r.get("stage", "main") == "main" and "val" in r]

    own, other = vals(main), vals(baseline.records()) if baseline else []
    lines = [Series(names.get("before", ""), other, "before"), Series(names["after"], own, "after")]
    level = scores.get("teacher", {}).get("miou")
    if level is not None and own + other:
        steps = [x for x, _ in own + other]
        lines.insert(0, Series("teacher", [(min(steps), level), (max(steps), level)], "teacher"))
    return line_chart("Validation mIoU", lines, percent=True)


def _magnitudes(main: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Draw m, n and mn/N of every method that compares a feature (Rethinking KD with Raw Features, figure 2)."""
    drawn = []
    for method in dict.fromkeys(name for r in main for name in r.get("features") or {}):
        logged = [(r["step"], r["features"][method]) for r in main if method in (r.get("features") or {})]
        lines = {key: [(step, values[key]) for step, values in logged] for key in ("m", "n", "mn/N")}
        both = [Series("teacher m", lines["m"], "teacher"), Series("student n", lines["n"], "after")]
        drawn.append((f"{method}: magnitudes of the features", line_chart(f"Magnitudes, {method}", both)))
        title = f"{method}: mn/N, the weight of the angle"
        drawn.append((title, line_chart(title, [Series("mn/N", lines["mn/N"], "after")])))
    return drawn


def _followed(main: list[dict[str, Any]], group: str) -> dict[str, list[Point]]:
    """Return the points of each value of a group of the records, by name."""
    found: dict[str, list[Point]] = {}
    for r in main:
        for name, value in (r.get(group) or {}).items():
            found.setdefault(name, []).append((r["step"], value))
    return found
