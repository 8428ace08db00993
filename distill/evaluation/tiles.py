"""Large images in overlapping windows whose blended scores make one mask; the same for evaluation and prediction."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from .argmax import strongest

#: one window, uint8 RGB ``(h, w, 3)``, and what else is cut alike -> its logits ``(K, h', w')``, of any resolution
Score = Callable[..., Tensor]
BLENDS = ("smooth", "uniform")


@dataclass(frozen=True)
class Tiling:
    """Windows over an image: the last of a row or column is moved back to the edge; none is larger than the image.

    Attributes:
        size: height and width of a window in pixels.
        overlap: share of a window that the next one covers again; 1/3 is the sliding window of 2/3 stride of the
            published evaluations.
        blend: "smooth" lets a window fade out where another takes over (a raised cosine over the overlap); "uniform"
            is the plain mean of the published evaluations.
    """

    size: tuple[int, int]
    overlap: float = 1 / 3
    blend: str = "smooth"

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= 0.9:
            raise UsageError(f"--overlap {self.overlap:g} is not a share of the window; accepted: 0 to 0.9")
        if self.blend not in BLENDS:
            raise UsageError(f"--blend {self.blend} is not known; accepted: {', '.join(BLENDS)}")

    @property
    def stride(self) -> tuple[int, int]:
        """Rows and columns from one window to the next."""
        return self._step(self.size[0]), self._step(self.size[1])

    def _step(self, length: int) -> int:
        # a third of 512 is no whole number: rounding up keeps the number of windows that the papers have
        return max(1, math.ceil(length * (1 - self.overlap) - 1e-9))

    def covers(self, size: tuple[int, int]) -> bool:
        """Tell whether one window holds an image of ``size`` (height, width)."""
        return size[0] <= self.size[0] and size[1] <= self.size[1]

    def starts(self, size: tuple[int, int]) -> tuple[list[int], list[int]]:
        """Return the first rows and the first columns of the windows over an image of ``size``."""
        rows, columns = (
            [min(first, whole - part) for first in range(0, whole - part + step, step)] if whole > part else [0]
            for whole, part, step in zip(size, self.size, self.stride, strict=True)
        )
        return rows, columns

    def window(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the windows over an image of ``size``."""
        return min(self.size[0], size[0]), min(self.size[1], size[1])

    def macs(self, size: tuple[int, int]) -> float:
        """Return how many times the multiply-adds of the whole image its windows cost."""
        (tops, lefts), (h, w) = self.starts(size), self.window(size)
        return len(tops) * len(lefts) * h * w / (size[0] * size[1])

    def describe(self, size: tuple[int, int]) -> str:
        """Describe in a line the windows over an image of ``size``."""
        (tops, lefts), (h, w) = self.starts(size), self.window(size)
        return (
            f"{size[0]}x{size[1]} in {len(tops)}x{len(lefts)} windows of {h}x{w}, overlap {self.overlap:.2g}, "
            f"{self.blend} blend: {self.macs(size):.2f}x the multiply-adds of the whole"
        )

    @torch.inference_mode()
    def segment(self, score: Score, image: np.ndarray, *beside: np.ndarray) -> np.ndarray:
        """Segment an image by the weighted sum of its windows' logits.

        It holds one row of windows, float32 ``(K, h, W)``: 80 MB for 19 classes and windows of 512 rows over
        1024x2048, where the whole image would take 159 MB, and no more for a higher image.

        Args:
            score: see ``Score``.
            image: uint8 RGB ``(H, W, 3)``.
            beside: further arrays ``(H, W, ...)``, of which ``score`` gets the same windows.

        Returns:
            uint8 ``(H, W)``.
        """
        height, width = image.shape[:2]
        (tops, lefts), (h, w) = self.starts((height, width)), self.window((height, width))
        mask, band, weight = np.empty((height, width), np.uint8), None, None
        for top, following in itertools.pairwise([*tops, height]):
            for left in lefts:
                logits = score(*(x[top : top + h, left : left + w] for x in (image, *beside)))
                if band is None or weight is None:
                    band = torch.zeros(len(logits), h, width, device=logits.device)
                    weight = self._weight(h, w).to(logits.device)
                _add(band[:, :, left : left + w], logits, weight)
            assert band is not None
            # the weights' sum is the same for all classes, so that the argmax need not divide by it
            done = following - top
            mask[top:following] = strongest(band[:, :done]).cpu().numpy()
            for plane in band:
                plane[: h - done] = plane[done:].clone()
            band[:, h - done :] = 0
        return mask

    def join(self, predict: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
        """Segment an image with a network that gives masks: each pixel comes from the window that it is deepest in."""
        height, width = image.shape[:2]
        (tops, lefts), (h, w) = self.starts((height, width)), self.window((height, width))
        mask = np.empty((height, width), np.uint8)
        for top, (y0, y1) in zip(tops, _owned(tops, h, height), strict=True):
            for left, (x0, x1) in zip(lefts, _owned(lefts, w, width), strict=True):
                part = predict(image[top : top + h, left : left + w])
                mask[y0:y1, x0:x1] = part[y0 - top : y1 - top, x0 - left : x1 - left]
        return mask

    def _weight(self, h: int, w: int) -> Tensor:
        if self.blend == "uniform":
            return torch.ones(h, w)
        return _fade(h, h - self._step(h))[:, None] * _fade(w, w - self._step(w))


def _add(band: Tensor, logits: Tensor, weight: Tensor) -> None:
    """Add a window's logits, enlarged as ``labels_of`` does; class after class on the CPU, for its caches."""
    pairs = zip(band.split(1), logits.split(1), strict=True) if band.device.type == "cpu" else [(band, logits)]
    size = [int(n) for n in weight.shape]
    for sums, part in pairs:
        enlarged = F.interpolate(part[None].float(), size=size, mode="bilinear", align_corners=True)
        sums.addcmul_(enlarged[0], weight)


def _fade(length: int, overlap: int) -> Tensor:
    """Return a window's weights along one side: 1, with a rise and a fall of ``overlap``, nowhere 0."""
    place = torch.arange(length, dtype=torch.float64) + 0.5
    rise = torch.sin(math.pi / 2 * (place / max(overlap, 1)).clamp(max=1)) ** 2 if overlap else torch.ones(length)
    return (rise * rise.flip(0)).float()


def _owned(starts: list[int], length: int, whole: int) -> list[tuple[int, int]]:
    """Divide ``whole`` among windows, half way between the centres of neighbours."""
    cuts = [0, *((a + b + length) // 2 for a, b in itertools.pairwise(starts)), whole]
    return list(itertools.pairwise(cuts))
