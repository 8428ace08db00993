"""Finding images and masks below a folder, in the usual layouts and spellings, and pairing them by name."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import console
from ..errors import DataError
from . import Problem
from ._files import IMAGE_TYPES, MASK_TYPES, Sample

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "rgb", "photos", "inputs")
MASK_FOLDERS = (
    "labels", "label", "annotations", "annotation", "annot", "segmentationclass", "gtfine", "masks", "mask", "gt",
    "segmentations", "segmentation", "targets",
)  # fmt: skip
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
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


@dataclass
class Layout:
    """The files by split ("all" where there are no splits), and lines that a user should see about them."""

    splits: dict[str, Files]
    notes: list[str] = field(default_factory=list)


def files(folder: Path, types: Collection[str]) -> list[Path]:
    """Return the files of these types below a folder, sorted, hidden ones left out."""
    paths = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [
            Path(where, name) for name in names if Path(name).suffix.lower() in types and not name.startswith(".")
        ]
    return sorted(paths)


def _without(stem: str, suffixes: Sequence[str]) -> tuple[str, int]:
    """Return a stem without its suffix and the rank of that suffix (0 = it has none)."""
    for rank, suffix in enumerate(suffixes, 1):
        if stem.endswith(suffix) and len(stem) > len(suffix):
            return stem[: -len(suffix)], rank
    return stem, 0


def _name(path: Path, base: Path) -> Path:
    return path.relative_to(base).with_suffix("") if path.is_relative_to(base) else Path(path.stem)


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
        bare, rank = _without(name.name, MASK_SUFFIXES)
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
        candidates = by_name.get(name) or by_name.get(name.with_name(_without(name.name, IMAGE_SUFFIXES)[0])) or {}
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


def _inside(folder: Path) -> dict[str, Path]:
    """Return the visible sub-folders by lower-case name."""
    return {
        path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")
    }


def _split_folders(folder: Path) -> dict[str, Path]:
    inside = _inside(folder)
    paths = {split: next((inside[n] for n in names if n in inside), None) for split, names in SPLIT_FOLDERS.items()}
    return {split: path for split, path in paths.items() if path is not None}


def _first(inside: dict[str, Path], names: Sequence[str]) -> list[Path]:
    return [inside[name] for name in names if name in inside]


def _beside(folder: Path) -> Files:
    """Split the files of one folder into images and the masks beside them (``x.png``, ``x_mask.png``)."""
    everything = files(folder, IMAGE_TYPES | MASK_TYPES)
    masks = [p for p in everything if p.suffix.lower() in MASK_TYPES and _without(p.stem, MASK_SUFFIXES)[1]]
    taken = set(masks)
    images = [path for path in everything if path not in taken and path.suffix.lower() in IMAGE_TYPES]
    return Files(images, masks, folder, folder)


def _two_folders(images: Path, masks: Path | None) -> dict[str, Files]:
    """Read an image folder and a mask folder, split by split where they have folders for that."""
    if masks is None:
        parts = _split_folders(images) or {"all": images}
        return {split: _beside(part) for split, part in parts.items()}
    image_parts, mask_parts = _split_folders(images) or {"all": images}, _split_folders(masks) or {"all": masks}
    result = {}
    for split, part in image_parts.items():
        mask_part = mask_parts.get(split)
        result[split] = Files(
            files(part, IMAGE_TYPES), files(mask_part, MASK_TYPES) if mask_part else [], part, mask_part or masks
        )
    return result


def _by_lists(root: Path, everything: Files) -> dict[str, Files]:
    """Cut one pool by ``train.txt``, ``val.txt`` and ``test.txt``, which name stems or paths, one a line."""
    for folder in (root, root / "ImageSets" / "Segmentation", root / "splits"):
        lists = {split: folder / f"{split}.txt" for split in SPLIT_FOLDERS if (folder / f"{split}.txt").is_file()}
        if "train" not in lists and "val" not in lists:
            continue

        result = {}
        for split, path in lists.items():
            listed = {Path(line.split()[0]).stem for line in path.read_text().splitlines() if line.strip()}
            if missing := listed - {image.stem for image in everything.images}:
                raise DataError(f"{path} names {console.plural(len(missing), 'missing image')}, such as {min(missing)}")
            stems = listed | {_without(stem, IMAGE_SUFFIXES)[0] for stem in listed}
            result[split] = Files(
                [image for image in everything.images if image.stem in listed],
                [m for m in everything.masks if m.stem in stems or _without(m.stem, MASK_SUFFIXES)[0] in stems],
                everything.image_base,
                everything.mask_base,
            )
        return result
    return {"all": everything}


def _listed(root: Path, name: str, split: str) -> list[list[Path]]:
    """Read a list file: a path a line, or image and mask separated by white space or a comma; relative to the root."""
    path = root / name.replace("{split}", split)
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a folder or a list of files, one path a line ({error})") from error
    rows = [line.replace(",", " ").split() for line in lines if line.strip() and not line.startswith("#")]
    return [[root / path for path in row] for row in rows]


def _from_options(root: Path, images: str, masks: str | None) -> dict[str, Files]:
    if "{split}" in images:
        names = [split for split in SPLIT_FOLDERS if (root / images.replace("{split}", split)).exists()]
        if not names:
            raise DataError(f"data.images = {images}: none of train, val, test put for {{split}} exists below {root}")
    else:
        names = ["all"]

    result: dict[str, Files] = {}
    for split in names:
        folder = root / images.replace("{split}", split)
        if folder.is_dir():
            mask_folder = root / masks.replace("{split}", split) if masks else None
            if mask_folder is not None and not mask_folder.is_dir():
                raise DataError(f"data.labels = {masks}: {mask_folder} is not a folder, and data.images is one")
            parts = _two_folders(folder, mask_folder)
            result.update({split: parts["all"]} if "all" in parts else parts)
            continue

        rows = _listed(root, images, split)
        if masks is None:
            listed = [row[1] for row in rows if len(row) > 1]
        else:
            listed = [row[0] for row in _listed(root, masks, split)]
        if listed and len(listed) != len(rows):
            raise DataError(
                f"{folder} lists {len(rows)} images and {len(listed)} masks: expected one mask for each image"
            )
        result[split] = Files([row[0] for row in rows], listed, root, root, by_line=True)
    return result


def discover(root: Path, images: str | None = None, masks: str | None = None) -> Layout:
    """Find images and masks below ``root``; ``images`` and ``masks`` name folders or lists and may hold ``{split}``.

    Raises:
        DataError: no images in any known layout.
    """
    if images is not None:
        return Layout(_from_options(root, images, masks))

    home, notes = root, []
    for _ in range(4):  # go down while there is only one way, as in VOCdevkit/VOC2012
        inside = _inside(home)
        known = (
            _first(inside, IMAGE_FOLDERS)
            or _split_folders(home)
            or any(p.suffix.lower() in IMAGE_TYPES for p in home.iterdir())
        )
        if known or len(inside) != 1:
            break
        home = next(iter(inside.values()))

    inside = _inside(home)
    image_folders, mask_folders = _first(inside, IMAGE_FOLDERS), _first(inside, MASK_FOLDERS)
    if masks is not None:
        mask_folders = [root / masks]
        if not mask_folders[0].is_dir():
            raise DataError(
                f"data.labels = {masks}: {mask_folders[0]} is not a folder; a list of masks needs data.images too"
            )
    elif len(mask_folders) > 1:
        others = ", ".join(path.name for path in mask_folders[1:])
        notes.append(f"masks are taken from {mask_folders[0].name}, not from {others} (--set data.labels=NAME chooses)")

    if image_folders:
        parts = _two_folders(image_folders[0], mask_folders[0] if mask_folders else None)
    elif folders := _split_folders(home):
        parts = {split: _part(folder, inside) for split, folder in folders.items()}
    else:
        several = [name for name, sub in inside.items() if _first(_inside(sub), IMAGE_FOLDERS)]
        if several:
            raise DataError(f"{home} holds datasets of its own ({', '.join(several)}); name one of them")
        parts = {"all": _beside(home)}

    if list(parts) == ["all"]:
        parts = _by_lists(home, parts["all"])
    parts = {split: part for split, part in parts.items() if part.images}
    if not parts:
        raise DataError(
            f"no images found in {root}; expected images/ and labels/ (with train/ and val/ in them or around them), "
            "images with masks beside them (x.png, x_mask.png), or data.images and data.labels naming folders or lists"
        )
    return Layout(parts, notes)


def _part(folder: Path, siblings: dict[str, Path]) -> Files:
    """Read the folder of one split: images and masks in folders of it, masks in a sibling, or beside the images."""
    inside = _inside(folder)
    if images := _first(inside, IMAGE_FOLDERS):
        masks = _first(inside, MASK_FOLDERS)
        return _two_folders(images[0], masks[0] if masks else None).get("all", Files())
    ends = ("annot", "_annot", "_labels", "_label", "_masks", "_mask", "_gt")
    name = folder.name.lower()
    sibling = next((siblings[name + end] for end in ends if name + end in siblings), None)
    if sibling is not None:
        return Files(files(folder, IMAGE_TYPES), files(sibling, MASK_TYPES), folder, sibling)
    return _beside(folder)
