"""Joint geometry of image and label with OpenCV, and photometric jitter: uint8 in, uint8 out.

The geometry is the CIRKD family's (scale factor 0.5 + {0..15}/10, pad at bottom and right, crop, flip), but the window
of the source that will be seen is cut first and resized once, which moves pixels by less than one source pixel and
costs a fraction of resizing the whole image.
"""

import cv2
import numpy as np
import torch
from torchvision.transforms.v2 import functional as photometric

from . import IGNORE

#: What lies beyond the image: the ImageNet mean colour, so that padding is near zero after normalisation.
FILL = (124, 116, 104)


def draw_window(
    rng: np.random.Generator, size: tuple[int, int], crop: tuple[int, int], scale: tuple[float, float]
) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """Draw a scale and a place.

    Returns the window of the source (top, left, height, width) and the size (H, W) that it is resized to. The
    factor comes in steps of 0.1 from ``scale[0]`` to ``scale[1]``, as in the papers' code.
    """
    low, high = scale
    factor = low + 0.1 * int(rng.integers(int((high - low) / 0.1 + 1e-6) + 1))
    window, target = [], []
    for full, limit in zip(size, crop, strict=True):
        scaled = max(1, round(full * factor))
        shown = min(limit, scaled)
        start = int(rng.integers(scaled - shown + 1))
        first = min(round(start * full / scaled), full - 1)
        window.append((first, min(max(1, round(shown * full / scaled)), full - first)))
        target.append(shown)
    (top, height), (left, width) = window
    return (top, left, height, width), (target[0], target[1])


def view(
    image: np.ndarray,
    label: np.ndarray,
    rng: np.random.Generator,
    *,
    crop: tuple[int, int],
    scale: tuple[float, float] = (0.5, 2.0),
    flip: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Return one random view: image uint8 (*crop, 3) and label uint8 crop, padded with the mean colour and 255."""
    (top, left, height, width), (h, w) = draw_window(rng, (image.shape[0], image.shape[1]), crop, scale)
    image = image[top : top + height, left : left + width]
    label = label[top : top + height, left : left + width]
    if (height, width) != (h, w):
        image = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)
        # the exact kind samples at pixel centres as the bilinear one does; plain INTER_NEAREST is half a pixel off
        label = cv2.resize(label, (w, h), interpolation=cv2.INTER_NEAREST_EXACT)
    if (h, w) != crop:
        border = (0, crop[0] - h, 0, crop[1] - w, cv2.BORDER_CONSTANT)
        image = cv2.copyMakeBorder(image, *border, value=FILL)
        label = cv2.copyMakeBorder(label, *border, value=(IGNORE,))
    if flip and rng.random() < 0.5:
        image, label = cv2.flip(image, 1), cv2.flip(label, 1)
    return np.ascontiguousarray(image), np.ascontiguousarray(label)


def jitter(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Change brightness, contrast, saturation (factor 1 +- strength) and hue (+- strength/4) in random order.

    The functional forms of torchvision's v2 take the drawn factors, so no global generator is touched.
    """
    if strength <= 0:
        return image
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    changes = [photometric.adjust_brightness, photometric.adjust_contrast, photometric.adjust_saturation]
    factors = rng.uniform(max(0.0, 1 - strength), 1 + strength, 3).tolist()
    shift = float(rng.uniform(-1, 1)) * min(0.5, strength / 4)
    for i in rng.permutation(4).tolist():
        tensor = photometric.adjust_hue(tensor, shift) if i == 3 else changes[i](tensor, factors[i])
    return np.ascontiguousarray(tensor.permute(1, 2, 0).numpy())
