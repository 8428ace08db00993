"""Images and masks of one split, paired by name."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import Problem
from ._files import Sample

IMAGE_SUFFIXES = ("_leftImg8bit", "_image", "_img", "_rgb")
#: Earlier ones are preferred where one image has several masks (Cityscapes: train ids before raw ids).
MASK_SUFFIXES = (
    "_gtFine_labelTrainIds", "_labelTrainIds", "_gtFine_labelIds", "_labelIds", "_annotation", "_annot", "_labels",
    "_label", "_masks", "_mask", "_segmentation", "_seg", "_gt", "_L",
)  # fmt: skip
_OTHER_SUFFIXES = ("_instanceIds", "_color", "_polygons", "_panoptic")  # companions of masks that are no class masks


@dataclass
class Files:
    """The image and mask files of one split, and the folders that their names are relative to."""

    images: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)
    image_base: Path = Path()
    mask_base: Path = Path()
    by_line: bool = False  # two lists: the n-th mask belongs to the n-th image


def files(folder: Path, types: Collection[str]) -> list[Path]:
    """Return the files of these types below a folder, sorted, hidden ones left out."""
    paths = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [
            Path(where, name) for name in names if Path(name).suffix.lower() in types and not name.startswith(".")
        ]
    return sorted(paths)


def without(stem: str, suffixes: Sequence[str]) -> tuple[str, int]:
    """Return a stem without its suffix and the rank of that suffix (0 = it has none)."""
    for rank, suffix in enumerate(suffixes, 1):
        if stem.endswith(suffix) and len(stem) > len(suffix):
            return stem[: -len(suffix)], rank
    return stem, 0


def _name(path: Path, base: Path) -> Path:
    return path.relative_to(base).with_suffix("") if path.is_relative_to(base) else Path(path.stem)


def names_of(path: Path, base: Path, suffixes: Sequence[str]) -> set[Path]:
    """Return a file's names below ``base``: as it is, and without a known suffix."""
    name = _name(path, base)
    return {name, name.with_name(without(name.name, suffixes)[0])}


def pair(
    images: list[Path], masks: list[Path], image_base: Path, mask_base: Path
) -> tuple[list[Sample], list[Problem], list[str]]:
    """Pair images and masks of equal relative name, apart from a known suffix (``7_image.png``, ``7_annotation.png``).

    Returns the samples in order of name, the files without partner as problems, and notes about choices. Without
    any mask the split is unlabelled and every sample's mask None.
    """
    problems, notes = [], []
    by_name: dict[Path, dict[int, Path]] = {}
    for mask in masks:
        name = _name(mask, mask_base)
        if name.name.endswith(_OTHER_SUFFIXES):
            continue
        bare, rank = without(name.name, MASK_SUFFIXES)
        for key, at in {name: 0, name.with_name(bare): rank}.items():
            twin = by_name.setdefault(key, {}).setdefault(at, mask)
            if twin is not mask:
                problems.append(Problem(str(mask), "two masks for one image", str(twin), "remove one of them"))

    samples, used = [], set()
    by_image: dict[Path, Path] = {}
    for image in images:
        name = _name(image, image_base)
        if (twin := by_image.setdefault(name, image)) is not image and by_name:
            problems.append(Problem(str(image), "two images of one name", str(twin), "remove one of them"))
            continue
        candidates = by_name.get(name) or by_name.get(name.with_name(without(name.name, IMAGE_SUFFIXES)[0])) or {}
        mask = candidates[min(candidates)] if candidates else None
        used.update(candidates.values())
        if len(candidates) > 1 and mask is not None and not notes:
            others = ", ".join(path.name for path in candidates.values() if path != mask)
            notes.append(f"{image.name}: of several masks {mask.name} was taken, not {others}")
        if mask is None and by_name:
            problems.append(Problem(str(image), "missing partner", "no mask of that name", f"looked in {mask_base}"))
        samples.append(Sample(name.as_posix(), image, mask))

    for mask in masks:
        if mask not in used and not mask.stem.endswith(_OTHER_SUFFIXES):
            problems.append(Problem(str(mask), "missing partner", "no image of that name", f"looked in {image_base}"))
    return sorted(samples, key=lambda sample: sample.key), problems, notes
