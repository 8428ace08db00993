"""Why a folder seems to have no labels: they have another form, or are taken for images."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..console import plural
from . import BadSample, Problem
from ._files import read_mask
from ._names import split_of

_DRAW = "kdc reads masks, an image of class numbers for each: draw them into masks/NAME.png"
_MOST_FILES = 20000  # of a tree that are looked at
_MOST_BYTES = 50_000_000  # of a JSON file
_FEW_VALUES = 64  # what a mask has at most, and a photograph does not
_LISTS = re.compile(r"(train|val|test|trainval|readme|classes|labels|obj|license)[\w-]*", re.IGNORECASE)


def why_unlabelled(root: Path, images: Sequence[Path]) -> list[Problem]:
    """Return the likely reasons why no masks belong to ``images`` below ``root``; at least one."""
    found = [*_other_forms(root, {image.stem for image in images}), *_masks_among(root, images)]
    if found:
        return found
    hint = "masks belong into masks/ beside images/, or beside the images as NAME_mask.png; data.labels names others"
    return [Problem(str(root), "no labels found", f"{plural(len(images), 'image')} that can be predicted alone", hint)]


def _other_forms(root: Path, stems: set[str]) -> list[Problem]:
    """Return a problem for each kind of file that holds labels, but no masks."""
    forms: dict[str, list[Path]] = defaultdict(list)
    for path in _tree(root):
        if form := _form(path, stems):
            forms[form].append(path)
    return [
        Problem(str(paths[0]), "no masks", f"{form} ({plural(len(paths), 'file')})", _DRAW)
        for form, paths in forms.items()
    ]


def _tree(root: Path) -> list[Path]:
    paths: list[Path] = []
    for where, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [Path(where, name) for name in sorted(names) if not name.startswith(".")]
        if len(paths) > _MOST_FILES:
            break
    return paths


def _form(path: Path, stems: set[str]) -> str:
    """Return what kind of labels a file holds, in words; empty where it holds none."""
    suffix = path.suffix.lower()
    if suffix not in (".txt", ".json", ".xml", ".mat", ".npy"):
        return ""
    if suffix in (".mat", ".npy"):
        return f"labels as {suffix} arrays" if path.stem in stems else ""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES if suffix == ".json" else 4096)
    except OSError:
        return ""
    if suffix == ".xml":
        return "boxes in XML, as Pascal VOC and CVAT write them" if b"<annotation" in text else ""
    if suffix == ".json":
        return _json_form(text, path.stem in stems)
    return "" if _LISTS.fullmatch(path.stem) else _lines_form(text)


def _json_form(text: bytes, beside: bool) -> str:
    known = (b"categories", b"annotations", b"shapes", b"imagePath", b"regions", b"imgHeight", b"objects")
    keys = {key for key in known if b'"%s"' % key in text}
    if keys >= {b"categories", b"annotations"}:
        return "polygons or runs in JSON, as COCO has them"
    if keys >= {b"shapes", b"imagePath"}:
        return "polygons in JSON, as labelme writes them"
    if keys >= {b"objects", b"imgHeight"}:
        return "polygons in JSON, as Cityscapes has them"
    return "shapes in JSON" if b"regions" in keys or beside else ""


def _lines_form(text: bytes) -> str:
    """Tell YOLO's lines: a class, then a box (4 numbers) or a polygon (pairs of numbers)."""
    rows = [line.split() for line in text.decode(errors="replace").splitlines() if line.strip()]
    rows = rows[:-1] if len(text) == 4096 else rows  # the last may be cut off
    number = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")
    if not rows or not all(len(row) >= 5 and all(number.fullmatch(word) for word in row) for row in rows):
        return ""
    kind = "boxes" if all(len(row) in (5, 6) for row in rows) else "polygons"
    return f"{kind} in .txt files, as YOLO has them"


def _masks_among(root: Path, images: Sequence[Path]) -> list[Problem]:
    """Return a problem where files that were taken for images look like the masks of others."""
    folders: dict[Path, dict[str, Path]] = defaultdict(dict)
    for image in images:
        folders[image.parent].setdefault(image.stem, image)
    problems: dict[tuple[str, ...], Problem] = {}
    for folder, inside in folders.items():
        for other, others in folders.items():
            shared = sorted(inside.keys() & others.keys())
            if folder != other and 2 * len(shared) > len(inside) and _is_mask(inside[shared[0]]):
                photos, masks = (_template(each.relative_to(root)) for each in (other, folder))
                hint = f"--set 'data.images={photos}' --set 'data.labels={masks}'"
                value = f"{masks} has the names of {photos} and few values"
                problems[photos, masks] = Problem(str(folder), "masks taken for images", value, hint)
    if problems:
        return list(problems.values())

    # x.png and x_something.png in one folder
    for folder, inside in folders.items():
        for stem, path in inside.items():
            base = next((name for name in inside if name != stem and stem.startswith(name)), None)
            if base is not None and _is_mask(path):
                value = f"{path.name} looks like the mask of {inside[base].name}"
                hint = f"name masks NAME_mask{path.suffix}, or put them into a folder masks/"
                return [Problem(str(folder), "masks taken for images", value, hint)]

    masks = [path for path in images[:: max(1, len(images) // 8)] if _is_mask(path)]
    if masks and 2 * len(masks) >= len(images[:: max(1, len(images) // 8)]):
        value = f"{masks[0].name} and others hold few values"
        return [Problem(str(masks[0].parent), "masks taken for images", value, "put the photographs beside them")]
    return []


def _template(folder: Path) -> str:
    """Return a folder as ``data.images`` takes it: a split in its path is ``{split}``."""
    words = [(part, split_of(part)) for part in folder.parts]
    return "/".join(part.replace(_spelled(part), "{split}") if split else part for part, split in words) or "."


def _spelled(part: str) -> str:
    return re.match(r"[A-Za-z]+", part)[0]  # pyright: ignore[reportOptionalSubscript]


def _is_mask(path: Path) -> bool:
    """Tell a mask by its content: few values, in one channel or as flat colours."""
    try:
        mask = read_mask(path)
    except BadSample:
        return False
    values = np.unique(mask.reshape(-1, mask.shape[2]), axis=0) if mask.ndim == 3 else np.unique(mask)
    return len(values) <= _FEW_VALUES
