"""The plot of a trade-off: mIoU over each cost, side by side, with the front of what nothing else beats."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from .._plots import MOST_SERIES, Axis, dot, rule, svg, text
from ..pictures import short

Row = dict[str, Any]
_PANEL, _LEFT, _GAP, _TOP, _HEIGHT = 250.0, 52.0, 34.0, 46.0, 230.0
#: a cost that spans more than this factor is drawn on a logarithmic scale
_WIDE = 8.0
#: dots closer than this share one label
_NEAR = 12.0


class LogAxis:
    """A logarithmic scale from positive values to pixels, with ticks at 1, 2 and 5."""

    def __init__(self, values: Sequence[float], pixels: tuple[float, float]) -> None:
        low, high = min(values), max(values)
        steps = [
            m * 10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in (1, 2, 5)
        ]
        first = max(s for s in steps if s <= low * 1.0001)
        last = min(s for s in steps if s >= high * 0.9999)
        self.ticks = [s for s in steps if first <= s <= last * 1.0001]
        if len(self.ticks) > 6:  # whole decades where the labels would touch
            self.ticks = [s for s in self.ticks if s in (first, last) or math.log10(s).is_integer()]
        self._low, self._high, self.pixels = math.log(first), math.log(last), pixels

    def __call__(self, value: float) -> float:
        first, last = self.pixels
        return first + (math.log(value) - self._low) / ((self._high - self._low) or 1.0) * (last - first)


def tradeoff_chart(rows: Sequence[Row], costs: Mapping[str, tuple[str, str]], conditions: str) -> str:
    """Draw a panel for each cost: numbered dots, a colour a network, filled on the front, which a line joins.

    Args:
        rows: of ``bench_tradeoff``.
        costs: key of a row, name and unit of each cost.
        conditions: what was measured with and on.

    Returns:
        The SVG file; it says so where nothing was measured.
    """
    networks = list(dict.fromkeys(row["network"] for row in rows))
    colours = {name: f"s{i % MOST_SERIES}" for i, name in enumerate(networks)}
    scored = [row for row in rows if row["miou"] is not None]
    parts = [text(_LEFT - 34, 22, "mIoU, %", "soft"), text(_LEFT + 40, 22, conditions, "soft")]
    bottom = _TOP + _HEIGHT
    width = _LEFT + len(costs) * (_PANEL + _GAP)
    if scored:
        low, high = (100 * f(row["miou"] for row in scored) for f in (min, max))
        room = max(0.06 * (high - low), 0.05)
        y = Axis([max(0.0, low - room), min(100.0, high + room)], [], None, (bottom, _TOP))
        for i, (cost, (name, unit)) in enumerate(costs.items()):
            parts += _panel(rows, cost, f"{name}, {unit}", y, _LEFT + i * (_PANEL + _GAP), not i, colours)
    foot = bottom + 62
    for i, row in enumerate(rows):
        line = foot + 20 * i
        score = "mIoU not measured" if row["miou"] is None else f"{100 * row['miou']:.2f} %"
        told = [score]
        for cost, (_, unit) in costs.items():
            told.append(f"{unit} not measured" if row[cost] is None else f"{short(row[cost])} {unit}")
        kind = colours[row["network"]]
        parts.append(dot(_LEFT - 24, line - 4, 4.5, kind))
        parts.append(text(_LEFT - 12, line, str(i + 1), f"{kind} name"))
        label = row["name"] if row["network"] in row["name"] else f"{row['name']} of {row['network']}"
        parts.append(text(_LEFT + 10, line, f"{label} ({row['ran_on']}, {row['precision']})", "ink"))
        parts.append(text(width - _GAP, line, ", ".join(told), "soft", "end"))
    return svg("Accuracy against cost", width, foot + 20 * len(rows) + 8, parts)


def _panel(
    rows: Sequence[Row], cost: str, title: str, y: Axis, left: float, first: bool, colours: Mapping[str, str]
) -> list[str]:
    right, bottom = left + _PANEL, _TOP + _HEIGHT
    parts = [rule(left, y(tick), right, y(tick), "grid") for tick in y.ticks]
    if first:
        parts += [text(left - 8, y(tick) + 4, short(tick), "soft", "end") for tick in y.ticks]
    known = [(i, row) for i, row in enumerate(rows) if row["miou"] is not None and row[cost] is not None]
    if not known:
        return [*parts, text((left + right) / 2, (_TOP + bottom) / 2, f"{title}: not measured", "soft", "middle")]
    values = [row[cost] for _, row in known]
    logarithmic = min(values) > 0 and max(values) > _WIDE * min(values)
    inset = (left + 10, right - 10)
    x = LogAxis(values, inset) if logarithmic else Axis([0.0, *values], [], None, inset)
    parts += [rule(x(tick), bottom, x(tick), bottom + 4, "soft") for tick in x.ticks]
    parts += [text(x(tick), bottom + 17, short(tick), "soft", "middle") for tick in x.ticks]
    scale = ", log scale" if logarithmic else ""
    parts.append(text(right, bottom + 36, f"{title}{scale}", "soft", "end"))
    front = sorted((x(row[cost]), y(100 * row["miou"])) for _, row in known if row["pareto"][cost])
    for (x1, y1), (x2, y2) in itertools.pairwise(front):
        parts += [rule(x1, y1, x2, y1, "soft"), rule(x2, y1, x2, y2, "soft")]
    for _, row in sorted(known, key=lambda pair: pair[1]["pareto"][cost]):  # the front on top
        at = x(row[cost]), y(100 * row["miou"])
        parts.append(dot(*at, 4.5, colours[row["network"]]))
        if not row["pareto"][cost]:
            parts.append(dot(*at, 2.5, "paper"))
    spots: list[tuple[float, float, list[int]]] = []
    for i, row in known:
        at = x(row[cost]), y(100 * row["miou"])
        near = next((spot for spot in spots if math.dist(spot[:2], at) < _NEAR), None)
        if near is None:
            spots.append((*at, [i]))
        else:
            near[2].append(i)
    for at_x, at_y, members in spots:
        kind = colours[rows[members[0]]["network"]]
        words = ", ".join(str(i + 1) for i in members)
        beyond = at_x + 8 + 7 * len(words) > right
        parts.append(text(at_x + (-8 if beyond else 8), at_y - 6, words, f"{kind} name", "end" if beyond else "start"))
    return parts
