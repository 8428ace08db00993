"""The plots of an ablation: mIoU over each setting of a grid, against the line of the student without a teacher.

As figures 1 and 5 (weights) and table 5 (positions) of Rethinking Knowledge Distillation with Raw Features.
"""

import itertools
import math
import re
from collections.abc import Sequence

from .. import methods
from ..charts.svg import MOST_SERIES, Scale, below, clipped, dot, file, fitted, labels, line, rows, rule, text
from .difference_chart import reference
from .plan import label_of
from .results import SummaryRow, TeacherRow

_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 520.0, 40.0, 300.0


def grid_charts(summary: Sequence[SummaryRow], teachers: Sequence[TeacherRow]) -> dict[str, str]:
    """Draw a plot of each setting: lines over numbers, dots side by side over names.

    The weights of all terms share one plot, as do settings of one name in several methods.

    Returns:
        SVG files by name; none for a setting with too many lines to tell apart.
    """
    axes: dict[str, dict[str, dict[str, SummaryRow]]] = {}
    for row in (row for row in summary if row.miou is not None):
        for key, value in row.grid.items():
            name = _axis_name(key)
            others = {other: fixed for other, fixed in row.grid.items() if other != key}
            mark = f" {key.split('.')[-1]}" if any(_axis_name(other) == name for other in others) else ""
            axes.setdefault(name, {}).setdefault(label_of(row.method, others) + mark, {})[value] = row
    return {
        f"grid-{re.sub(r'[^a-zA-Z0-9]+', '-', name)}.svg": _chart(name, series, summary, teachers)
        for name, series in axes.items()
        if len(series) <= MOST_SERIES and max(map(len, series.values())) > 1
    }


def _chart(
    name: str,
    series: dict[str, dict[str, SummaryRow]],
    summary: Sequence[SummaryRow],
    teachers: Sequence[TeacherRow],
) -> str:
    drawn = [row for points in series.values() for row in points.values()]
    places, how = axis_places(list(dict.fromkeys(value for points in series.values() for value in points)))
    x = Scale(list(places.values()), (_LEFT + 30, _RIGHT - 30), how == "log scale")
    alone, level = reference(summary, drawn, teachers)
    scores = [100 * score for row in drawn for score in row.scores] + ([] if alone is None else [alone])
    y = fitted(scores, (_BOTTOM, _TOP), [interval for row in drawn if (interval := _interval(row))], level)

    caption = name if how in ("", "names") else f"{name}, {how}"
    parts = rows(y, _LEFT, _RIGHT) + below([(x(at), value) for value, at in places.items()], caption, _RIGHT, _BOTTOM)
    parts.append(text(_LEFT - 8, _TOP - 14, "mIoU, %", "soft"))
    names = []
    for value, kind, label in ((alone, "alone", "no teacher"), (level, "teacher", "teacher")):
        if value is not None and y.holds(value):
            parts.append(rule(_LEFT, y(value), _RIGHT, y(value), kind))
            names.append((y(value), kind, label))
        elif value is not None:
            parts.append(text(_RIGHT, _TOP - 14, f"{label} {value:.2f}, off the scale", kind, "end"))

    marks = []
    for i, (label, points) in enumerate(series.items()):
        aside = 7.0 * (i - (len(series) - 1) / 2)  # so that intervals of one place do not hide each other
        path = [
            (x(at) + aside, y(100 * (points[value].miou or 0.0))) for value, at in places.items() if value in points
        ]
        if how != "names":
            marks.append(line(path, f"s{i}"))
        for (at, middle), row in zip(path, (points[value] for value in places if value in points), strict=True):
            if interval := _interval(row):
                low, high = map(y, interval)
                marks.append(rule(at, low, at, high, f"s{i}"))
            marks += [dot(at, y(100 * score), 2.5, f"seed s{i}") for score in row.scores]
            marks.append(dot(at, middle, 4, f"s{i}"))
        names.append((path[-1][1], f"s{i}", label))
    parts += [clipped(marks, _LEFT, _TOP, _RIGHT, _BOTTOM), *labels(names, _RIGHT + 10, _BOTTOM)]
    title = f"mIoU over {name}: seeds, means, and the 95 % interval of the paired difference around each mean"
    return file(title, _RIGHT + 200, _BOTTOM + 46, parts)


def _axis_name(key: str) -> str:
    """Name the plot of a grid key: "weight", the option's name, or the key itself where all runs share it."""
    if not key.startswith("method."):
        return key
    _, method, option = key.split(".", 2)
    return "weight" if option in methods.load(method).weights else option


def axis_places(values: list[str]) -> tuple[dict[str, float], str]:
    """Return the values in rising order, where each stands, and the scale: logarithmic from a factor above 10 on.

    Two numbers, or numbers that would crowd on a linear scale, stand evenly, as names do.
    """
    try:
        places = {value: float(value) for value in sorted(values, key=float)}
    except ValueError:
        places = {}
    if not places or not all(map(math.isfinite, places.values())):
        return {value: float(i) for i, value in enumerate(values)}, "names"

    evenly = {value: float(i) for i, value in enumerate(places)}
    low, *_, high = places.values()
    if len(values) == 2:
        return evenly, "names"
    if low > 0 and high > 10 * low:
        return places, "log scale"
    gap = min(b - a for a, b in itertools.pairwise(places.values()))
    return (evenly, "not to scale") if gap < (high - low) / 20 else (places, "")


def _interval(row: SummaryRow) -> tuple[float, float] | None:
    """Return the interval of a row's paired difference, laid around its mean, in per cent."""
    if row.interval is None or row.miou is None or row.difference is None:
        return None
    middle, (low, high) = row.miou - row.difference, row.interval
    return 100 * (middle + low), 100 * (middle + high)
