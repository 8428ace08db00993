"""The names of folders: which split they are of, and whether they hold images or masks."""

import re
from pathlib import Path

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "rgb", "photos", "inputs")
MASK_FOLDERS = (
    "labels", "label", "annotations", "annotation", "annot", "segmentationclass", "gtfine", "masks", "mask", "gt",
    "segmentations", "segmentation", "targets",
)  # fmt: skip
SPLITS = ("train", "val", "test")
SPELLINGS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst"),
}
_SPLIT_OF = {spelling: split for split, spellings in SPELLINGS.items() for spelling in spellings}
_NAME = re.compile(rf"({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})[-_ ]?\d*[-_ ]?([a-z]*)")
_PLAIN = ("", "set", "split", "data", *IMAGE_FOLDERS)


def split_of(name: str) -> str | None:
    """Return the split of a folder of images by its name: ``val`` of "Val", "validation", "val2017", "val_images"."""
    match = _NAME.fullmatch(name.lower())
    return _SPLIT_OF[match[1]] if match and match[2] in _PLAIN else None


def masks_of(name: str) -> str | None:
    """Return the split of a folder of masks by its name: ``train`` of "trainannot" and "train_masks"."""
    match = _NAME.fullmatch(name.lower())
    return _SPLIT_OF[match[1]] if match and match[2] in MASK_FOLDERS else None


def folders_in(folder: Path) -> dict[str, Path]:
    """Return the visible sub-folders by lower-case name."""
    return {
        path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")
    }
