"""How pages write their numbers: as ``units`` does, but what is missing is never a number."""

from collections.abc import Callable
from typing import Any

from markupsafe import Markup

from .. import units

NOT_MEASURED = Markup('<span class="nm">not measured</span>')


def _known(value: Any) -> bool:
    return isinstance(value, int | float)


def measured(write: Callable[..., str]) -> Callable[..., str]:
    """Return a function that writes what is missing as "not measured", and passes the "inf" of a failed gate on."""

    def written(value: Any, *args: Any) -> str:
        return write(value, *args) if _known(value) else value if isinstance(value, str) else NOT_MEASURED

    return written


def sign(value: Any) -> str:
    """Name the direction of a change that shows at one decimal of a per cent."""
    if not _known(value) or abs(value) < 0.0005:
        return ""
    return "up" if value > 0 else "down"


def _form(value: float, form: str) -> str:
    """Write a number in a form of Python's; one that shows as 0 has no sign."""
    text = format(value, form)
    return text.lstrip("-") if not text.strip("-+0.e%") else text.replace("-", units.MINUS, 1) if value < 0 else text


def _whole(write: Callable[..., str]) -> Callable[..., str]:
    """Return a function that keeps a number and its unit on one line."""
    return lambda *args: write(*args).replace(" ", "\u00a0")


#: by the name they have in the page's template
FILTERS = {
    "pct": measured(lambda value, digits=1: units.percent(value, digits)),
    "points": measured(lambda value, digits=1: units.points(value, digits)),
    "form": measured(_form),
    "number": measured(units.number),
    "file_size": measured(_whole(units.file_size)),
    "mib": measured(_whole(units.mebibytes)),
    "ms": measured(_whole(units.milliseconds)),
    "count": measured(_whole(units.count)),
}
