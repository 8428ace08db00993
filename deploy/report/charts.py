"""The report's curves: validation, losses, terms, phases, and the magnitudes of the features that are compared."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from markupsafe import Markup

from ...distill.charts.lines import Series, line_chart
from .records import Line


@dataclass(frozen=True)
class Chart:
    """A curve, or several, as SVG."""

    title: str
    svg: Markup


def charts(lines: list[Line], baseline: list[Line], teacher: float | None, names: dict[str, str]) -> list[Chart]:
    """Draw everything that metrics.jsonl follows over the steps.

    Args:
        lines: of the run.
        baseline: of the baseline, drawn with the run's validation.
        teacher: its mIoU, a level line.
        names: what the page calls the roles.
    """
    stages = _stages(lines)
    main = stages.pop("main", [])
    drawn = [("Validation mIoU, %", _validation(main, _stages(baseline).get("main", []), teacher, names))]

    roles = zip(_keys(line.task for line in main), ("before", "teacher"), strict=False)
    losses = [_series("total", "after", ((line.step, line.loss) for line in main))]
    losses += [_series(name, role, ((line.step, line.task.get(name)) for line in main)) for name, role in roles]
    drawn.append(("Loss: total and task", line_chart("Loss", losses)))

    weights = next((line.weights for line in reversed(main) if line.weights), {})
    for name in _keys(line.terms for line in main):
        weight = f", weight {weights[name]:g}" if name in weights else ""
        term = _series(name.split(".")[-1], "after", ((line.step, line.terms.get(name)) for line in main))
        drawn.append((f"Term {name}{weight}", line_chart(name, [term])))

    for method in _keys(line.features for line in main):  # as in figure 2 of Rethinking KD with Raw Features
        values = [(line.step, line.features.get(method, {})) for line in main]
        labels = ("teacher m", "teacher", "m"), ("student n", "after", "n"), ("mn/N", "after", "mn/N")
        *both, angle = (_series(name, role, ((step, by.get(key)) for step, by in values)) for name, role, key in labels)
        drawn.append((f"{method}: magnitudes of the features", line_chart(f"Magnitudes, {method}", both)))
        title = f"{method}: mn/N, the weight of the angle"
        drawn.append((title, line_chart(title, [angle])))

    for stage, steps in stages.items():
        loss = _series("loss", "after", ((line.step, line.loss) for line in steps))
        drawn.append((f"Phase {stage}: loss", line_chart(f"Phase {stage}", [loss])))
    return [Chart(title, Markup(svg)) for title, svg in drawn if svg]


def _validation(main: list[Line], alone: list[Line], teacher: float | None, names: dict[str, str]) -> str:
    series = [
        _series(names.get(role, ""), role, ((line.step, line.val.miou) for line in lines if line.val))
        for role, lines in (("before", alone), ("after", main))
    ]
    if teacher is not None and (steps := [step for each in series for step, _ in each.points]):
        series.insert(0, Series("teacher", [(min(steps), teacher), (max(steps), teacher)], "teacher"))
    return line_chart("Validation mIoU", series, percent=True)


def _stages(lines: list[Line]) -> dict[str, list[Line]]:
    stages: dict[str, list[Line]] = {}
    for line in lines:
        stages.setdefault(line.stage, []).append(line)
    return stages


def _keys(groups: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(chain.from_iterable(groups)))


def _series(name: str, role: str, points: Iterable[tuple[int, float | None]]) -> Series:
    """Return the line through the points that have a value."""
    return Series(name, [(step, value) for step, value in points if value is not None], role)
