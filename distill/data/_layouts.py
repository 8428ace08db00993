"""Finding images and masks below a folder, in the usual layouts and spellings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError
from ._files import IMAGE_TYPES, MASK_TYPES
from ._lists import by_lists, listed_files
from ._names import IMAGE_FOLDERS, MASK_FOLDERS, SPELLINGS, SPLITS, folders_in, masks_of, split_of
from ._pairs import IMAGE_SUFFIXES, MASK_SUFFIXES, Files, files, names_of, without


@dataclass
class Layout:
    """The files by split ("all" where there are no splits), and lines that a user should see about them."""

    splits: dict[str, Files]
    notes: list[str] = field(default_factory=list)


def _split_folders(folder: Path) -> dict[str, Path]:
    """Return the sub-folders of images by split.

    Raises:
        DataError: several could be the same split.
    """
    found: dict[str, Path] = {}
    inside = folders_in(folder)
    for split in SPLITS:
        named = [path for name, path in inside.items() if split_of(name) == split]
        exact = [inside[name] for name in SPELLINGS[split] if name in inside]
        if len(named) > 1 and not exact:
            names = ", ".join(path.name for path in named)
            pattern = named[-1].name.lower().replace(split, "{split}") if split in named[-1].name.lower() else "NAME"
            raise DataError(
                f"{folder} holds {names}: which is {split}? Choose with data.images, such as "
                f"--set 'data.images={folder.name}/{pattern}', and data.labels"
            )
        if named:
            found[split] = (*exact, *named)[0]
    return found


def _left_out(folder: Path, parts: dict[str, Path]) -> list[str]:
    """Return a note of folders beside the splits that hold images, too, and are not read."""
    if not parts:
        return []
    others = [path for name, path in folders_in(folder).items() if path not in parts.values() and not masks_of(name)
              and name not in MASK_FOLDERS and any(files(path, IMAGE_TYPES))]  # fmt: skip
    names = ", ".join(path.name for path in others)
    return [f"{folder}: {names} left out, by name of no split"] if others else []


def _first(inside: dict[str, Path], names: Sequence[str]) -> list[Path]:
    return [inside[name] for name in names if name in inside]


def _beside(folder: Path) -> Files:
    """Split the files of one folder into images and the masks beside them (``x.png``, ``x_mask.png``)."""
    everything = files(folder, IMAGE_TYPES | MASK_TYPES)
    masks = [p for p in everything if p.suffix.lower() in MASK_TYPES and without(p.stem, MASK_SUFFIXES)[1]]
    taken = set(masks)
    images = [path for path in everything if path not in taken and path.suffix.lower() in IMAGE_TYPES]
    return Files(images, masks, folder, folder)


def _two_folders(images: Path, masks: Path | None) -> dict[str, Files]:
    """Read an image folder and a mask folder, split by split where at least one has folders for that."""
    image_parts, mask_parts = _split_folders(images), _split_folders(masks) if masks else {}
    if masks is None:
        return {split: _beside(part) for split, part in (image_parts or {"all": images}).items()}

    everything = Files(files(images, IMAGE_TYPES), files(masks, MASK_TYPES), images, masks)
    result = {}
    for split in image_parts or mask_parts or {"all": images}:
        part = Files(everything.images, everything.masks, images, masks)
        if image := image_parts.get(split):
            part.images, part.image_base = files(image, IMAGE_TYPES), image
        if mask := mask_parts.get(split):
            part.masks, part.mask_base = files(mask, MASK_TYPES), mask
        elif mask_parts:
            part.masks = []
        # one side has the splits: the other follows by name
        if image_parts and not mask_parts:
            names = _stems(part.images, IMAGE_SUFFIXES)
            part.masks = [path for path in part.masks if _stems([path], MASK_SUFFIXES) & names]
        elif mask_parts and not image_parts:
            names = _stems(part.masks, MASK_SUFFIXES)
            part.images = [path for path in part.images if _stems([path], IMAGE_SUFFIXES) & names]
        result[split] = part
    return result


def _stems(paths: Sequence[Path], suffixes: Sequence[str]) -> set[str]:
    """Return the stems of files, as they are and without a known suffix."""
    return {name.name for path in paths for name in names_of(path, path.parent, suffixes)}


def _by_component(pool: Files) -> dict[str, Files]:
    """Cut one pool by the splits that the paths in it name further down, as in ``city/train/1.png``."""

    def of(path: Path, base: Path) -> str | None:
        parts = path.relative_to(base).parts[:-1] if path.is_relative_to(base) else ()
        return next((split for split in map(split_of, parts) if split), None)

    images = {path: of(path, pool.image_base) for path in pool.images}
    masks = {path: of(path, pool.mask_base) for path in pool.masks}
    named = [split for split in SPLITS if split in images.values()]
    if not named:
        return {"all": pool}
    return {
        split: Files(
            [path for path, own in images.items() if own == split],
            [path for path, own in masks.items() if own in (split, None)] if None in masks.values() else
            [path for path, own in masks.items() if own == split],
            pool.image_base,
            pool.mask_base,
        )
        for split in named
    }  # fmt: skip


def _from_options(root: Path, images: str, masks: str | None) -> dict[str, Files]:
    if "{split}" in images:
        names = {}
        for split in SPLITS:
            spellings = [word for name in SPELLINGS[split] for word in (name, name.capitalize())]
            there = [word for word in spellings if (root / images.replace("{split}", word)).exists()]
            if there:
                names[split] = there[0]
        if not names:
            raise DataError(f"data.images = {images}: none of train, val, test put for {{split}} exists below {root}")
    else:
        names = {"all": "all"}

    result: dict[str, Files] = {}
    for split, word in names.items():
        folder = root / images.replace("{split}", word)
        if folder.is_dir():
            mask_folder = root / masks.replace("{split}", word) if masks else None
            if mask_folder is not None and not mask_folder.is_dir():
                raise DataError(f"data.labels = {masks}: {mask_folder} is not a folder, and data.images is one")
            parts = _two_folders(folder, mask_folder)
            if split == "all" and "all" in parts:
                parts = _by_component(parts["all"])
            result.update({split: parts["all"]} if "all" in parts else parts)
            continue

        rows = listed_files(root, images, word)
        if masks is None:
            listed = [row[1] for row in rows if len(row) > 1]
        else:
            listed = [row[0] for row in listed_files(root, masks, word)]
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
        inside = folders_in(home)
        known = (
            _first(inside, IMAGE_FOLDERS)
            or _split_folders(home)
            or any(p.suffix.lower() in IMAGE_TYPES for p in home.iterdir())
        )
        if known or len(inside) != 1:
            break
        home = next(iter(inside.values()))

    inside = folders_in(home)
    image_folders, mask_folders = _first(inside, IMAGE_FOLDERS), _first(inside, MASK_FOLDERS)
    if masks is not None:
        mask_folders = [root / masks]
        if not mask_folders[0].is_dir():
            raise DataError(
                f"data.labels = {masks}: {mask_folders[0]} is not a folder; a list of masks needs data.images too"
            )
    else:  # VOC's Annotations holds XML
        mask_folders = [path for path in mask_folders if files(path, MASK_TYPES)]
    if masks is None and len(mask_folders) > 1:
        others = ", ".join(path.name for path in mask_folders[1:])
        notes.append(f"masks are taken from {mask_folders[0].name}, not from {others} (--set data.labels=NAME chooses)")

    if image_folders:
        parts = _two_folders(image_folders[0], mask_folders[0] if mask_folders else None)
        notes += _left_out(image_folders[0], _split_folders(image_folders[0]))
    elif folders := _split_folders(home):
        parts = {split: _part(folder, inside) for split, folder in folders.items()}
        notes += _left_out(home, folders)
    else:
        several = [name for name, sub in inside.items() if _first(folders_in(sub), IMAGE_FOLDERS)]
        if several:
            raise DataError(f"{home} holds datasets of its own ({', '.join(several)}); name one of them")
        parts = {"all": _beside(home)}

    if list(parts) == ["all"]:
        parts = by_lists(home, parts["all"])
    if list(parts) == ["all"]:
        parts = _by_component(parts["all"])
    parts = {split: part for split, part in parts.items() if part.images}
    if not parts:
        raise DataError(
            f"no images found in {root}; expected images/ and labels/ (with train/ and val/ in them or around them), "
            "images with masks beside them (x.png, x_mask.png), or data.images and data.labels naming folders or lists"
        )
    return Layout(parts, notes)


def _part(folder: Path, siblings: dict[str, Path]) -> Files:
    """Read the folder of one split: images and masks in folders of it, masks in a sibling, or beside the images."""
    inside = folders_in(folder)
    if images := _first(inside, IMAGE_FOLDERS):
        masks = _first(inside, MASK_FOLDERS)
        return _two_folders(images[0], masks[0] if masks else None).get("all", Files())
    split = split_of(folder.name)
    sibling = next((path for name, path in siblings.items() if split and masks_of(name) == split), None)
    if sibling is not None:
        return Files(files(folder, IMAGE_TYPES), files(sibling, MASK_TYPES), folder, sibling)
    return _beside(folder)
