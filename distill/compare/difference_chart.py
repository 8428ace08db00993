"""The plot of a comparison: each method's gain over the student alone, seed by seed, with its interval."""

from collections.abc import Sequence

from ..charts.svg import below, clipped, dot, file, fitted, rule, signed, text
from .plan import BASELINE
from .results import SummaryRow, TeacherRow

_WIDTH, _TOP, _PITCH = 400.0, 46.0, 26.0


def difference_chart(summary: Sequence[SummaryRow], teachers: Sequence[TeacherRow]) -> str:
    """Draw each method's paired differences: a dot a seed, the mean, the 95 % interval.

    Args:
        summary: of ``collect``.
        teachers: of ``collect``; the line of a teacher is drawn where there is one teacher and one baseline.

    Returns:
        The SVG file; an empty string where no run has a finished baseline.
    """
    rows = [row for row in summary if row.difference is not None]
    if not rows:
        return ""

    left = 24.0 + 7.2 * max(len(row.label) for row in rows)
    right, bottom = left + _WIDTH, _TOP + _PITCH * len(rows)
    changes = [[100 * (mine - other) for mine, other in row.pairs] for row in rows]
    alone, level = reference(summary, rows, teachers)
    ahead = None if alone is None or level is None else level - alone
    intervals = [_percent(row.interval) for row in rows if row.interval]
    x = fitted([0.0, *(change for each in changes for change in each)], (left, right), intervals, ahead)

    parts = [rule(x(tick), _TOP, x(tick), bottom, "grid" if tick else "soft") for tick in x.ticks]
    parts += below([(x(tick), signed(tick, "+g")) for tick in x.ticks], "points of mIoU", right, bottom)
    without = "no teacher" if alone is None else f"no teacher {alone:.2f} %"
    parts.append(text(x(0), _TOP - 8, without, "soft", "middle"))
    if ahead is not None and x.holds(ahead):
        parts.append(rule(x(ahead), _TOP, x(ahead), bottom, "teacher"))
        parts.append(text(x(ahead), _TOP - 24, f"teacher {signed(ahead)}", "teacher", "middle"))
    elif ahead is not None:
        parts.append(text(right, _TOP - 24, f"teacher {signed(ahead)}, off the scale", "teacher", "end"))

    numbers = [_numbers(row) for row in rows]
    aside = right + 30 + 6.8 * max(map(len, numbers))
    marks = []
    for i, (row, each) in enumerate(zip(rows, changes, strict=True)):
        y, kind, middle = _TOP + _PITCH * (i + 0.5), _KINDS[row.verdict], 100 * (row.difference or 0.0)
        if row.interval:
            low, high = _percent(row.interval)
            marks.append(rule(x(low), y, x(high), y, kind))
            marks += [rule(x(end), y - 4, x(end), y + 4, kind) for end in (low, high)]
        marks += [*(dot(x(change), y, 3, f"seed {kind}") for change in each), dot(x(middle), y, 4.5, kind)]
        parts.append(text(left - 12, y + 4, row.label, "ink name", "end"))
        parts.append(text(right + 12, y + 4, numbers[i]))
        parts.append(text(aside, y + 4, row.verdict, f"{kind} name"))
    parts.append(clipped(marks, left, _TOP, right, bottom))
    title = "Paired difference of mIoU against the student without a teacher: seeds, mean, 95 % interval"
    return file(title, aside + 80, bottom + 46, parts)


_KINDS = {"gain": "gain", "loss": "loss", "not shown": "soft"}


def _numbers(row: SummaryRow) -> str:
    """Write the difference and its interval."""
    ends = f" [{', '.join(signed(end) for end in _percent(row.interval))}]" if row.interval else ""
    return signed(100 * (row.difference or 0.0)) + ends


def _percent(interval: tuple[float, float]) -> tuple[float, float]:
    low, high = interval
    return 100 * low, 100 * high


def reference(
    summary: Sequence[SummaryRow], rows: Sequence[SummaryRow], teachers: Sequence[TeacherRow]
) -> tuple[float | None, float | None]:
    """Return, in per cent, the mean mIoU of the rows' baseline and that of the teacher, each where there is but one."""
    labels = {row.baseline for row in rows}
    baselines = [row.miou for row in summary if row.method == BASELINE and row.label in labels]
    ordinary = [teacher.miou for teacher in teachers if not teacher.privileged]
    alone, level = (scores[0] if len(scores) == 1 else None for scores in (baselines, ordinary))
    return None if alone is None else 100 * alone, None if level is None else 100 * level
