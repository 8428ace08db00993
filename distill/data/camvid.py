"""CamVid, the SegNet split: 367 training, 101 validation, 233 test frames, 11 classes, id 11 unlabelled.

Brostow, Shotton, Fauqueur, Cipolla, "Segmentation and Recognition Using Structure from Motion Point Clouds", ECCV 2008;
split of Badrinarayanan, Kendall, Cipolla, "SegNet", 2015. Recipe: the CIRKD family's.
"""

import os
import re
from pathlib import Path

from ..errors import DataError
from ._codes import Code
from ._file_dataset import FileDataset
from ._files import IMAGE_TYPES, MASK_TYPES
from ._pairs import files, pair

RECIPE = {
    "train.crop": (360, 360),
    "train.batch": 16,
    "train.iters": 40000,
    "train.lr": 0.02,
    "train.weight_decay": 1e-4,
}
_CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (0, 0, 192),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
_FRAME = re.compile(r"^(0001TP|0006R0|0016E5|Seq05VD)_")  # the four drives
_SPLITS = ("train", "val", "test")


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    """Return a split's folders: ``images/train`` and ``labels/train``, or SegNet's ``train`` and ``trainannot``."""
    if (root / "images").is_dir():
        return root / "images" / split, root / "labels" / split
    return root / split, root / f"{split}annot"


def recognise(root: Path) -> bool:
    """Return whether a directory holds CamVid: a layout as above, with frames of its four drives in it."""
    for split in _SPLITS:
        images, labels = _folders(root, split)
        if images.is_dir() and labels.is_dir():
            return any(_FRAME.match(path.name) for path in files(images, IMAGE_TYPES))
    return False


def _root(root: str | None) -> Path:
    where = root or os.environ.get("CAMVID")
    if not where:
        raise DataError(
            "camvid: where is it? Give its directory (--data DIR), data.root or the environment variable CAMVID"
        )
    path = Path(where).expanduser().resolve()
    if not recognise(path):
        raise DataError(
            f"no CamVid in {path}: expected images/train and labels/train, or train and trainannot, with its frames"
        )
    return path


def splits(root: str | None = None) -> list[str]:
    """Return the existing splits."""
    folder = _root(root)
    return [split for split in _SPLITS if _folders(folder, split)[0].is_dir()]


def open_split(split: str, root: str | None = None) -> FileDataset:
    """Open ``train``, ``val`` or ``test`` of the CamVid in ``root``, else in $CAMVID."""
    folder = _root(root)
    images, labels = _folders(folder, split)
    if not images.is_dir():
        raise DataError(f"camvid: no split {split!r} in {folder}; splits there: {', '.join(splits(str(folder)))}")
    masks = files(labels, MASK_TYPES) if labels.is_dir() else []
    samples, problems, _ = pair(files(images, IMAGE_TYPES), masks, images, labels)
    return FileDataset(
        "camvid",
        split,
        samples,
        Code.numbered(len(_CLASSES), (len(_CLASSES),)),
        tuple(_CLASSES),
        tuple(_CLASSES.values()),
        source="camvid",
        options={"root": str(folder)},
        problems=tuple(problems),
    )
