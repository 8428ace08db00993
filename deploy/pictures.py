"""The report's pictures: line charts as small inline SVG that follow the page's colours, and images as data URIs."""

import base64
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np

Point = tuple[float, float]

#: a chart's canvas in CSS pixels: narrow enough to stay legible when a phone shows it at full width
_WIDTH, _HEIGHT = 470, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 108, 14, 34
#: more points than a chart has pixels are averaged
_MOST_POINTS = 240

#: error map on a faded picture, RGB; told apart by every common kind of colour vision (Okabe and Ito)
ERROR_COLOURS = {"wrong": (213, 94, 0), "mended": (0, 114, 178), "spoilt": (204, 121, 167), "ignored": (120, 120, 120)}


@dataclass(frozen=True)
class Series:
    """One line: ``(step, value)`` points; ``role`` is the CSS class that colours it."""

    name: str
    points: Sequence[Point]
    role: str


def line_chart(title: str, series: Sequence[Series], *, percent: bool = False) -> str:
    """Draw lines over training steps as an SVG element; an empty string when there is nothing to draw.

    Args:
        title: what a screen reader says first.
        series: the lines; values that are not finite are left out.
        percent: values are fractions, shown as per cent on an axis from 0.
    """
    scale = 100.0 if percent else 1.0
    lines = [Series(s.name, _thin([(x, y * scale) for x, y in s.points if math.isfinite(y)]), s.role) for s in series]
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    steps = [x for line in lines for x, _ in line.points]
    values = [y for line in lines for _, y in line.points]
    log = not percent and min(values) > 0 and max(values) > 40 * min(values)
    y_ticks = _log_ticks(min(values), max(values)) if log else _ticks(*_y_range(values, percent))
    x_ticks = _ticks(min(steps), max(steps), 4, inside=True)

    def x_of(step: float) -> float:
        return _LEFT + (step - min(steps)) / ((max(steps) - min(steps)) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def y_of(value: float) -> float:
        low, high, at = (math.log(v) if log else v for v in (y_ticks[0], y_ticks[-1], value))
        return _HEIGHT - _BOTTOM - (at - low) / ((high - low) or 1) * (_HEIGHT - _TOP - _BOTTOM)

    unit = " %" if percent else ""
    ends = ", ".join(f"{line.name} ends at {short(line.points[-1][1])}{unit}" for line in lines)
    right = _WIDTH - _RIGHT
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(f"{title}: {ends}")}">',
        *(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y_of(t):.1f}" y2="{y_of(t):.1f}"/>'
            f'<text class="tick" x="{_LEFT - 8}" y="{y_of(t) + 4:.1f}" text-anchor="end">{short(t)}</text>'
            for t in y_ticks
        ),
        *(
            f'<text class="tick" x="{x_of(t):.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="middle">{short(t)}</text>'
            for t in x_ticks
        ),
        f'<text class="tick" x="{right}" y="{_HEIGHT - 3}" text-anchor="end">step{", log scale" if log else ""}</text>',
    ]
    for line, label_y in zip(lines, _spread([y_of(line.points[-1][1]) for line in lines]), strict=True):
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line.points)
        end_x, end_y = x_of(line.points[-1][0]), y_of(line.points[-1][1])
        parts += [
            f'<polyline class="line {line.role}" points="{path}"/>',
            f'<circle class="dot {line.role}" cx="{end_x:.1f}" cy="{end_y:.1f}" r="3"/>',
            f'<text class="name {line.role}" x="{right + 9}" y="{label_y + 4:.1f}">{escape(line.name)}</text>',
        ]
    return "".join([*parts, "</svg>"])


def short(value: float) -> str:
    """Write a number in few characters: ``0.25``, ``3``, ``40k``, ``2e-05``."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.1e}".replace(".0e", "e")
    if abs(value) >= 1000:
        return f"{value / 1000:.4g}k"
    return f"{value:.3g}"


def _thin(points: Sequence[Point]) -> list[Point]:
    group = math.ceil(len(points) / _MOST_POINTS)
    if group < 2:
        return list(points)
    parts = [points[i : i + group] for i in range(0, len(points), group)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]


def _y_range(values: Sequence[float], percent: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if percent or 0 <= low < 0.6 * high:
        low = 0.0
    if low == high:
        low, high = min(low, 0.0), max(high, 0.0) or 1.0
    return low, high


def _ticks(low: float, high: float, count: int = 5, *, inside: bool = False) -> list[float]:
    """Return round values that cover ``[low, high]`` (or lie inside it), about ``count`` of them."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = unit * next(m for m in (1, 2, 2.5, 5, 10) if m * unit >= rough * 0.999)
    # the small shift keeps 0.3 / 0.1 from being read as 2.999...
    if inside:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    else:
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = math.ceil((last - first + 1) / 6)
    return [10.0**d for d in range(first, last + every, every)]


def _spread(heights: Sequence[float], gap: float = 15.0, foot: float = _HEIGHT - _BOTTOM) -> list[float]:
    """Move labels apart where they would overlap, keeping their order, downwards first and up again at the foot."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = list(heights)
    for above, below in itertools.pairwise(order):
        placed[below] = max(placed[below], placed[above] + gap)
    limit = float(foot)
    for i in reversed(order):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return placed


def colour_mask(mask: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Paint a uint8 class mask ``(H, W)`` as RGB ``(H, W, 3)``; ids without a colour, 255 among them, become grey."""
    table = np.full((256, 3), ERROR_COLOURS["ignored"], np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8).reshape(-1, 3)[:255]
    return table[mask]


def error_map(image: np.ndarray, truth: np.ndarray, pred: np.ndarray, before: np.ndarray | None) -> np.ndarray:
    """Show where ``pred`` is wrong on a faded grey copy of the image, and against ``before`` what changed.

    Args:
        image: uint8 RGB ``(H, W, 3)``.
        truth: uint8 ``(H, W)``; 255 is ignored.
        pred: uint8 ``(H, W)``, the mask that is judged.
        before: uint8 ``(H, W)``, the mask of the student before, or None.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    canvas = cv2.cvtColor((grey // 3 + 160).astype(np.uint8), cv2.COLOR_GRAY2RGB)
    labelled, wrong = truth != 255, pred != truth
    canvas[labelled & wrong] = ERROR_COLOURS["wrong"]
    if before is not None:
        canvas[labelled & wrong & (before == truth)] = ERROR_COLOURS["spoilt"]
        canvas[labelled & ~wrong & (before != truth)] = ERROR_COLOURS["mended"]
    canvas[~labelled] = ERROR_COLOURS["ignored"]
    return canvas


def data_uri(image: np.ndarray, *, photo: bool = False, width: int = 480) -> str:
    """Encode uint8 RGB ``(H, W, 3)``, at most ``width`` pixels wide, as a JPEG (``photo``) or PNG data URI."""
    if image.shape[1] > width:
        size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
        # nearest keeps the classes' colours pure; area averaging is the right filter for shrinking a photograph
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if photo else cv2.INTER_NEAREST)
    settings = [cv2.IMWRITE_JPEG_QUALITY, 88] if photo else [cv2.IMWRITE_PNG_COMPRESSION, 9]
    _, data = cv2.imencode(".jpg" if photo else ".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
    kind = "jpeg" if photo else "png"
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"
