"""Lists of files: the splits of a folder, or the images and masks themselves."""

from pathlib import Path

from .. import console
from ..errors import DataError
from ._names import SPLITS
from ._pairs import IMAGE_SUFFIXES, MASK_SUFFIXES, Files, names_of


def by_lists(root: Path, everything: Files) -> dict[str, Files]:
    """Cut one pool by ``train.txt``, ``val.txt`` and ``test.txt``, which name stems or paths, one a line."""
    for folder in (root, root / "ImageSets" / "Segmentation", root / "splits"):
        lists = {split: folder / f"{split}.txt" for split in SPLITS if (folder / f"{split}.txt").is_file()}
        if "train" not in lists and "val" not in lists:
            continue

        result = {}
        for split, path in lists.items():
            taken = _named(path, everything.images)
            result[split] = Files(taken, _masks_of(taken, everything), everything.image_base, everything.mask_base)
        return result
    return {"all": everything}


def _masks_of(images: list[Path], everything: Files) -> list[Path]:
    """Return the masks of some images: of the same folders, or else all that have their stems."""
    names = {name for image in images for name in names_of(image, everything.image_base, IMAGE_SUFFIXES)}
    masks = {mask: names_of(mask, everything.mask_base, MASK_SUFFIXES) for mask in everything.masks}
    if alike := [mask for mask, own in masks.items() if own & names]:
        return alike
    stems = {name.name for name in names}
    return [mask for mask, own in masks.items() if {name.name for name in own} & stems]


def _named(path: Path, images: list[Path]) -> list[Path]:
    """Return the images that a list names by stem or by path, one a line.

    Raises:
        DataError: it names none, or several by one line.
    """
    by_stem: dict[str, list[Path]] = {}
    for image in images:
        by_stem.setdefault(image.stem, []).append(image)
    taken, missing = [], []
    for line in _lines(path):
        wanted = Path(line.split()[0].lstrip("/"))
        some = by_stem.get(wanted.name) or by_stem.get(wanted.stem, [])
        if len(some) > 1:
            tail = f"/{wanted.with_name(some[0].stem).as_posix()}"
            some = [image for image in some if image.with_suffix("").as_posix().endswith(tail)]
            if len(some) > 1:
                raise DataError(f"{path}: {line} is both {some[0]} and {some[1]}: write the folder into the list, too")
        taken += some
        missing += [] if some else [line]
    if missing:
        raise DataError(f"{path} names {console.plural(len(missing), 'missing image')}, such as {min(missing)}")
    return sorted(set(taken))


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a folder or a list of files, one path a line ({error})") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def listed_files(root: Path, name: str, split: str) -> list[list[Path]]:
    """Read a list file: a path a line, or image and mask separated by white space or a comma; relative to the root.

    Lists travel with the paths of another machine, such as ``/SegNet/CamVid/train/1.png``: what follows a part of them
    that exists below the root is taken.

    Raises:
        DataError: no such list, or it names files that are not there.
    """
    path = root / name.replace("{split}", split)
    rows = [[_below(root, word) or Path(word) for word in line.replace(",", " ").split()] for line in _lines(path)]
    missing = [str(file) for row in rows for file in row if not file.is_absolute() or not file.is_file()]
    if missing:
        raise DataError(
            f"{path} names {console.plural(len(missing), 'file')} that {'is' if len(missing) == 1 else 'are'} neither "
            f"there nor below {root}, such as {missing[0]}; write paths relative to {root}"
        )
    return rows


def _below(root: Path, word: str) -> Path | None:
    """Return the file that a word of a list means: as it is, or without its first folders, below the root."""
    path = Path(word)
    if path.is_absolute() and path.is_file():
        return path
    parts = path.parts[1:] if path.is_absolute() else path.parts
    tails = (root.joinpath(*parts[start:]) for start in range(len(parts)))
    return next((tail.resolve() for tail in tails if tail.is_file()), None)
