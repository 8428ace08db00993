"""What stored mask values mean: the code of the classes, colours as numbers, and palettes for pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from . import IGNORE, BadSample, Problem

Colour = tuple[int, int, int]
#: masks whose few values all lie at least this far apart are grey-coded, not numbered
GREY_STEP = 32
_ROUNDING = 3  # levels that a blend of two colours may lie off the line between them
_BAD = 254  # the value of a mask pixel that is no class; classes are fewer


@dataclass(frozen=True)
class Code:
    """Which stored value means which class: whole numbers (grey or palette masks), or RGB colours."""

    values: tuple[int, ...] | tuple[Colour, ...]
    ignored: tuple[int, ...] | tuple[Colour, ...] = (IGNORE,)

    @staticmethod
    def numbered(count: int, ignored: tuple[int, ...] = (IGNORE,)) -> "Code":
        """Classes in the order of the whole numbers from 0, the ignored ones left out."""
        free = (value for value in range(65536) if value not in ignored)
        return Code(tuple(next(free) for _ in range(count)), ignored)

    @property
    def coloured(self) -> bool:
        return any(isinstance(value, tuple) for value in self.values)

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.full(1 << 24 if self.coloured else 65536, _BAD, np.uint8)
        for value in self.ignored:
            table[number_of(value)] = IGNORE
        for number, value in enumerate(self.values):
            table[number_of(value)] = number
        return table

    def classes(self, mask: np.ndarray, path: Path) -> np.ndarray:
        """Return the uint8 class map of stored values, 255 = ignored.

        Raises:
            BadSample: values that are no class, with the likely cause; or colours where numbers were expected.
        """
        if not self.coloured and mask.ndim == 3:
            hint = "RGB-coded masks need their colours: codes in kdc.yaml, one [r, g, b] a class"
            raise BadSample(Problem(str(path), "encoding", "an RGB mask where class numbers were expected", hint))
        if self.coloured:
            channels = mask if mask.ndim == 3 else np.repeat(mask[..., None], 3, axis=2)
            mask = packed(channels)
            label = self._table[mask]
        else:
            label = cv2.LUT(mask, self._table[:256]) if mask.dtype == np.uint8 else self._table[mask]
        wrong = label == _BAD
        if wrong.any():
            values, counts = np.unique(mask[wrong], return_counts=True)
            raise BadSample(self._explain(path, values.tolist(), counts.tolist()))
        return label

    def _between(self, values: list[int]) -> bool:
        """Tell whether values that are no class lie between those of classes that are far apart."""
        codes = [number_of(value) for value in self.values]
        if not self.coloured and (len(codes) < 2 or np.diff(sorted(codes)).min() < GREY_STEP):
            return False
        some = values[:16]  # where three classes meet, blends lie beside the lines
        return 2 * sum(is_blend(value, codes) for value in some) > len(some)

    def _explain(self, path: Path, values: list[int], counts: list[int]) -> Problem:
        def shown(value: int) -> str:
            return str(unpacked(value)) if self.coloured else str(value)

        listed = ", ".join(f"{shown(v)} in {n} pixels" for v, n in list(zip(values, counts, strict=True))[:4])
        listed += ", ..." if len(values) > 4 else ""
        count = len(self.values)
        if self._between(values):
            hint = "between the codes of classes: resized or smoothed masks? Make them anew with nearest neighbour"
        elif self.coloured:
            hint = "a colour that no class has: add it to codes, or to ignore_codes"
        elif len(values) == 1 and values[0] in (0, 254, 255, count):
            hint = f"an ignore id? --ignore-index {values[0]}" + (
                f"; or one class more? --classes {count + 1}" if values[0] == count else ""
            )
        else:
            span = f"{min(self.values)} to {max(self.values)}"  # pyright: ignore[reportArgumentType]
            hint = f"{count} classes are {span}: more classes (--classes), or ignore ids (--ignore-index)?"
        return Problem(str(path), "label out of range", listed, hint)


def is_blend(colour: int, others: Sequence[int]) -> bool:
    """Tell whether a packed colour or grey value lies between two others that are far apart, but for rounding."""
    levels, own = ([unpacked(value) for value in values] for values in (others, [colour]))
    ends, point = np.array(levels, float).reshape(-1, 3), np.array(own[0], float)
    first, second = (ends[i] for i in np.triu_indices(len(ends), 1))
    along, beside = second - first, point - first
    share = (along * beside).sum(-1) / np.maximum((along * along).sum(-1), 1)
    distance = np.abs(beside - share[:, None] * along).max(-1, initial=0)
    apart = np.abs(along).max(-1, initial=0) >= GREY_STEP
    return bool((apart & (distance <= _ROUNDING) & (share > 0) & (share < 1)).any())


def packed(mask: np.ndarray) -> np.ndarray:
    """Turn H,W,3 RGB into one uint32 number a pixel, 0xRRGGBB; a 16-bit value too large for a colour becomes white."""
    r, g, b = (np.minimum(mask[..., i], 255).astype(np.uint32) for i in range(3))
    return r << 16 | g << 8 | b


def unpacked(number: int) -> Colour:
    """Undo ``packed`` for one pixel."""
    return number >> 16, number >> 8 & 255, number & 255


def number_of(value: int | Colour) -> int:
    """Return a code as one number: a grey value as it is, a colour as ``packed`` does."""
    return value if isinstance(value, int) else value[0] << 16 | value[1] << 8 | value[2]


def default_palette(count: int) -> tuple[Colour, ...]:
    """Return ``count`` distinct colours by the bit rule of the VOC colour map."""
    colours = []
    for number in range(count):
        r = g = b = 0
        bits = number + 1  # black is left to the ignored pixels
        for shift in range(7, -1, -1):
            r, g, b = r | (bits & 1) << shift, g | (bits >> 1 & 1) << shift, b | (bits >> 2 & 1) << shift
            bits >>= 3
        colours.append((r, g, b))
    return tuple(colours)
