"""Images of any size before a network that is made for one: padded, resized or in tiles, as its file declares."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..preprocess import PAD, Policy

if TYPE_CHECKING:
    from .tiles import Score, Tiling  # needs torch, which a runtime of another library does without

#: at most so many windows of an image, evenly spread, stand for it where networks are compared or calibrated
SAMPLE = 4
#: strides that an image's size may have been rounded up to
_STRIDES = (1, 8, 16, 32)


@dataclass(frozen=True)
class Fit:
    """How images of any size meet a network of one ``size`` (height, width).

    What the image leaves free is filled with the mean colour, to the right and below, by whoever runs the network. An
    image that is within the size, by no more than it takes to round up to a stride, is taken as it is by every policy.

    - "pad": a smaller image is taken as it is, a larger one is shrunk until it is within the size, its shape kept.
    - "resize": the image is resized to the size, whatever its shape.
    - "tile": a smaller image is taken as it is, a larger one in overlapping windows.

    Masks come back at the size of the image, by the nearest pixel.
    """

    size: tuple[int, int]
    policy: Policy = PAD
    #: the windows of "tile" (default: of the network's size)
    tiling: "Tiling | None" = None

    @property
    def windows(self) -> "Tiling":
        """The windows of "tile"."""
        from .tiles import Tiling

        return self.tiling or Tiling(self.size)

    def tiles(self, size: tuple[int, int]) -> bool:
        """Tell whether an image of ``size`` is taken in more than one window."""
        return self.policy == "tile" and not self.windows.covers(size)

    def shape(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width that an image of ``size``, which is not tiled, is resized to."""
        within = size[0] <= self.size[0] and size[1] <= self.size[1]
        if within and (self.policy != "resize" or any(_rounded(size, n) == self.size for n in _STRIDES)):
            return size
        if self.policy == "resize":
            return self.size
        share = min(self.size[0] / size[0], self.size[1] / size[1])
        height, width = (max(1, min(most, round(n * share))) for n, most in zip(size, self.size, strict=True))
        return height, width

    def describe(self, size: tuple[int, int]) -> str:
        """Say in a line what is done with an image of ``size``; nothing where it is taken as it is."""
        if self.tiles(size):
            return f"tiles: {self.windows.describe(size)}"
        h, w = self.shape(size)
        return "" if (h, w) == size else f"an image of {size[0]}x{size[1]} is resized to {h}x{w}, and its mask back"

    def views(self, image: np.ndarray, label: np.ndarray | None = None) -> "list[View]":
        """Return what the network is shown of an image, none larger than its size, each with the same part of a label.

        One view, or for an image in tiles up to ``SAMPLE`` of its windows.

        Args:
            image: uint8 RGB ``(H, W, 3)``.
            label: uint8 ``(H, W)``.
        """
        size = _size(image)
        if not self.tiles(size):
            shape = self.shape(size)
            return [View(resized(image, shape), None if label is None else nearest(label, shape))]
        h, w = self.windows.window(size)
        places = list(itertools.product(*self.windows.starts(size)))
        chosen = {int(i) for i in np.linspace(0, len(places) - 1, min(SAMPLE, len(places)))}
        parts = [(slice(top, top + h), slice(left, left + w)) for top, left in (places[i] for i in sorted(chosen))]
        return [View(image[part], None if label is None else label[part]) for part in parts]

    def segment(
        self, image: np.ndarray, whole: Callable[[np.ndarray], np.ndarray], score: "Score | None" = None
    ) -> np.ndarray:
        """Segment an image with a network that takes none above its size: uint8 ``(H, W)``.

        Args:
            image: uint8 RGB ``(H, W, 3)``.
            whole: a view to its mask.
            score: a view to its logits, whose windows are blended; those of a network without are joined half way.
        """
        size = _size(image)
        if not self.tiles(size):
            return nearest(whole(resized(image, self.shape(size))), size)
        return self.windows.segment(score, image) if score else self.windows.join(whole, image)


@dataclass(frozen=True)
class View:
    """What a network is shown of an image, and the same part of its label."""

    image: np.ndarray
    label: np.ndarray | None


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 ``(H, W, 3)`` bilinearly; where it shrinks, over all pixels that a new one covers."""
    if _size(image) == size:
        return image
    from PIL import Image

    # a side at a time: which comes first, and so how they round, is otherwise for the version of Pillow to say
    across = Image.fromarray(np.ascontiguousarray(image)).resize((size[1], len(image)), Image.Resampling.BILINEAR)
    return np.array(across.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize ``(H, W)`` by taking the pixel below the centre of each new one."""
    if _size(mask) == size:
        return mask
    rows, columns = ((2 * np.arange(n) + 1) * old // (2 * n) for n, old in zip(size, mask.shape, strict=True))
    return np.ascontiguousarray(mask[np.ix_(rows, columns)])


def _size(array: np.ndarray) -> tuple[int, int]:
    return array.shape[0], array.shape[1]


def _rounded(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-size[0] // stride) * stride, -(-size[1] // stride) * stride
