"""What the labels of a split hold, and the warnings where that is nothing to train on or to judge by."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from . import IGNORE

#: shares of all pixels at which a warning is given: ignored ones, and those of one class
MUCH_IGNORED, ONE_CLASS = 0.5, 0.99
#: warnings of one kind that are given one by one
_FEW = 5


@dataclass
class LabelCounts:
    """Of the labels of one split: pixels of each value (255 is ignored), and images that hold it; int64 (256,)."""

    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    images: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))

    @classmethod
    def of(cls, pixels: Sequence[int], ignored: int) -> "LabelCounts":
        """Return the counts of labels that were counted elsewhere: pixels by class, and those without a label."""
        counts = cls()
        counts.pixels[: len(pixels)], counts.pixels[IGNORE] = pixels, ignored
        return counts

    def add(self, label: np.ndarray) -> bool:
        """Count a label, uint8 (H, W); return whether any of its pixels is labelled."""
        counts = np.bincount(label.ravel(), minlength=256)
        self.pixels += counts
        self.images += counts > 0
        return bool(counts[IGNORE] < label.size)

    @property
    def labelled(self) -> int:
        """Pixels that are labelled."""
        return int(self.pixels.sum() - self.pixels[IGNORE])


def label_warnings(classes: Sequence[str], splits: Mapping[str, LabelCounts]) -> list[str]:
    """Return a line for every split in which labels are scarce, and for every class that a split lacks."""
    lines = []
    for split, counts in splits.items():
        total, labelled = int(counts.pixels.sum()), counts.labelled
        if not labelled:
            continue
        if counts.pixels[IGNORE] >= MUCH_IGNORED * total:
            lines.append(f"{100 * counts.pixels[IGNORE] / total:.1f} % of all pixels of {split} are ignored")
        most = int(counts.pixels[:IGNORE].argmax())
        if counts.pixels[most] >= ONE_CLASS * labelled:
            share = 100 * counts.pixels[most] / labelled
            lines.append(f"class {most} ({classes[most]}) has {share:.1f} % of the labelled pixels of {split}")

    counted = {split: counts for split, counts in splits.items() if counts.labelled}
    lacking: dict[str, list[int]] = {}
    for number in range(len(classes)):
        missing = [split for split, counts in counted.items() if not counts.pixels[number]]
        if missing:
            where = "" if len(missing) == len(counted) and len(splits) > 1 else f" in {', '.join(missing)}"
            lacking.setdefault(where, []).append(number)
    for where, numbers in lacking.items():
        names = [f"{number} ({classes[number]})" for number in numbers]
        if len(names) > _FEW:
            lines.append(f"{len(names)} of {len(classes)} classes are never seen{where}: {some(names, _FEW)}")
        else:
            lines += [f"class {name} is never seen{where}" for name in names]
    return lines


def some(names: Iterable[str], most: int = 3) -> str:
    """Return the first names, and how many more there are."""
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
