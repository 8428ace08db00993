"""What the values in a data set's masks mean: numbers, grey codes or colours, and blends that mean nothing."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from ..errors import DataError, UsageError
from . import IGNORE, BadSample, Problem
from ._codes import GREY_STEP, Code, is_blend, packed, unpacked
from ._files import read_mask

R = TypeVar("R")

_MOST_COLOURS = 256
_SAMPLE = 64  # masks that tell how a data set is coded where the number of classes is known
_BETWEEN = 0.9  # share of a blend's pixels that lie between a smaller and a larger value
#: of red, green and blue: turns colours into one number each, without making two of them equal by chance
_AXIS = np.array([1.0, 2.7183, 5.1416], np.float32)


@dataclass(frozen=True)
class Values:
    """The values in some masks, as 0xRRGGBB if any is coloured, how many of the masks are, and which are unreadable."""

    colour_masks: int
    values: tuple[int, ...]
    masks: int
    unread: tuple[Problem, ...]

    @property
    def coloured(self) -> bool:
        """Whether a mask holds colours."""
        return self.colour_masks > 0


@dataclass(frozen=True)
class Reading:
    """The code of a data set's masks, the line that says how it was found, and what speaks against it."""

    code: Code
    note: str
    problems: tuple[Problem, ...] = ()


def of_all(task: Callable[[Path], R], paths: Iterable[Path]) -> list[R]:
    """Do something with every file, in threads: decoding releases the interpreter's lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(task, paths))


@lru_cache(maxsize=8)
def values_of(masks: tuple[Path, ...]) -> Values:
    """Decode masks and collect their values."""

    def values(path: Path) -> tuple[bool, np.ndarray] | Problem:
        try:
            mask = read_mask(path)
        except BadSample as bad:
            return bad.problem
        if mask.ndim == 3:
            mask = packed(mask)
        present = np.zeros(int(mask.max()) + 1, bool)
        present[mask.ravel()] = True
        return mask.dtype == np.uint32, np.flatnonzero(present)

    results = of_all(values, masks)
    decoded = [result for result in results if not isinstance(result, Problem)]
    colours = sum(colour for colour, _ in decoded)
    together: set[int] = set()
    for colour, some in decoded:
        together.update((some if colour or not colours else some * 0x010101).tolist())
    unread = tuple(result for result in results if isinstance(result, Problem))
    return Values(colours, tuple(sorted(together)), len(decoded), unread)


def read_code(
    root: Path, masks: tuple[Path, ...], ignored: tuple[int, ...] | None, names: tuple[str, ...] | None, named: bool
) -> Reading:
    """Read the code off the masks: colours, grey values far apart, or numbers.

    Args:
        root: named in messages.
        masks: all of the data set.
        ignored: the ids that are ignored in numbered masks, where they were said; otherwise 255.
        names: of the classes, where they were said: the reading with as many is taken, and numbers if none has.
        named: whether the names are the user's, which do not say which colour is which.

    Raises:
        DataError: no mask can be read, or the values are no classes.
        UsageError: ids are ignored in masks that are RGB-coded.
    """
    if names is not None:
        sample = values_of(masks[:: max(1, len(masks) // _SAMPLE)])
        numbered = Reading(Code.numbered(len(names), (IGNORE,) if ignored is None else ignored), "")
        strange = set(sample.values) - {*numbered.code.values, *numbered.code.ignored}
        if not sample.coloured and not strange and not _far_apart(sample.values, ignored or ()):
            return numbered

    found = values_of(masks)
    if names is None:
        if not found.values:
            raise DataError(f"none of the {len(masks)} masks can be read; {found.unread[0]}")
        return _inferred(root, masks, found, ignored)

    codes = _codes(root, found, ignored)
    if named and 2 * found.colour_masks > found.masks:
        shown = ", ".join(f"{name}: [R, G, B]" for name in names[:3]) + (", ..." if len(names) > 3 else "")
        raise DataError(
            f"the masks in {root} are RGB-coded, with {_some(codes[0][0].values)}: say which is which class, with "
            f"codes: {{{shown}}} in kdc.yaml"
        )
    for code, note in codes:
        if len(code.values) == len(names):
            return Reading(code, note, _blends(root, masks, found))
    return replace(numbered, problems=_blends(root, masks, found, mostly=not found.coloured))


def _far_apart(values: Sequence[int], ignored: tuple[int, ...]) -> bool:
    """Tell whether values are grey codes: one that is no small number, or several far from each other."""
    rest = [value for value in values if value not in ignored]
    return bool(min(np.diff(rest)) >= GREY_STEP) if len(rest) > 1 else bool(ignored and rest and rest[0] >= GREY_STEP)


def _codes(root: Path, found: Values, ignored: tuple[int, ...] | None) -> list[tuple[Code, str]]:
    """Return the codes that the values allow beside numbers, the most obvious first, and the line that says so."""
    seen = f"inferred from {found.masks} masks in {root}"
    if found.coloured:
        if ignored:
            raise UsageError(
                f"data.ignore_index is for numbered masks; those in {root} are RGB-coded: give ignore_codes"
            )
        colours = tuple(unpacked(value) for value in found.values)
        return [(Code(colours, ()), f"{len(colours)} classes {seen}, a colour each: {_some(colours)}")]

    # black and white is two classes; among others, 255 is ignored before it is a class
    choices = (
        [ignored] if ignored is not None else [(), (IGNORE,)] if set(found.values) == {0, 255} else [(IGNORE,), ()]
    )
    result = []
    for without in choices:
        rest = tuple(value for value in found.values if value not in without)
        if _far_apart(rest, without if ignored else ()):
            left = ", ".join(str(value) for value in without if value in found.values)
            note = f"{len(rest)} classes {seen}, grey-coded: {', '.join(map(str, rest))}"
            result.append((Code(rest, without), f"{note}; {left} ignored" if left else note))
    return result


def _inferred(root: Path, masks: tuple[Path, ...], found: Values, ignored: tuple[int, ...] | None) -> Reading:
    cure = "say which with --classes, or with classes and codes in kdc.yaml"
    for code, note in _codes(root, found, ignored):
        blends = _blends(root, masks, found)
        if len(code.values) > _MOST_COLOURS:
            if blends:
                raise DataError(str(blends[0]))
            raise DataError(
                f"the masks in {root} hold {len(code.values)} colours: photographs, or masks saved with smoothing? "
                f"{cure}"
            )
        return Reading(code, note, blends)

    # numbered
    ignored = (IGNORE,) if ignored is None else ignored
    rest = [value for value in found.values if value not in ignored]
    count = rest[-1] + 1 - sum(value < rest[-1] for value in ignored) if rest else 0
    absent = count - len(rest)
    hopeless = not rest or rest[-1] > 252
    blends = _blends(root, masks, found, mostly=True) if hopeless or absent > len(rest) else ()
    if hopeless:
        if blends:
            raise DataError(str(blends[0]))
        content = f"values up to {rest[-1]}" if rest else "nothing but the ignored id"
        white = " or is 255 ignored (--ignore-index 255)?" if rest[-1:] == [255] else ""
        raise DataError(f"the masks in {root} hold {content}: instance ids, or photographs?{white} {cure}")
    unseen = f" ({absent} of them in no mask)" if absent else ""
    ids = ", ".join(map(str, ignored)) or "none"
    note = (
        f"{count} classes{unseen} inferred from {found.masks} masks in {root}: values up to {rest[-1]}, {ids} ignored"
    )
    return Reading(Code.numbered(count, ignored), note, blends)


def _some(colours: Sequence[object], most: int = 8) -> str:
    return ", ".join(map(str, colours[:most])) + (", ..." if len(colours) > most else "")


def _blends(root: Path, masks: tuple[Path, ...], found: Values, mostly: bool = False) -> tuple[Problem, ...]:
    """Find values that lie between two others, in value and in place, and nowhere fill a spot of 3x3 pixels.

    That is what interpolation leaves when masks are resized or smoothed; a class has an inside somewhere. With
    ``mostly`` there must be more of them than of the others: class numbers may be neighbours by chance.
    """
    if len(found.values) < 3:
        return ()
    own = np.array(found.values)
    pixels, inside, between = np.zeros((3, len(own)), np.int64)
    for counts in of_all(lambda path: _places(path, found.coloured), masks):
        for total, (values, number) in zip((pixels, inside, between), counts, strict=True):
            total[np.searchsorted(own, values)] += number

    parents = own[inside > 0]
    thin = (inside == 0) & (pixels > 0) & (between >= _BETWEEN * pixels)
    if not 1 < len(parents) <= _MOST_COLOURS:
        return ()
    blends = [i for i in np.flatnonzero(thin) if is_blend(int(own[i]), parents.tolist())]
    if not blends or (mostly and len(blends) <= len(parents)):
        return ()

    blends.sort(key=lambda i: -pixels[i])
    names = [unpacked(int(own[i])) if found.coloured else int(own[i]) for i in blends]
    listed = ", ".join(f"{name} in {pixels[i]} pixels" for name, i in list(zip(names, blends, strict=True))[:4])
    what = "colours" if found.coloured else "grey values"
    value = f"{len(blends)} of {len(own)} {what} are blends of two others: {listed}{', ...' if len(blends) > 4 else ''}"
    hint = "resized or smoothed masks: make them anew with nearest neighbour, without anti-aliasing"
    return (Problem(str(root), "interpolated masks", value, hint),)


def _places(path: Path, coloured: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Count the pixels of each value: all, those in a spot of 3x3, and those beside a smaller and a larger one."""
    try:
        mask = read_mask(path)
    except BadSample:
        return [(np.zeros(0, int), np.zeros(0, int))] * 3
    if coloured:
        colours = mask if mask.ndim == 3 else np.repeat(mask[..., None], 3, axis=2)
        level, mask = colours.astype(np.float32) @ _AXIS, packed(colours)
    else:
        level = mask.astype(np.float32)
    spot = np.ones((3, 3), np.uint8)
    low, high = cv2.erode(level, spot), cv2.dilate(level, spot)
    inner = low == high
    inner[[0, -1]] = inner[:, [0, -1]] = False
    groups = (mask, mask[inner], mask[(low < level) & (level < high)])
    return [np.unique(group, return_counts=True) for group in groups]
