"""Pictures of masks: classes in their colours, what is wrong with them, and images as data URIs."""

import base64
from collections.abc import Sequence

import cv2
import numpy as np

#: error map on a faded picture, RGB; told apart by every common kind of colour vision (Okabe and Ito)
ERROR_COLOURS = {"wrong": (213, 94, 0), "mended": (0, 114, 178), "spoilt": (204, 121, 167), "ignored": (120, 120, 120)}


def colour_mask(mask: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Paint a uint8 class mask ``(H, W)`` as RGB ``(H, W, 3)``; ids without a colour, 255 among them, become grey."""
    table = np.full((256, 3), ERROR_COLOURS["ignored"], np.uint8)
    colours = np.asarray(palette, np.uint8).reshape(-1, 3)[:255]
    table[: len(colours)] = colours
    return table[mask]


def error_map(image: np.ndarray, truth: np.ndarray, pred: np.ndarray, before: np.ndarray | None) -> np.ndarray:
    """Show where ``pred`` is wrong on a faded grey copy of the image, and against ``before`` what changed.

    Args:
        image: uint8 RGB ``(H, W, 3)``.
        truth: uint8 ``(H, W)``; 255 is ignored.
        pred: uint8 ``(H, W)``, the mask that is evaluated.
        before: uint8 ``(H, W)``, the mask of the student before, or None.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    canvas = cv2.cvtColor((grey // 3 + 160).astype(np.uint8), cv2.COLOR_GRAY2RGB)
    labelled, wrong = truth != 255, pred != truth
    canvas[labelled & wrong] = ERROR_COLOURS["wrong"]
    if before is not None:
        canvas[labelled & wrong & (before == truth)] = ERROR_COLOURS["spoilt"]
        canvas[labelled & ~wrong & (before != truth)] = ERROR_COLOURS["mended"]
    canvas[~labelled] = ERROR_COLOURS["ignored"]
    return canvas


def data_uri(image: np.ndarray, *, photo: bool = False, width: int = 960) -> str:
    """Encode uint8 RGB ``(H, W, 3)``, at most ``width`` pixels wide, as a JPEG (``photo``) or PNG data URI."""
    if image.shape[1] > width:
        size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
        # nearest keeps the classes' colours pure; area averaging is the right filter for shrinking a photograph
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if photo else cv2.INTER_NEAREST)
    # no colour is spread over its neighbours: an error may be one pixel wide
    sharp = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    settings = [cv2.IMWRITE_JPEG_QUALITY, 88, *sharp] if photo else [cv2.IMWRITE_PNG_COMPRESSION, 9]
    _, data = cv2.imencode(".jpg" if photo else ".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
    kind = "jpeg" if photo else "png"
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"
