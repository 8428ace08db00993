"""The plot of a trade-off: mIoU over each cost, side by side, with the front of what nothing else beats."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...distill.charts.svg import MOST_SERIES, Scale, below, dot, file, fitted, log_ticks, rows, rule, short, text

Row = dict[str, Any]
_PANEL, _LEFT, _GAP, _TOP, _BOTTOM = 250.0, 52.0, 34.0, 46.0, 276.0
#: a cost that spans more than this factor is drawn on a logarithmic scale
_WIDE = 8.0
#: dots closer than this share one label
_NEAR = 12.0


def tradeoff_chart(points: Sequence[Row], costs: Mapping[str, tuple[str, str]], conditions: str) -> str:
    """Draw a panel for each cost: numbered dots, a colour a network, filled on the front, which a line joins.

    Args:
        points: rows of ``bench_tradeoff``.
        costs: key of a row, name and unit of each cost.
        conditions: what was measured with and on.

    Returns:
        The SVG file; it says so where nothing was measured.
    """
    networks = dict.fromkeys(row["network"] for row in points)
    colours = {name: f"s{i % MOST_SERIES}" for i, name in enumerate(networks)}
    parts = [text(_LEFT - 34, 22, "mIoU, %", "soft"), text(_LEFT + 40, 22, conditions, "soft")]

    scores = [100 * row["miou"] for row in points if row["miou"] is not None]
    if scores:
        room = max(0.06 * (max(scores) - min(scores)), 0.05)
        y = fitted([max(0.0, min(scores) - room), min(100.0, max(scores) + room)], (_BOTTOM, _TOP))
        for i, (cost, (name, unit)) in enumerate(costs.items()):
            left = _LEFT + i * (_PANEL + _GAP)
            parts += rows(y, left, left + _PANEL, numbers=not i)
            parts += _panel(points, cost, f"{name}, {unit}", y, left, colours)

    width = _LEFT + len(costs) * (_PANEL + _GAP)
    for i, row in enumerate(points):
        line, kind = _BOTTOM + 62 + 20 * i, colours[row["network"]]
        told = ["mIoU not measured" if row["miou"] is None else f"{100 * row['miou']:.2f} %"]
        for cost, (_, unit) in costs.items():
            told.append(f"{unit} not measured" if row[cost] is None else f"{short(row[cost])} {unit}")
        label = row["name"] if row["network"] in row["name"] else f"{row['name']} of {row['network']}"
        parts += [
            dot(_LEFT - 24, line - 4, 4.5, kind),
            text(_LEFT - 12, line, str(i + 1), f"{kind} name"),
            text(_LEFT + 10, line, f"{label} ({row['ran_on']}, {row['precision']})"),
            text(width - _GAP, line, ", ".join(told), "soft", "end"),
        ]
    return file("Accuracy against cost", width, _BOTTOM + 70 + 20 * len(points), parts)


def _panel(
    points: Sequence[Row], cost: str, title: str, y: Scale, left: float, colours: Mapping[str, str]
) -> list[str]:
    right = left + _PANEL
    known = [(i, row) for i, row in enumerate(points) if row["miou"] is not None and row[cost] is not None]
    if not known:
        return [text((left + right) / 2, (_TOP + _BOTTOM) / 2, f"{title}: not measured", "soft", "middle")]

    values, inset = [row[cost] for _, row in known], (left + 10, right - 10)
    log = min(values) > 0 and max(values) > _WIDE * min(values)
    x = Scale(log_ticks(min(values), max(values)), inset, True) if log else fitted([0.0, *values], inset)
    parts = [rule(x(tick), _BOTTOM, x(tick), _BOTTOM + 4, "soft") for tick in x.ticks]
    parts += below([(x(tick), short(tick)) for tick in x.ticks], f"{title}{', log scale' * log}", right, _BOTTOM)

    places = {i: (x(row[cost]), y(100 * row["miou"])) for i, row in known}
    kinds = {i: colours[row["network"]] for i, row in known}
    front = sorted(places[i] for i, row in known if row["pareto"][cost])
    for (x1, y1), (x2, y2) in itertools.pairwise(front):
        parts += [rule(x1, y1, x2, y1, "soft"), rule(x2, y1, x2, y2, "soft")]
    for i, row in sorted(known, key=lambda pair: pair[1]["pareto"][cost]):  # the front on top
        parts.append(dot(*places[i], 4.5, kinds[i]))
        if not row["pareto"][cost]:
            parts.append(dot(*places[i], 2.5, "paper"))

    spots: dict[int, list[int]] = {}  # the first of dots that lie together, and all of them
    for i, place in places.items():
        spots.setdefault(next((n for n in spots if math.dist(places[n], place) < _NEAR), i), []).append(i)
    for i, members in spots.items():
        at, words = places[i], ", ".join(str(n + 1) for n in members)
        shift, anchor = (-8, "end") if at[0] + 8 + 7 * len(words) > right else (8, "start")
        parts.append(text(at[0] + shift, at[1] - 6, words, f"{kinds[i]} name", anchor))
    return parts
