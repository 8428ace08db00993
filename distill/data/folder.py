"""A folder of images and masks: two sub-folders or two lists; palette, grey or RGB-coded masks; the rest is inferred.

Options, or the keys of a ``kdc.yaml`` (or ``dataset.yaml``) beside the data: ``classes`` (names, or their number),
``ignore_index`` (one id or several), ``codes`` (the grey value or RGB colour of each class), ``ignore_codes`` (colours
that are ignored), ``palette`` (for pictures), ``images``, ``labels``, ``val_fraction``, ``split_seed``.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..errors import DataError, UsageError, closest
from . import IGNORE, BadSample, Problem
from ._files import Code, Colour, FileDataset, Sample, default_palette, packed, palette_of, read_mask
from ._pairs import Files, discover, pair

RECIPE = {}
_CARDS = ("kdc.yaml", "kdc.yml", "dataset.yaml", "dataset.yml")
_MOST_COLOURS = 256
_GREY_STEP = 32  # masks whose few values all lie at least this far apart are grey-coded, not numbered


@dataclass(frozen=True)
class Options:
    """The options of a folder, each None where it is to be inferred."""

    images: str | None = None
    labels: str | None = None
    classes: Any = None
    ignore_index: int | list[int] | None = None
    codes: Any = None
    ignore_codes: Any = None
    palette: Any = None
    val_fraction: float | None = None
    split_seed: int | None = None

    @property
    def ignored(self) -> tuple[int, ...]:
        """The ids that are ignored in numbered masks."""
        ids = IGNORE if self.ignore_index is None else self.ignore_index
        return tuple(map(int, ids)) if isinstance(ids, list | tuple) else (int(ids),)


def _card(root: Path) -> tuple[dict[str, Any], list[str]]:
    """Read the YAML beside the data, if there is one."""
    accepted = [field.name for field in fields(Options)]
    for name in _CARDS:
        if not (root / name).is_file():
            continue
        try:
            card = yaml.safe_load((root / name).read_text()) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DataError(f"{root / name}: not readable as YAML: {' '.join(str(error).split())}") from error
        if not isinstance(card, dict):
            raise DataError(f"{root / name}: expected keys and values; accepted keys: {', '.join(accepted)}")
        for key in card:
            if key not in accepted:
                near = closest(str(key), accepted)
                raise DataError(f"{root / name}: unknown key {key!r}{near}; accepted: {', '.join(accepted)}")
        return card, [f"settings read from {root / name}"]
    return {}, []


def _names(classes: Any) -> tuple[str, ...] | None:
    """Turn names, a comma-separated line of names, a number, or {id: name} into class names."""
    if classes is None:
        return None
    if isinstance(classes, str) and not classes.isdigit():
        classes = [name.strip() for name in classes.split(",")]
    if isinstance(classes, dict):
        if sorted(classes) != list(range(len(classes))):
            raise UsageError(f"data.classes: expected ids 0 to {len(classes) - 1}, got {sorted(classes)}")
        classes = [classes[i] for i in range(len(classes))]
    names = (
        tuple(map(str, classes))
        if isinstance(classes, list | tuple)
        else tuple(f"class{i}" for i in range(int(classes)))
    )
    if not 1 <= len(names) <= 253 or len(set(names)) < len(names):
        raise UsageError(
            f"data.classes: expected 1 to 253 different names, got {len(names)}, {len(set(names))} of them different"
        )
    return names


def _value(code: Any) -> int | Colour:
    whole = code if isinstance(code, list | tuple) else [code]
    if len(whole) not in (1, 3) or not all(isinstance(v, int) and 0 <= v <= 65535 for v in whole):
        raise UsageError(f"data.codes: {code!r} is neither a grey value nor a colour [r, g, b]")
    return int(whole[0]) if len(whole) == 1 else (int(whole[0]), int(whole[1]), int(whole[2]))


def _code(options: Options, names: tuple[str, ...] | None) -> tuple[Code | None, tuple[str, ...] | None]:
    """Return the code and the names that the options give; None where they leave it to the masks."""
    ignored, codes = options.ignored, options.codes
    if codes is None:
        return (Code.numbered(len(names), ignored) if names else None), names

    if isinstance(codes, dict):
        names, codes = names or _names(list(codes)), list(codes.values())
    values = [_value(code) for code in codes]
    extra = [_value(code) for code in options.ignore_codes or []]
    if len({isinstance(value, tuple) for value in [*values, *extra]}) != 1:
        raise UsageError("data.codes mixes grey values and colours; expected one kind")
    if names is not None and len(values) != len(names):
        raise UsageError(f"data.codes holds {len(values)} values for {len(names)} classes; expected one for each")
    if not values:
        raise UsageError("data.codes is empty; expected a grey value or a colour [r, g, b] for each class")

    if not isinstance(values[0], int):
        if options.ignore_index:
            raise UsageError("data.ignore_index is for numbered masks; RGB-coded ones take ignore_codes")
    else:
        extra += [value for value in ignored if value not in values]
    return Code(tuple(values), tuple(extra)), names or _names(len(values))  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=8)
def _values_of(masks: tuple[Path, ...]) -> tuple[bool, tuple[int, ...], tuple[Problem, ...]]:
    """Decode all masks: whether any is coloured, their values (colours as 0xRRGGBB), and the unreadable files."""

    def values(path: Path) -> tuple[bool, np.ndarray] | Problem:
        try:
            mask = read_mask(path)
        except BadSample as bad:
            return bad.problem
        if mask.ndim == 3:
            mask = packed(mask)
        present = np.zeros(int(mask.max()) + 1, bool)
        present[mask.ravel()] = True
        return mask.dtype == np.uint32, np.flatnonzero(present)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(values, masks))
    decoded = [result for result in results if not isinstance(result, Problem)]
    coloured = any(colour for colour, _ in decoded)
    together: set[int] = set()
    for colour, some in decoded:
        together.update((some if colour or not coloured else some * 0x010101).tolist())
    return coloured, tuple(sorted(together)), tuple(result for result in results if isinstance(result, Problem))


def _inferred(root: Path, masks: tuple[Path, ...], options: Options) -> tuple[Code, str]:
    """Infer classes from the values in the masks; return the code, and the inference in one line."""
    coloured, values, unread = _values_of(masks)
    cure = "say which with --classes, or with classes and codes in kdc.yaml"
    seen = f"inferred from {len(masks) - len(unread)} masks in {root}"
    if not values:
        raise DataError(f"none of the {len(masks)} masks can be read; {unread[0]}")

    if coloured:
        if options.ignore_index:
            raise UsageError(
                f"data.ignore_index is for numbered masks; those in {root} are RGB-coded: give ignore_codes"
            )
        if len(values) > _MOST_COLOURS:
            raise DataError(
                f"the masks in {root} hold {len(values)} colours: photographs, or masks saved with smoothing? {cure}"
            )
        colours = tuple((v >> 16, v >> 8 & 255, v & 255) for v in values)
        return Code(colours, ()), f"{len(colours)} classes {seen}, a colour each: {', '.join(map(str, colours[:8]))}"
    # grey-coded: black and white, or values far apart
    if set(values) == {0, 255} and options.ignore_index is None:
        return Code((0, 255), ()), f"2 classes {seen}: grey 0 and 255"
    ignored = options.ignored
    rest = [value for value in values if value not in ignored]
    if len(rest) > 1 and min(np.diff(rest)) >= _GREY_STEP:
        return Code(tuple(rest), ignored), f"{len(rest)} classes {seen}, grey-coded: {', '.join(map(str, rest))}"

    # numbered
    if not rest or rest[-1] > 252:
        content = f"values up to {rest[-1]}" if rest else "nothing but the ignored id"
        raise DataError(f"the masks in {root} hold {content}: instance ids, or photographs? {cure}")
    count = rest[-1] + 1 - sum(value < rest[-1] for value in ignored)
    absent = count - len(rest)
    unseen = f" ({absent} of them in no mask)" if absent else ""
    ids = ", ".join(map(str, ignored))
    return Code.numbered(count, ignored), f"{count} classes{unseen} {seen}: values up to {rest[-1]}, {ids} ignored"


def _cut(samples: list[Sample], split: str, fraction: float, seed: int) -> list[Sample]:
    """Take the training or the validation share of one pool, drawn by seed."""
    if not 0 < fraction < 1:
        raise UsageError(f"data.val_fraction = {fraction}: expected between 0 and 1")
    order = np.random.default_rng(seed).permutation(len(samples))
    held = max(1, round(len(samples) * fraction)) if len(samples) > 1 else 0
    return [samples[i] for i in sorted(order[:held] if split == "val" else order[held:])]


def _paired(part: Files) -> tuple[list[Sample], list[Problem], list[str]]:
    if not part.by_line:
        return pair(part.images, part.masks, part.image_base, part.mask_base)
    masks = part.masks or [None] * len(part.images)
    rows = zip(part.images, masks, strict=True)
    return [Sample(image.with_suffix("").name, image, mask) for image, mask in rows], [], []


def _open(root: Path, **options: Any) -> tuple[dict[str, Any], dict[str, Files], list[str]]:
    """Return the options with those of the YAML beside the data, the files by split, and notes."""
    card, notes = _card(root)
    values = card | {key: value for key, value in options.items() if value is not None}
    layout = discover(root, values.get("images"), values.get("labels"))
    return values, layout.splits, notes + layout.notes


def splits(root: str, **options: Any) -> list[str]:
    """Return the splits of the folder, or train and val where it has none: they are drawn by seed."""
    parts = _open(Path(root), **options)[1]
    return ["train", "val"] if list(parts) == ["all"] else list(parts)


def open_split(
    split: str,
    root: str | None = None,
    images: str | None = None,
    labels: str | None = None,
    classes: Any = None,
    ignore_index: int | list[int] | None = None,
    codes: Any = None,
    ignore_codes: Any = None,
    palette: Any = None,
    val_fraction: float | None = None,
    split_seed: int | None = None,
) -> FileDataset:
    """Open ``train``, ``val``, ``test`` or ``all`` of the images and masks in ``root``.

    Raises:
        DataError: no images, no such split, classes that cannot be inferred, or a bad YAML.
        UsageError: classes, codes or fractions that do not fit together.
    """
    if root is None:
        raise DataError("folder: which one? Give its directory: --data DIR")
    where = Path(root)
    values, files, notes = _open(
        where,
        images=images,
        labels=labels,
        classes=classes,
        ignore_index=ignore_index,
        codes=codes,
        ignore_codes=ignore_codes,
        palette=palette,
        val_fraction=val_fraction,
        split_seed=split_seed,
    )
    options = Options(**values)

    cut = list(files) == ["all"] and split != "all"
    if split not in files and not (cut and split in ("train", "val")) and split != "all":
        accepted = "train, val (drawn by seed)" if cut else ", ".join(files)
        raise DataError(f"{where} has no split {split!r}; splits there: {accepted}; all = every image")

    parts = [_paired(part) for name, part in files.items() if cut or split in ("all", name)]
    samples = [sample for part in parts for sample in part[0]]
    problems = tuple(problem for part in parts for problem in part[1])
    notes += [note for part in parts for note in part[2]]
    if cut:
        fraction = 0.2 if options.val_fraction is None else options.val_fraction
        seed = options.split_seed or 0
        samples = _cut(samples, split, fraction, seed)
        notes.append(f"no splits given: {fraction:.0%} of the images drawn for val by seed {seed}")

    # the classes are those of all splits
    code, names = _code(options, _names(options.classes))
    masks = tuple(s.mask for part in files.values() for s in _paired(part)[0] if s.mask is not None)
    if code is None and masks:
        code, note = _inferred(where, masks, options)
        names = _names(len(code.values))
        notes.append(note)
    code, names = code or Code(()), names or ()
    colours = _palette(options.palette, code, masks)

    # everything that was inferred is written out
    inferred = ("classes", "ignore_index", "codes", "ignore_codes", "palette")
    resolved = {key: value for key, value in values.items() if key not in inferred}
    if names:
        resolved |= {"classes": list(names), "codes": [list(v) if isinstance(v, tuple) else v for v in code.values]}
        resolved |= {"ignore_codes": [list(v) if isinstance(v, tuple) else v for v in code.ignored], "ignore_index": []}
        resolved["palette"] = [list(colour) for colour in colours]
    return FileDataset(
        where.name,
        split,
        samples,
        code,
        names,
        colours,
        source=str(where),
        options=resolved,
        notes=tuple(notes),
        problems=problems,
    )


def _palette(palette: Any, code: Code, masks: tuple[Path, ...]) -> tuple[Colour, ...]:
    """Return a colour for each class: ``palette``, else the codes, else the first mask's palette, else made up."""
    count = len(code.values)
    if palette is not None:
        colours = [_value(colour) for colour in palette]
        if len(colours) != count or not all(isinstance(colour, tuple) for colour in colours):
            raise UsageError(f"data.palette: expected {count} colours [r, g, b], got {len(colours)}")
        return tuple(colour for colour in colours if isinstance(colour, tuple))
    if code.coloured:
        return tuple(value for value in code.values if isinstance(value, tuple))
    stored = palette_of(masks[0]) if masks else ()
    if stored and all(isinstance(v, int) and v < len(stored) for v in code.values):
        return tuple(stored[v] for v in code.values if isinstance(v, int))
    return default_palette(count)
