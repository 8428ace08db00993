"""Which images a quantised network is calibrated on: a few that show every class."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..distill import console
from ..distill.errors import DataError, UsageError
from ..distill.run.records import Record

if TYPE_CHECKING:
    from ..distill.data import Dataset

#: images whose labels are read to choose from; more add minutes on large sets and no class that matters
SCAN = 512
#: with fewer images the ends of the ranges are left to chance
ENOUGH = 128


@dataclass(frozen=True)
class CalibrationSet(Record):
    """The calibration images, in the order of choice, and their content."""

    indices: list[int]
    keys: list[str]
    #: share of the pixels of each class of the data; None on unlabelled data
    coverage: list[float] | None
    #: names of classes that no image shows
    missing: list[str]
    data: str
    #: hash of the pixels of these images
    fingerprint: str
    seed: int
    #: weaknesses of the set, in words
    audit: list[str]


def choose(dataset: "Dataset", count: int | None = None, *, seed: int = 0, scan: int = SCAN) -> CalibrationSet:
    """Choose ``count`` images that together show much of every class, and audit the choice.

    Greedy on the sum over classes of the square root of the pixels held: the root makes the first pixels of a rare
    class worth more than further ones of a common class. Unlabelled data are drawn at random.

    Args:
        dataset: usually the training split: calibration must not use the images of the gate.
        count: how many; None for ``ENOUGH``, or all where there are fewer.
        seed: of the candidates, where there are more than ``scan`` images, and of the draw on unlabelled data.
        scan: how many labels are read, at least.

    Raises:
        UsageError: ``count`` is below 1.
        DataError: the split is empty or holds fewer than ``count`` images.
    """
    if count is not None and count < 1:
        raise UsageError(f"--images {count}: at least 1 image is needed to calibrate")
    if not len(dataset):
        raise DataError(f"split '{dataset.split}' of {dataset.name} is empty: nothing to calibrate on")
    if count is not None and count > len(dataset):
        raise DataError(
            f"--images {count}: split '{dataset.split}' of {dataset.name} holds {len(dataset)}; ask for at most as many"
        )

    count = min(count or ENOUGH, len(dataset))
    order = [int(i) for i in np.random.default_rng(seed).permutation(len(dataset))]
    coverage = None
    missing: list[str] = []
    audit: list[str] = []

    if dataset.labelled:
        candidates = sorted(order[: max(scan, count)])
        pixels = np.stack(
            [_histogram(dataset, i) for i in console.progress(candidates, len(candidates), "choosing images")]
        )
        indices = [candidates[i] for i in greedy(pixels, count)]
        held = np.stack([pixels[candidates.index(i)] for i in indices]).sum(0)
        coverage = [round(float(share), 6) for share in held / max(1, held.sum())]
        missing = [name for name, count in zip(dataset.classes, held, strict=True) if not count]
        if missing:
            audit.append(f"no calibration image holds {', '.join(missing)}: these classes may suffer from quantisation")
    else:
        indices = order[:count]
        audit.append(f"{dataset.name} {dataset.split} has no labels: the images are drawn at random, not by class")

    if count < ENOUGH:
        audit.append(f"calibrated on {count} images, {ENOUGH} or more are advised: rare large values may be unseen")
    for line in audit:
        console.warn(line)

    keys = [dataset.key(i) for i in indices]
    name = f"{dataset.name} {dataset.split}"
    pictures = hashlib.sha256("".join(sorted(_hash_of(dataset.read(i)[0]) for i in indices)).encode())
    return CalibrationSet(indices, keys, coverage, missing, name, pictures.hexdigest(), seed, audit)


def greedy(pixels: np.ndarray, count: int) -> list[int]:
    """Choose rows of ``(images, classes)`` pixel counts that maximise the sum of square roots of their column sums."""
    held = np.zeros(pixels.shape[1])
    free = np.ones(len(pixels), bool)
    rows: list[int] = []
    for _ in range(min(count, len(pixels))):
        gain = np.sqrt(held + pixels).sum(1) - np.sqrt(held).sum()
        best = int(np.where(free, gain, -np.inf).argmax())
        rows.append(best)
        held += pixels[best]
        free[best] = False
    return rows


def _hash_of(image: np.ndarray) -> str:
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def _histogram(dataset: "Dataset", index: int) -> np.ndarray:
    label = dataset.read(index)[1]
    assert label is not None
    return np.bincount(label.ravel(), minlength=256)[: dataset.num_classes].astype(np.float64)
