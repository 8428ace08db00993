"""Images of any size before a network of one size: what is resized, and where the windows of a large image are."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def fitted(size: Sequence[int], own: Sequence[int], fit: str) -> tuple[int, int]:
    """Return the size that an image is resized to before the rest of the network's ``own`` is padded."""
    (h, w), (height, width) = size, own
    # an image whose size was rounded up to a stride is padded
    rounded = any((-(-h // n) * n, -(-w // n) * n) == (height, width) for n in (1, 8, 16, 32))
    if h <= height and w <= width and (fit != "resize" or rounded):
        return h, w
    share = min(height / h, width / w)
    if fit == "resize":
        return height, width
    return max(1, min(height, round(h * share))), max(1, min(width, round(w * share)))


def resized(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resize uint8 ``(H, W, 3)`` bilinearly; where it shrinks, over all pixels that a new one covers."""
    for axis in (1, 0):
        old, new = image.shape[axis], size[axis]
        reach = max(1.0, old / new)  # where nothing changes, each new pixel is the old one
        apart = np.abs((np.arange(new)[:, None] + 0.5) * old / new - (np.arange(old) + 0.5))
        weights = np.maximum(0, 1 - apart / reach)
        weights = np.floor(2**22 * weights / weights.sum(1, keepdims=True) + 0.5)  # whole numbers, as Pillow has them
        values = np.tensordot(weights, image.astype(np.float64), axes=(1, axis))
        image = np.floor(np.moveaxis(values, 0, axis) / 2**22 + 0.5).clip(0, 255).astype(np.uint8)
    return image


def nearest(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resize a mask by taking the pixel below the centre of each new one."""
    rows, columns = ((2 * np.arange(n) + 1) * old // (2 * n) for n, old in zip(size, mask.shape, strict=True))
    return np.ascontiguousarray(mask[np.ix_(rows, columns)])


def enlarged(scores: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resize scores ``(K, h, w)`` bilinearly, as OpenCV does."""
    for axis, new in ((1, size[0]), (2, size[1])):
        old = scores.shape[axis]
        if old == new:
            continue
        place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        first = np.minimum(place.astype(int), max(old - 2, 0))
        share = np.expand_dims((place - first).astype(np.float32), [n for n in range(3) if n != axis])
        low, high = (np.take(scores, np.minimum(first + n, old - 1), axis) for n in (0, 1))
        scores = low * (1 - share) + high * share
    return scores


def step(length: int) -> int:
    """Return how far the next window is: two thirds of one, a third is covered again."""
    return max(1, math.ceil(length * (1 - 1 / 3) - 1e-9))


def starts(whole: int, part: int) -> list[int]:
    """Return where windows begin along a side; the last is moved back to the edge."""
    last, by = max(0, whole - part), step(part)
    return [min(first, last) for first in range(0, last + (by if last else 1), by)]


def fade(length: int) -> np.ndarray:
    """Return a window's weights along one side: 1, with a rise and a fall over what others cover again."""
    place = np.arange(length) + 0.5
    rise = np.sin(np.pi / 2 * np.minimum(place / max(length - step(length), 1), 1)) ** 2
    return (rise * rise[::-1]).astype(np.float32) if length > step(length) else np.ones(length, np.float32)


def owned(firsts: list[int], length: int, whole: int) -> list[tuple[int, int, int]]:
    """Return each window's first pixel and its share of ``whole``, cut half way between neighbours."""
    cuts = [0, *((a + b + length) // 2 for a, b in pairwise(firsts)), whole]
    return list(zip(firsts, cuts[:-1], cuts[1:], strict=True))
