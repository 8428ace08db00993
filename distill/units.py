"""Numbers with their units, as every table, chart and page writes them: three digits and a fitting prefix."""

import math

#: factors and prefixes of the International System of Units, the largest first
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "\u00b5"), (1e-9, "n"))
#: a real minus sign, so that columns of signed numbers line up
MINUS = "\u2212"


def number(value: float, digits: int = 3) -> str:
    """Write a number with ``digits`` digits, all of those before the point, and thousands apart: ``0.25``, ``1,757``.

    Very large and very small ones have a power of ten.
    """
    if not math.isfinite(value) or (value and not 1e-4 <= abs(value) < 1e9):
        return f"{value:.{digits}g}".replace("-", MINUS, 1) if value < 0 else f"{value:.{digits}g}"
    places = max(0, digits - 1 - (math.floor(math.log10(abs(value))) if value else 0))
    text = f"{abs(value):,.{places}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return MINUS + text if value < 0 and text != "0" else text


def quantity(value: float, unit: str, digits: int = 3) -> str:
    """Write a value in base units (seconds, bytes, counts) with the prefix that suits it: ``1.76 s``, ``8.25 ms``.

    Only seconds have prefixes below one.
    """
    if not math.isfinite(value):
        return f"{number(value)} {unit}".rstrip()
    # what shows as 1000 belongs to the next prefix
    shown = float(f"{abs(value):.{digits}g}")
    usable = [each for each in _PREFIXES if each[0] >= 1 or unit == "s"]
    if unit == "s":
        usable = [each for each in usable if each[0] <= 1]
    factor, prefix = next((each for each in usable if shown >= each[0]), usable[-1] if shown else (1.0, ""))
    return f"{number(value / factor, digits)} {prefix}{unit}".rstrip()


def milliseconds(value: float) -> str:
    """Write milliseconds: ``1.76 s``, ``8.25 ms``."""
    return quantity(value / 1e3, "s")


def duration(seconds: float) -> str:
    """Write how long something takes, for people who wait: ``45 seconds``, ``3.2 minutes``, ``2.5 hours``."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def file_size(value: float) -> str:
    """Write bytes, in megabytes of a million: ``1.6 MB``."""
    return quantity(value, "B")


def mebibytes(value: float) -> str:
    """Write memory of a process, given in MiB: ``133 MiB``, ``1.21 GiB``."""
    return f"{number(value / 1024)} GiB" if abs(value) >= 1023.5 else f"{number(value)} MiB"


def count(value: float) -> str:
    """Write a count of parameters or operations with its thousands' letter: ``5.819 M``."""
    return quantity(value, "", digits=4)


def percent(value: float, digits: int = 2) -> str:
    """Write a share in per cent, without the sign: ``61.20``."""
    return f"{100 * value:.{digits}f}".replace("-", MINUS)


def points(value: float, digits: int = 2) -> str:
    """Write a change of a share in percentage points, signed unless it shows as nothing: ``+1.20``, ``0.00``."""
    text = f"{100 * value:+.{digits}f}"
    return text.replace("-", MINUS) if text.strip("+-0.") else text[1:]
