"""What the plots that are files of their own share: style, axis, frame; readable on light and on dark."""

from collections.abc import Iterable, Sequence
from html import escape

from .pictures import _ticks

#: of lines, in the order of Okabe and Ito, darkened on light and lightened on dark
_LINES = {
    "light": ("#0b6a8c", "#b3541e", "#1d7a46", "#7b4b94", "#8a6d00", "#a3244f", "#3f5fb5", "#4f5b66"),
    "dark": ("#62bde0", "#f0975f", "#6cc48d", "#c79be0", "#e0c14a", "#f08bab", "#9db4f5", "#b5bfc9"),
}
#: so many lines have a colour of their own
MOST_SERIES = len(_LINES["light"])
#: by role: ink, paper, soft text, rules, the student alone, the teacher, gain, loss
_ROLES = {
    "light": ("#1a1d21", "#fbfbf9", "#5d656e", "#e2e3de", "#747b84", "#a3671a", "#1d7a46", "#b3321f"),
    "dark": ("#e7e9ea", "#121517", "#9ba4ad", "#2c3236", "#9aa2ab", "#dca764", "#6cc48d", "#f08a76"),
}
_NAMES = ("ink", "paper", "soft", "grid", "alone", "teacher", "gain", "loss")


def _colours(theme: str) -> str:
    lines = (f".s{i}{{color:{colour}}}" for i, colour in enumerate(_LINES[theme]))
    return "".join([*lines, *(f".{n}{{color:{c}}}" for n, c in zip(_NAMES, _ROLES[theme], strict=True))])


_STYLE = (
    "<style>text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:currentColor}"
    "line,polyline{stroke:currentColor;stroke-width:2;fill:none}circle,rect{fill:currentColor}.grid{stroke-width:1}"
    ".seed{opacity:.5}.name{font-weight:600}line.alone{stroke-dasharray:7 4}line.teacher{stroke-dasharray:2 5}"
    f"{_colours('light')}@media(prefers-color-scheme:dark){{{_colours('dark')}}}</style>"
)


class Axis:
    """A linear scale from values to pixels.

    It holds all values, as much of the intervals as leaves the values legible, and ``level`` if that is near.
    """

    def __init__(
        self,
        values: Sequence[float],
        intervals: Iterable[tuple[float, float]],
        level: float | None,
        pixels: tuple[float, float],
    ) -> None:
        low, high = min(values), max(values)
        span = (high - low) or 1.0
        ends = [end for interval in intervals for end in interval]
        reach = [min(max(end, low - span), high + span) for end in ends]
        low, high = min([low, *reach]), max([high, *reach])
        if level is not None and low - span <= level <= high + span:
            low, high = min(low, level), max(high, level)
        self.ticks = _ticks(low, high) if high > low else [low - 0.5, low, low + 0.5]
        self.first, self.last = pixels

    def holds(self, value: float) -> bool:
        """Whether the value is on the scale."""
        return self.ticks[0] <= value <= self.ticks[-1]

    def __call__(self, value: float) -> float:
        share = (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return self.first + share * (self.last - self.first)


def text(x: float, y: float, words: str, kind: str = "ink", anchor: str = "start") -> str:
    """Return a line of text."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def rule(x1: float, y1: float, x2: float, y2: float, kind: str = "") -> str:
    """Return a straight line."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def dot(x: float, y: float, radius: float, kind: str = "") -> str:
    """Return a dot."""
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'


def clipped(parts: Iterable[str], left: float, top: float, right: float, bottom: float) -> str:
    """Return parts of which nothing shows outside a frame."""
    frame = f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}"/>'
    return f'<clipPath id="frame">{frame}</clipPath><g clip-path="url(#frame)">{"".join(parts)}</g>'


def svg(title: str, width: float, height: float, parts: Iterable[str]) -> str:
    """Return the file."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>{_STYLE}'
        f'<rect class="paper" width="100%" height="100%"/>{"".join(parts)}</svg>\n'
    )


def signed(value: float, form: str = "+.2f") -> str:
    """Write a change with its sign, and no sign for what shows as nothing."""
    return format(value, form).replace("-", "\u2212") if round(value, 2) else "0"
