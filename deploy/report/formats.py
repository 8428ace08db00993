"""How the report writes its numbers; what is missing is never a number."""

from typing import Any

from markupsafe import Markup

NOT_MEASURED = Markup('<span class="nm">not measured</span>')


def _known(value: Any) -> bool:
    return isinstance(value, int | float)


def pct(value: Any, digits: int = 1) -> str:
    """Format a share in per cent."""
    return f"{100 * value:.{digits}f}" if _known(value) else NOT_MEASURED


def points(value: Any, digits: int = 1) -> str:
    """Format a change in percentage points, signed."""
    if not _known(value):
        return NOT_MEASURED
    # a real minus sign, so that columns of signed numbers line up, and no sign for a number that is shown as 0
    return f"{100 * value:+.{digits}f}".replace("-", "\u2212") if sign(value) else f"{0:.{digits}f}"


def sign(value: Any) -> str:
    """Name the direction of a change that shows at one decimal of a per cent."""
    if not _known(value) or abs(value) < 0.0005:
        return ""
    return "up" if value > 0 else "down"


def number(value: Any, form: str = ".3g") -> str:
    """Format a number; the text "inf" of a failed gate passes through."""
    if isinstance(value, str):
        return value
    if not _known(value):
        return NOT_MEASURED
    text = format(value, form)
    # a number that is shown as 0 has no sign
    return text.lstrip("-") if not text.strip("-+0.e%") else text.replace("-", "\u2212", 1) if value < 0 else text


def size(value: Any) -> str:
    """Format bytes as megabytes of a million."""
    return f"{value / 1e6:.1f} MB" if _known(value) else NOT_MEASURED


def si(value: Any) -> str:
    """Format a count with its thousands' letter."""
    if not _known(value):
        return NOT_MEASURED
    scale, letter = next(
        ((s, c) for s, c in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")) if value >= s), (1, "")
    )
    return f"{value / scale:.4g}{letter}"


#: by the name they have in the page's template
FILTERS = {"pct": pct, "points": points, "number": number, "size": size, "si": si}
