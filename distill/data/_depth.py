"""How many bits of a 16-bit image are used: cameras store 10, 12 or 14, and the rest of each value stays empty."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..console import plural
from ..errors import UsageError
from . import BadSample
from ._files import decode_image
from ._values import of_all

#: suffixes that may hold 16 bits, other than PNG, whose head says it
_PERHAPS_DEEP = {".tif", ".tiff", ".ppm"}


def check_bits(bits: object) -> int | None:
    """Return ``data.bits``.

    Raises:
        UsageError: it is not a whole number from 8 to 16.
    """
    if bits is None or (isinstance(bits, int) and 8 <= bits <= 16):
        return bits
    raise UsageError(f"data.bits = {bits!r}: expected the bits that 16-bit images use, 8 to 16")


def find_bits(images: Sequence[Path]) -> tuple[int | None, str]:
    """Return the bits that the 16-bit files among images use, rounded up to even, and the line that says so.

    None where there are none of 16 bits.
    """
    deep = tuple(path for path in images if _may_be_deep(path))
    most, count = _largest(deep) if deep else (0, 0)
    if not count:
        return None, ""
    used = max(8, most.bit_length() + most.bit_length() % 2)
    what = f"{plural(count, 'image')} of 16 bits hold{'s' if count == 1 else ''} values up to {most}"
    return used, f"{what}: read as {used} bits" + ("" if used == 16 else " (--set data.bits=N says otherwise)")


def _may_be_deep(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix != ".png":
        return suffix in _PERHAPS_DEEP
    try:
        with path.open("rb") as file:
            head = file.read(26)
    except OSError:
        return False
    return len(head) > 24 and head[24] == 16


@lru_cache(maxsize=8)
def _largest(paths: tuple[Path, ...]) -> tuple[int, int]:
    """Return the largest value in the images of 16 bits among ``paths``, and how many of them there are."""

    def largest(path: Path) -> int | None:
        try:
            image = decode_image(path)
        except BadSample:
            return None
        return int(image.max()) if image.dtype == np.uint16 else None

    found = [value for value in of_all(largest, paths) if value is not None]
    return max(found, default=0), len(found)
