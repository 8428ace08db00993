"""Charts as SVG by hand: scales with round ticks, marks, labels that keep apart, colours for light and dark."""

import base64
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from ..text_table import visible

#: so many lines have a colour of their own
MOST_SERIES = 8
#: classes: lines in the order of Okabe and Ito, darkened on light and lightened on dark, and the roles
_CLASSES = [*(f"s{i}" for i in range(MOST_SERIES)), "ink", "paper", "soft", "grid", "alone", "teacher", "gain", "loss"]
_LIGHT = (
    "0b6a8c b3541e 1d7a46 7b4b94 8a6d00 a3244f 3f5fb5 4f5b66 1a1d21 fbfbf9 5d656e e2e3de 747b84 a3671a 1d7a46 b3321f"
)
_DARK = (
    "62bde0 f0975f 6cc48d c79be0 e0c14a f08bab 9db4f5 b5bfc9 e7e9ea 121517 9ba4ad 2c3236 9aa2ab dca764 6cc48d f08a76"
)


def _rules(colours: str) -> str:
    return "".join(f".{name}{{color:#{colour}}}" for name, colour in zip(_CLASSES, colours.split(), strict=True))


_STYLE = (
    "<style>text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:currentColor}"
    "line,polyline{stroke:currentColor;stroke-width:2;fill:none}circle,rect{fill:currentColor}.grid{stroke-width:1}"
    ".seed{opacity:.5}.name{font-weight:600}line.alone{stroke-dasharray:7 4}line.teacher{stroke-dasharray:2 5}"
    f"{_rules(_LIGHT)}@media(prefers-color-scheme:dark){{{_rules(_DARK)}}}</style>"
)


@dataclass(frozen=True)
class Scale:
    """From values to pixels, linear or (positive values only) logarithmic, from the first of its ticks to the last."""

    ticks: Sequence[float]
    pixels: tuple[float, float]
    log: bool = False

    def holds(self, value: float) -> bool:
        """Whether the value is on the scale."""
        return self.ticks[0] <= value <= self.ticks[-1]

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(v) if self.log else v for v in (self.ticks[0], self.ticks[-1], value))
        first, last = self.pixels
        return first + (at - low) / ((high - low) or 1.0) * (last - first)


def fitted(
    values: Sequence[float],
    pixels: tuple[float, float],
    intervals: Iterable[tuple[float, float]] = (),
    level: float | None = None,
) -> Scale:
    """Return a linear scale of all values, of the intervals as far as they stay legible, and of ``level`` if near."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    reach = [min(max(end, low - span), high + span) for interval in intervals for end in interval]
    low, high = min([low, *reach]), max([high, *reach])
    if level is not None and low - span <= level <= high + span:
        low, high = min(low, level), max(high, level)
    return Scale(ticks(low, high) if high > low else [low - 0.5, low, low + 0.5], pixels)


def ticks(low: float, high: float, count: int = 5, *, inside: bool = False) -> list[float]:
    """Return round values that cover ``[low, high]`` (or lie inside it), about ``count`` of them."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = unit * next(m for m in (1, 2, 2.5, 5, 10) if m * unit >= rough * 0.999)
    start, stop = low / step, high / step
    # the small shift keeps 0.3 / 0.1 from being read as 2.999...
    if inside:
        return [i * step for i in range(math.ceil(start - 1e-9), math.floor(stop + 1e-9) + 1)]
    return [i * step for i in range(math.floor(start + 1e-9), math.ceil(stop - 1e-9) + 1)]


def log_ticks(low: float, high: float, digits: Sequence[int] = (1, 2, 5)) -> list[float]:
    """Return ``digits`` of each decade that cover the positive ``[low, high]``; thinned where there are many."""
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    steps = [digit * power for power in powers for digit in digits]
    first = max(step for step in steps if step <= low * 1.0001)
    last = min(step for step in steps if step >= high * 0.9999)
    covering = [step for step in steps if first <= step <= last]
    if len(covering) > 6:  # whole decades, and both ends
        covering = [step for step in covering if step in (first, last, *powers)]
    return [*covering[: -1 : math.ceil(len(covering) / 10)], last]


def short(value: float, digits: int = 3) -> str:
    """Write a number in few characters: ``0.25``, ``3``, ``40k``, ``2e-05``."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.{digits - 2}e}".replace(".0e", "e")
    return f"{value / 1000:.{digits + 1}g}k" if abs(value) >= 1000 else f"{value:.{digits}g}"


def signed(value: float, form: str = "+.2f") -> str:
    """Write a change with its sign, and no sign for what shows as nothing."""
    return format(value, form).replace("-", "\u2212") if round(value, 2) else "0"


def text(x: float, y: float, words: str, kind: str = "ink", anchor: str = "start") -> str:
    """Return a line of text."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(visible(words))}</text>'


def rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """Return a straight line."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def dot(x: float, y: float, radius: float, kind: str) -> str:
    """Return a dot."""
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'


def line(points: Iterable[tuple[float, float]], kind: str) -> str:
    """Return a line through points."""
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def rows(y: Scale, left: float, right: float, *, numbers: bool = True) -> list[str]:
    """Return the rules of a vertical scale's ticks, and their numbers to the left."""
    rules = [rule(left, y(tick), right, y(tick), "grid") for tick in y.ticks]
    words = zip(y.ticks, told_apart(y.ticks), strict=True)
    return rules + [text(left - 8, y(tick) + 4, word, "soft", "end") for tick, word in words if numbers]


def told_apart(ticks: Sequence[float]) -> list[str]:
    """Write ticks with as few digits as tell them apart, three at the least."""
    return next(
        (words for digits in range(3, 12) if len(set(words := [short(tick, digits) for tick in ticks])) == len(ticks)),
        [short(tick) for tick in ticks],
    )


def below(places: Iterable[tuple[float, str]], name: str, right: float, bottom: float, depth: float = 36) -> list[str]:
    """Return the words below a frame, each at its place, and deeper, at the right, the scale's name."""
    words = [text(x, bottom + 17, word, "soft", "middle") for x, word in places]
    return [*words, text(right, bottom + depth, name, "soft", "end")]


def labels(entries: Sequence[tuple[float, str, str]], x: float, bottom: float) -> list[str]:
    """Return the names of lines beside where they end: each entry is a height, a class and a name."""
    heights = spread([y for y, _, _ in entries], bottom)
    return [text(x, y + 4, name, f"{kind} name") for y, (_, kind, name) in zip(heights, entries, strict=True)]


def spread(heights: Sequence[float], bottom: float, gap: float = 15.0) -> list[float]:
    """Move labels apart where they would overlap, keeping their order, downwards first and up again at the bottom."""
    placed = list(heights)
    order = sorted(range(len(placed)), key=placed.__getitem__)
    for above, beneath in itertools.pairwise(order):
        placed[beneath] = max(placed[beneath], placed[above] + gap)
    for i in reversed(order):
        placed[i] = min(placed[i], bottom)
        bottom = placed[i] - gap
    return placed


def clipped(parts: Iterable[str], left: float, top: float, right: float, bottom: float) -> str:
    """Return the parts, clipped to a frame."""
    frame = f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}"/>'
    return f'<clipPath id="frame">{frame}</clipPath><g clip-path="url(#frame)">{"".join(parts)}</g>'


def inline(title: str, width: float, height: float, parts: Iterable[str]) -> str:
    """Return an element of a page, whose style sheet gives it colours and size."""
    opening = (
        f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(visible(title))}">'
    )
    return f"{opening}{''.join(parts)}</svg>"


def file(title: str, width: float, height: float, parts: Iterable[str]) -> str:
    """Return a file with colours of its own, for light and for dark."""
    words = escape(visible(title))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="{words}"><title>{words}</title>{_STYLE}'
        f'<rect class="paper" width="100%" height="100%"/>{"".join(parts)}</svg>\n'
    )


def data_uri(svg: str) -> str:
    """Return a file as an address for the ``src`` of a picture, where its style reaches nothing else of the page."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
