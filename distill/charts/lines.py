"""Lines over training steps, for a page that colours them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from .svg import Scale, below, dot, inline, labels, line, log_ticks, rows, short, ticks

Point = tuple[float, float]

#: in CSS pixels: narrow enough to stay legible when a phone shows it at full width
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 470, 250, 48, 362, 14, 216
#: more points than a chart has pixels are averaged
_MOST_POINTS = 240


class Series(NamedTuple):
    """One line: ``(step, value)`` points; ``role`` is the CSS class that colours it."""

    name: str
    points: Sequence[Point]
    role: str


def line_chart(title: str, series: Sequence[Series], *, percent: bool = False) -> str:
    """Draw lines over training steps as an SVG element; an empty string when there is nothing to draw.

    Args:
        title: the first words of a screen reader.
        series: the lines; values that are not finite are left out.
        percent: values are fractions, shown as per cent on an axis from 0.
    """
    factor, unit = (100.0, " %") if percent else (1.0, "")
    drawn = [(s, _thin([(x, y * factor) for x, y in s.points if math.isfinite(y)])) for s in series]
    drawn = [(s, points) for s, points in drawn if points]
    if not drawn:
        return ""

    steps, values = zip(*(point for _, points in drawn for point in points), strict=True)
    low, high = min(values), max(values)
    log = not percent and low > 0 and high > 40 * low
    if not log and (percent or 0 <= low < 0.6 * high):
        low = 0.0
    if low == high:
        low, high = min(low, 0.0), max(high, 0.0) or 1.0
    y = Scale(log_ticks(low, high, (1,)) if log else ticks(low, high), (_BOTTOM, _TOP), log)
    ends = min(steps), max(steps)
    x = Scale(ends, (_LEFT, _RIGHT))

    places = [(x(tick), short(tick)) for tick in ticks(*ends, 4, inside=True)]
    parts = rows(y, _LEFT, _RIGHT) + below(places, "step, log scale" if log else "step", _RIGHT, _BOTTOM, 31)
    for s, points in drawn:
        path = [(x(step), y(value)) for step, value in points]
        parts += [line(path, f"line {s.role}"), dot(*path[-1], 3, f"dot {s.role}")]
    parts += labels([(y(points[-1][1]), s.role, s.name) for s, points in drawn], _RIGHT + 9, _BOTTOM)
    ends_at = ", ".join(f"{s.name} ends at {short(points[-1][1])}{unit}" for s, points in drawn)
    return inline(f"{title}: {ends_at}", _WIDTH, _HEIGHT, parts)


def _thin(points: list[Point]) -> list[Point]:
    group = math.ceil(len(points) / _MOST_POINTS) or 1
    parts = [points[i : i + group] for i in range(0, len(points), group)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]
