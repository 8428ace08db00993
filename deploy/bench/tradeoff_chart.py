"""The plot of a trade-off: mIoU over each cost, side by side, with the front of what nothing else beats."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...distill.charts.svg import MOST_SERIES, Scale, below, dot, file, fitted, log_ticks, rows, rule, text
from ...distill.run.folder import unstamped
from ...distill.run.records import Record
from ...distill.units import count, milliseconds, percent


@dataclass(frozen=True)
class CostKind:
    """A cost that accuracy is set against: what it is called, and how a value of its field is written."""

    name: str
    write: Callable[[float], str]


#: by the field of a row
COSTS = {
    "latency_ms": CostKind("latency, p50", milliseconds),
    "gflops": CostKind("FLOPs", lambda value: count(1e9 * value)),
    "params_m": CostKind("parameters", lambda value: count(1e6 * value)),
}
_PANEL, _LEFT, _GAP, _TOP, _BOTTOM = 250.0, 52.0, 34.0, 46.0, 276.0
#: a cost that spans more than this factor is drawn on a logarithmic scale
_WIDE = 8.0
#: dots closer than this share one label
_NEAR = 12.0
#: the width of a letter, and where a name may stand beside its dot: to the right, to the left, below, above
_LETTER = 6.6
_BESIDE = (
    (9, 4, "start"), (-9, 4, "end"), (0, 18, "middle"), (0, -10, "middle"),
    (8, -8, "start"), (-8, -8, "end"), (8, 16, "start"), (-8, 16, "end"),
)  # fmt: skip


@dataclass(frozen=True)
class TradeoffRow(Record):
    """The scores of a network and its costs; None is not measured.

    Attributes:
        network: the run that it belongs to, else the file.
        gflops: of one image, without the auxiliary head, as ``params_m``.
        pareto: by cost, whether no other row is as accurate for less.
    """

    name: str
    network: str
    precision: str
    ran_on: str
    miou: float | None
    miou_present: float | None
    boundary_miou: float | None
    pixel_accuracy: float | None
    latency_ms: float | None
    latency_p95_ms: float | None
    images_per_s: float | None
    gflops: float | None
    params_m: float | None
    size_mb: float
    pareto: dict[str, bool | None]

    @property
    def costs(self) -> dict[str, float | None]:
        """The costs of ``COSTS``."""
        return {"latency_ms": self.latency_ms, "gflops": self.gflops, "params_m": self.params_m}

    def point(self, cost: str) -> tuple[float, float] | None:
        """Return mIoU and a cost; None where one of them is not measured."""
        value = self.costs[cost]
        return None if self.miou is None or value is None else (self.miou, value)


def tradeoff_chart(points: Sequence[TradeoffRow], conditions: str) -> str:
    """Draw a panel for each cost: numbered dots, a colour a network, filled on the front, which a line joins.

    Args:
        points: rows of ``bench_tradeoff``.
        conditions: what was measured with and on.

    Returns:
        The SVG file; it says so where nothing was measured.
    """
    networks = dict.fromkeys(row.network for row in points)
    tags = short_names(points)
    colours = {name: f"s{i % MOST_SERIES}" for i, name in enumerate(networks)}
    parts = [text(_LEFT - 34, 22, "mIoU, %", "soft"), text(_LEFT + 40, 22, conditions, "soft")]

    scores = [100 * row.miou for row in points if row.miou is not None]
    if scores:
        room = max(0.06 * (max(scores) - min(scores)), 0.05)
        y = fitted([max(0.0, min(scores) - room), min(100.0, max(scores) + room)], (_BOTTOM, _TOP))
        for i, cost in enumerate(COSTS):
            left = _LEFT + i * (_PANEL + _GAP)
            parts += rows(y, left, left + _PANEL, numbers=not i)
            parts += _panel(points, cost, y, left, colours, tags)

    width = _LEFT + len(COSTS) * (_PANEL + _GAP)
    for i, row in enumerate(points):
        line, kind = _BOTTOM + 62 + 20 * i, colours[row.network]
        values = ["mIoU not measured" if row.miou is None else f"{percent(row.miou)} %"]
        for cost, value in row.costs.items():
            values.append(f"{COSTS[cost].name} not measured" if value is None else COSTS[cost].write(value))
        label = row.name if " of " in row.name else f"{row.name} of {unstamped(Path(row.network).name)}"
        parts += [
            dot(_LEFT - 24, line - 4, 4.5, kind),
            text(_LEFT - 12, line, str(i + 1), f"{kind} name"),
            text(_LEFT + 10, line, f"{label} ({row.ran_on}, {row.precision})"),
            text(width - _GAP, line, ", ".join(values), "soft", "end"),
        ]
    return file("Accuracy against cost", width, _BOTTOM + 70 + 20 * len(points), parts)


def _panel(
    points: Sequence[TradeoffRow],
    cost: str,
    y: Scale,
    left: float,
    colours: Mapping[str, str],
    tags: Sequence[str],
) -> list[str]:
    kind, right = COSTS[cost], left + _PANEL
    known = {i: point for i, row in enumerate(points) if (point := row.point(cost))}
    if not known:
        return [text((left + right) / 2, (_TOP + _BOTTOM) / 2, f"{kind.name}: not measured", "soft", "middle")]

    values, inset = [value for _, value in known.values()], (left + 10, right - 10)
    log = min(values) > 0 and max(values) > _WIDE * min(values)
    x = Scale(log_ticks(min(values), max(values)), inset, True) if log else fitted([0.0, *values], inset)
    parts = [rule(x(tick), _BOTTOM, x(tick), _BOTTOM + 4, "soft") for tick in x.ticks]
    parts += below(
        _apart([(x(tick), kind.write(tick) if tick else "0") for tick in x.ticks]),
        f"{kind.name}, log scale" if log else kind.name,
        right,
        _BOTTOM,
    )

    places = {i: (x(value), y(100 * miou)) for i, (miou, value) in known.items()}
    kinds = {i: colours[points[i].network] for i in known}
    on_front = [i for i in known if points[i].pareto[cost]]
    front = sorted(places[i] for i in on_front)
    for (x1, y1), (x2, y2) in itertools.pairwise(front):
        parts += [rule(x1, y1, x2, y1, "soft"), rule(x2, y1, x2, y2, "soft")]
    for i in known:
        if i not in on_front:
            parts += [dot(*places[i], 4.5, kinds[i]), dot(*places[i], 2.5, "paper")]
    parts += [dot(*places[i], 4.5, kinds[i]) for i in on_front]  # on top

    return parts + _names(places, kinds, tags, left, right)


def _names(
    places: Mapping[int, tuple[float, float]], kinds: Mapping[int, str], tags: Sequence[str], left: float, right: float
) -> list[str]:
    """Write beside each dot what it is, or where that has no room its number in the list below."""
    spots: dict[int, list[int]] = {}  # the first of dots that lie together, and all of them
    for i, place in places.items():
        spots.setdefault(next((n for n in spots if math.dist(places[n], place) < _NEAR), i), []).append(i)

    taken = [_box(x, y + 4, 9, "middle") for x, y in places.values()]
    parts = []
    for i, members in spots.items():
        x, y = places[i]
        words, spot = ", ".join(tags[n] for n in members), None
        for dx, dy, anchor in _BESIDE:
            box = _box(x + dx, y + dy, _LETTER * len(words), anchor)
            inside = left <= box[0] and box[2] <= right and box[1] >= _TOP - 10 and box[3] <= _BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                spot = (x + dx, y + dy, anchor, box)
                break
        if spot is None:
            words = ", ".join(str(n + 1) for n in members)
            dx, anchor = (-8, "end") if x + 8 + _LETTER * len(words) > right else (8, "start")
            spot = (x + dx, y - 6, anchor, _box(x + dx, y - 6, _LETTER * len(words), anchor))
        taken.append(spot[3])
        parts.append(text(spot[0], spot[1], words, f"{kinds[i]} name", spot[2]))
    return parts


def _apart(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Leave out the words of ticks that would touch those before them."""
    kept: list[tuple[float, str]] = []
    for at, words in ticks:
        if not kept or at - kept[-1][0] > _LETTER * (len(words) + len(kept[-1][1])) / 2 + 4:
            kept.append((at, words))
    return kept


def _box(x: float, y: float, width: float, anchor: str) -> tuple[float, float, float, float]:
    """Return the left, upper, right and lower edge of a line of text at ``(x, y)``."""
    start = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    return start, y - 9, start + width, y + 3


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def short_names(points: Sequence[TradeoffRow]) -> list[str]:
    """Name each row by its network, where there are several, and its precision; where that is not unique, by its file.

    Of a network's name the time and what all names end in are left away.
    """
    parts = {row.network: unstamped(Path(row.network).name).split("_") for row in points}
    while len(parts) > 1 and min(map(len, parts.values())) > 1 and len({each[-1] for each in parts.values()}) == 1:
        parts = {network: each[:-1] for network, each in parts.items()}
    names = []
    for row in points:
        kind = "torch" if row.name.split(" of ")[0] == "torch" else row.precision
        names.append(f"{'_'.join(parts[row.network])} {kind}" if len(parts) > 1 else kind)
    files = [row.name.split(" of ")[0] for row in points]
    return [name if names.count(name) == 1 else file for name, file in zip(names, files, strict=True)]
