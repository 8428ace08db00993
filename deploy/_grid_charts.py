"""The plots of an ablation: mIoU over each setting of a grid, against the line of the student without a teacher.

As figures 1 and 5 (weights) and table 5 (positions) of Rethinking Knowledge Distillation with Raw Features.
"""

import itertools
import math
import re
from collections.abc import Sequence

from ..distill import methods
from ._comparison_charts import Row, reference
from ._entries import label_of
from ._plots import MOST_SERIES, Axis, clipped, dot, rule, svg, text
from .pictures import _spread, short

_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 520.0, 40.0, 300.0


def grid_charts(summary: Sequence[Row], teachers: Sequence[Row]) -> dict[str, str]:
    """Draw a plot of each setting: lines over numbers, dots side by side over names.

    The weights of all terms share one plot, as do settings of one name in several methods.

    Returns:
        SVG files by name; none for a setting with too many lines to tell apart.
    """
    axes: dict[str, dict[str, dict[str, Row]]] = {}
    for row in (row for row in summary if row["miou"] is not None):
        for key, value in row["grid"].items():
            name = _axis_name(key)
            others = {other: fixed for other, fixed in row["grid"].items() if other != key}
            mark = f" {key.split('.')[-1]}" if any(_axis_name(other) == name for other in others) else ""
            axes.setdefault(name, {}).setdefault(label_of(row["method"], others) + mark, {})[value] = row
    return {
        f"grid-{re.sub(r'[^a-zA-Z0-9]+', '-', name)}.svg": _chart(name, series, summary, teachers)
        for name, series in axes.items()
        if len(series) <= MOST_SERIES and max(map(len, series.values())) > 1
    }


def _chart(name: str, series: dict[str, dict[str, Row]], summary: Sequence[Row], teachers: Sequence[Row]) -> str:
    rows = [row for points in series.values() for row in points.values()]
    places, scale = _places(list(dict.fromkeys(value for points in series.values() for value in points)))
    x_of = {value: _LEFT + 30 + share * (_RIGHT - _LEFT - 60) for value, share in places.items()}
    alone, level = reference(summary, rows, teachers)
    scores = [100 * score for row in rows for score in row["scores"]]
    intervals = [_interval(row) for row in rows if row["low"] is not None]
    axis = Axis(scores if alone is None else [*scores, alone], intervals, level, (_BOTTOM, _TOP))
    parts = [rule(_LEFT, axis(tick), _RIGHT, axis(tick), "grid") for tick in axis.ticks]
    parts += [text(_LEFT - 8, axis(tick) + 4, short(tick), "soft", "end") for tick in axis.ticks]
    parts += [text(x, _BOTTOM + 17, value, "soft", "middle") for value, x in x_of.items()]
    parts.append(text(_RIGHT, _BOTTOM + 36, name if scale in ("", "names") else f"{name}, {scale}", "soft", "end"))
    parts.append(text(_LEFT - 8, _TOP - 14, "mIoU, %", "soft"))
    labels = []
    for value, kind, label in ((alone, "alone", "no teacher"), (level, "teacher", "teacher")):
        if value is not None and axis.holds(value):
            parts.append(rule(_LEFT, axis(value), _RIGHT, axis(value), kind))
            labels.append((axis(value), kind, label))
        elif value is not None:
            parts.append(text(_RIGHT, _TOP - 14, f"{label} {value:.2f}, off the scale", kind, "end"))
    marks = []
    for i, (label, points) in enumerate(series.items()):
        aside = 7.0 * (i - (len(series) - 1) / 2)  # so that intervals of one place do not hide each other
        found = [(x + aside, points[value]) for value, x in x_of.items() if value in points]
        if scale != "names":
            path = " ".join(f"{x:.1f},{axis(100 * row['miou']):.1f}" for x, row in found)
            marks.append(f'<polyline class="s{i}" points="{path}"/>')
        for x, row in found:
            if row["low"] is not None:
                low, high = map(axis, _interval(row))
                marks.append(rule(x, low, x, high, f"s{i}"))
            marks += [dot(x, axis(100 * score), 2.5, f"seed s{i}") for score in row["scores"]]
            marks.append(dot(x, axis(100 * row["miou"]), 4, f"s{i}"))
        labels.append((axis(100 * found[-1][1]["miou"]), f"s{i}", label))
    parts.append(clipped(marks, _LEFT, _TOP, _RIGHT, _BOTTOM))
    heights = _spread([y for y, _, _ in labels], foot=_BOTTOM)
    for (_, kind, label), y in zip(labels, heights, strict=True):
        parts.append(text(_RIGHT + 10, y + 4, label, f"{kind} name"))
    title = f"mIoU over {name}: seeds, means, and the 95 % interval of the paired difference around each mean"
    return svg(title, _RIGHT + 200, _BOTTOM + 46, parts)


def _axis_name(key: str) -> str:
    """Name the plot of a grid key: that of the weights, of the option's name, or of the key where all runs share it."""
    if not key.startswith("method."):
        return key
    _, method, option = key.split(".", 2)
    return "weight" if option in methods.load(method).weights else option


def _places(values: list[str]) -> tuple[dict[str, float], str]:
    """Return where between 0 and 1 each value stands, and the scale: logarithmic from a factor above 10 on.

    Two numbers, or numbers that would crowd on a linear scale, stand evenly, as names do.
    """
    numbers = {value: number for value in values if (number := _number(value)) is not None}
    if len(numbers) < len(values):
        return _shares({value: float(i) for i, value in enumerate(values)}), "names"
    ordered = sorted(numbers, key=lambda value: numbers[value])
    low, high = numbers[ordered[0]], numbers[ordered[-1]]
    if len(values) == 2:
        return _shares({value: float(i) for i, value in enumerate(ordered)}), "names"
    if low > 0 and high > 10 * low:
        return _shares({value: math.log(numbers[value]) for value in ordered}), "log scale"
    gap = min(numbers[b] - numbers[a] for a, b in itertools.pairwise(ordered))
    if gap < (high - low) / 20:
        return _shares({value: float(i) for i, value in enumerate(ordered)}), "not to scale"
    return _shares({value: numbers[value] for value in ordered}), ""


def _shares(at: dict[str, float]) -> dict[str, float]:
    low, high = min(at.values()), max(at.values())
    return {value: (place - low) / (high - low) for value, place in at.items()}


def _number(words: str) -> float | None:
    try:
        number = float(words)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _interval(row: Row) -> tuple[float, float]:
    """Return the interval of a row's paired difference, laid around its mean, in per cent."""
    middle = row["miou"] - row["difference"]
    return 100 * (middle + row["low"]), 100 * (middle + row["high"])
