"""The built-in data: generated street-like scenes, not photographs, drawn on demand from (seed, split, index)."""

from typing import Any

import numpy as np

from ..errors import DataError, UsageError
from . import Dataset
from ._street import CLASSES, scene

#: sized for minutes on two CPU cores, also with a ResNet-101 as the teacher that is fitted first
RECIPE = {
    "train.crop": (64, 128),
    "train.scale": (0.75, 1.5),
    "train.batch": 8,
    "train.iters": 120,
    "train.teacher_iters": 120,
    "train.val_every": 60,
    "train.save_every": 40,
    "train.lr": 0.05,
}
_SPLITS = {"train": 0, "val": 1, "test": 2}


class Builtin(Dataset):
    """One split of the generated scenes."""

    name = "builtin"
    classes = tuple(CLASSES)
    palette = tuple(CLASSES.values())
    source = "builtin"
    notes = ("builtin: generated street-like scenes, not photographs; scores on them say nothing about real images",)

    def __init__(self, split: str, size: tuple[int, int], count: int, val_count: int, seed: int) -> None:
        self.split, self.count, self.seed = split, count if split == "train" else val_count, seed
        self.options = {"size": list(size), "count": count, "val_count": val_count, "seed": seed}
        self._size = size

    def __len__(self) -> int:
        return self.count

    def key(self, i: int) -> str:
        return f"generated_{self.split}_{i:05d}"

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        if not 0 <= i < self.count:
            raise IndexError(i)
        return scene(self._size, (self.seed, _SPLITS[self.split], i))

    def shape(self, i: int) -> tuple[int, int]:
        return self._size

    def fingerprint(self) -> str:
        return self._hash([self._size, self.count, self.seed, "scenes 1"])


def open_split(
    split: str, size: tuple[int, int] = (64, 128), count: int = 400, val_count: int = 60, seed: int = 0
) -> Builtin:
    """Open ``train`` (``count`` generated scenes), ``val`` or ``test`` (``val_count`` each) of ``size`` (H, W)."""
    if split not in _SPLITS:
        raise DataError(f"builtin has no split {split!r}; accepted: {', '.join(_SPLITS)}")
    for option, value, least in (("count", count, 1), ("val_count", val_count, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or value < least:
            raise UsageError(f"data.{option} = {value!r}: expected a whole number, at least {least}")
    if len(size) != 2 or min(size) < 32:
        raise UsageError(f"data.size = {size}: expected height and width, each at least 32")
    height, width = (int(n) for n in size)
    return Builtin(split, (height, width), count, val_count, seed)


def splits(**_: Any) -> list[str]:
    """Return the splits, whatever the options."""
    return list(_SPLITS)
