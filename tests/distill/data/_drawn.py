"""Small data sets that tests draw: circles on a ground, as images with masks of class numbers."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

SIZE = (48, 64)


def circles(count: int = 6, classes: int = 3) -> list[np.ndarray]:
    """Return masks of class 0 with a circle of each other class."""
    rng, masks = np.random.default_rng(0), []
    for _ in range(count):
        mask = np.zeros(SIZE, np.uint8)
        for number in range(1, classes):
            cv2.circle(mask, tuple(rng.integers(10, 40, 2).tolist()), 8, number, -1)
        masks.append(mask)
    return masks


def write(
    root: Path,
    masks: Sequence[np.ndarray],
    change: Callable[[np.ndarray], np.ndarray] = lambda mask: mask,
    *,
    bits: int = 8,
    images: str = "images",
    labels: str = "masks",
    seed: int = 0,
) -> str:
    """Write noise of ``bits`` as images, and ``change(mask)`` as masks, RGB where it is three-dimensional."""
    rng = np.random.default_rng(seed)
    for i, mask in enumerate(masks):
        stored = change(mask)
        kind = np.uint8 if bits == 8 else np.uint16
        picture = rng.integers(0, 2**bits, (*stored.shape[:2], 3), dtype=np.uint16).astype(kind)
        for folder, pixels in ((images, picture), (labels, stored if stored.ndim == 2 else stored[..., ::-1])):
            (root / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / folder / f"{i}.png"), pixels)
    return str(root)
