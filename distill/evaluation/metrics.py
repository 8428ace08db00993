"""Segmentation scores from one exact int64 confusion matrix, read as CIRKD does (Yang et al. 2022, utils/score.py).

Rows are labels, columns are predictions. Matrices of images, shards and ranks simply add up.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from ..batch import IGNORE
from ..errors import DataError

#: cv2.calcHist answers in float32, which counts exactly up to here
_EXACT = 1 << 24


def confusion(pred: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    """Count (label, prediction) pairs of one image.

    Args:
        pred: uint8 ``(H, W)``, every value below ``num_classes``; what stands on ignored pixels does not matter.
        label: uint8 ``(H, W)``; 255 is ignored.
        num_classes: at most 255.

    Returns:
        int64 ``(K, K)``; row = label, column = prediction.

    Raises:
        DataError: shapes differ, or a value is neither a class nor (in the label) 255.
    """
    if pred.shape != label.shape:
        raise DataError(f"prediction is {_hw(pred)} but label is {_hw(label)}; both must have the image's size")
    # K * 255 + pred >= K * K: ignored pixels fall off the end of the histogram, so nothing is masked
    code = label.astype(np.uint16)
    code *= num_classes
    code += pred
    bins = num_classes * num_classes
    if code.size < _EXACT:
        counts = cv2.calcHist([code], [0], None, [bins], [0, bins]).astype(np.int64)
    else:
        counts = np.bincount(code.ravel(), minlength=bins)[:bins]
    matrix = counts.reshape(num_classes, num_classes)
    _refuse_strangers(pred, label, num_classes)
    return matrix


def _refuse_strangers(pred: np.ndarray, label: np.ndarray, num_classes: int) -> None:
    if num_classes < IGNORE and cv2.countNonZero(cv2.inRange(label, num_classes, IGNORE - 1)):
        value = int(label[(label >= num_classes) & (label < IGNORE)][0])
        raise DataError(f"label holds {value}; accepted are 0 to {num_classes - 1} and {IGNORE} (ignored)")
    if pred.size and int(pred.max()) >= num_classes:
        strange = pred[(pred >= num_classes) & (label != IGNORE)]
        if strange.size:
            raise DataError(f"prediction holds class {int(strange[0])}; the data has {num_classes} classes")


def _hw(mask: np.ndarray) -> str:
    return "x".join(map(str, mask.shape))


def boundary_band(label: np.ndarray, radius: int) -> np.ndarray:
    """Mark the pixels that have another class within ``radius`` pixels (Euclidean).

    Ignored pixels are never in the band and make none: the border to an unlabelled region is no boundary.

    Args:
        label: uint8 ``(H, W)``; 255 is ignored.
        radius: in pixels, at least 1.

    Returns:
        bool ``(H, W)``.
    """
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disc = (x * x + y * y <= radius * radius).astype(np.uint8)
    ignored = label == IGNORE
    # 255 never wins a minimum, nor 0 a maximum: the neighbourhood of a pixel is its labelled part
    highest = cv2.dilate(np.where(ignored, np.uint8(0), label), disc)
    lowest = cv2.erode(label, disc)
    return (highest != lowest) & ~ignored


def iou_of(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(iou, present)`` of a confusion matrix, each ``(K,)``: an empty union has IoU 0 and is not present."""
    hit = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - hit
    return hit / np.maximum(union, 1), union > 0


@dataclass
class Scores:
    """Counts over a set of images and the scores that follow from them; all scores are fractions in [0, 1]."""

    #: int64 ``(K, K)`` over all labelled pixels, and over those in the boundary band
    confusion: np.ndarray
    band_confusion: np.ndarray
    classes: tuple[str, ...]
    images: int = 0
    #: half width of the boundary band in pixels
    radius: int = 3
    #: pixels without a label
    ignored: int = 0

    @classmethod
    def empty(cls, classes: tuple[str, ...], radius: int = 3) -> "Scores":
        """Return the scores of no image."""
        zero = np.zeros((len(classes), len(classes)), np.int64)
        return cls(zero, zero.copy(), tuple(classes), 0, radius)

    def add(self, pred: np.ndarray, label: np.ndarray) -> None:
        """Count one image; see ``confusion``."""
        k = len(self.classes)
        counts = confusion(pred, label, k)
        self.confusion += counts
        self.ignored += label.size - int(counts.sum())
        band = boundary_band(label, self.radius)
        self.band_confusion += confusion(pred, np.where(band, label, np.uint8(IGNORE)), k)
        self.images += 1

    def __add__(self, other: "Scores") -> "Scores":
        """Join the counts of two disjoint parts of a set."""
        if (self.classes, self.radius) != (other.classes, other.radius):
            raise ValueError("scores over different classes or band widths do not add up")
        both = self.confusion + other.confusion, self.band_confusion + other.band_confusion
        return Scores(*both, self.classes, self.images + other.images, self.radius, self.ignored + other.ignored)

    @property
    def labelled(self) -> int:
        """Pixels that have a label; where there are none, the scores say nothing."""
        return int(self.confusion.sum())

    @property
    def iou(self) -> list[float]:
        """Per class; 0 where a class is neither labelled nor predicted (official reading)."""
        return iou_of(self.confusion)[0].tolist()

    @property
    def miou(self) -> float:
        """Mean over all K classes, an empty union counting as 0 (official reading)."""
        return float(iou_of(self.confusion)[0].mean())

    @property
    def miou_present(self) -> float:
        """Mean over the classes that are labelled or predicted somewhere (mmseg's reading)."""
        return _mean_present(self.confusion)

    @property
    def boundary_miou(self) -> float:
        """Mean IoU inside the boundary band, over the classes present there."""
        return _mean_present(self.band_confusion)

    @property
    def pixel_accuracy(self) -> float:
        """Share of labelled pixels that are right."""
        return float(np.trace(self.confusion) / max(int(self.confusion.sum()), 1))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "miou": self.miou,
            "miou_present": self.miou_present,
            "boundary_miou": self.boundary_miou,
            "boundary_radius": self.radius,
            "pixel_accuracy": self.pixel_accuracy,
            "iou": self.iou,
            "label_pixels": self.confusion.sum(1).tolist(),
            "ignored_pixels": self.ignored,
            "classes": list(self.classes),
            "images": self.images,
        }


def _mean_present(matrix: np.ndarray) -> float:
    iou, present = iou_of(matrix)
    return float(iou[present].mean()) if present.any() else 0.0
