"""A folder of images and masks: two sub-folders or two lists; palette, grey or RGB-coded masks; the rest is inferred.

Options, or the keys of a ``kdc.yaml`` (or ``dataset.yaml``) beside the data: ``classes`` (names, or their number),
``ignore_index`` (one id or several), ``codes`` (the grey value or RGB colour of each class), ``ignore_codes`` (colours
that are ignored), ``palette`` (for pictures), ``images``, ``labels``, ``val_fraction``, ``split_seed``.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, UsageError
from . import Problem
from ._card import Options, class_names, code_value, find_card, given_code, given_names
from ._codes import Code, Colour, default_palette
from ._depth import check_bits, find_bits
from ._file_dataset import FileDataset
from ._files import Sample, palette_of
from ._layouts import discover
from ._pairs import Files, pair
from ._values import read_code

RECIPE = {}


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


def _open(where: Path, **options: Any) -> tuple[Path, dict[str, Any], dict[str, Files], list[str]]:
    """Return the folder, the options with those of its card, the files by split, and notes."""
    root, card, notes = find_card(where)
    values = card | {key: value for key, value in options.items() if value is not None}
    for key in ("images", "labels"):
        if values.get(key) is not None:
            values[key] = str(values[key])
    layout = discover(root, values.get("images"), values.get("labels"))
    return root, values, layout.splits, notes + layout.notes


def splits(root: str, **options: Any) -> list[str]:
    """Return the splits of the folder, or train and val where it has none: they are drawn by seed."""
    parts = _open(Path(root), **options)[2]
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
    bits: int | None = None,
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
    given = {
        "images": images, "labels": labels, "classes": classes, "ignore_index": ignore_index, "codes": codes,
        "ignore_codes": ignore_codes, "palette": palette, "bits": bits, "val_fraction": val_fraction,
        "split_seed": split_seed,
    }  # fmt: skip
    where, values, files, notes = _open(Path(root), **given)
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

    # the classes and the depth are those of all splits
    everything = [sample for part in files.values() for sample in _paired(part)[0]]
    masks = tuple(sample.mask for sample in everything if sample.mask is not None)
    code, class_list = given_code(options), given_names(options)
    if code is None and masks:
        named = class_list is not None and not str(options.classes).isdigit()
        reading = read_code(where, masks, options.ignored, class_list, named)
        code, problems = reading.code, (*problems, *reading.problems)
        notes += [reading.note] if reading.note else []
    if code is None and class_list is not None:
        code = Code.numbered(len(class_list))
    code = code or Code(())
    class_list = class_list or (class_names(len(code.values)) if code.values else None) or ()
    colours = _palette(options.palette, code, masks)
    depth, note = check_bits(options.bits), ""
    if depth is None:
        depth, note = find_bits([sample.image for sample in everything])
    notes += [note] if note else []

    # everything that was inferred is written out
    inferred = ("classes", "ignore_index", "codes", "ignore_codes", "palette", "bits")
    resolved = {key: value for key, value in values.items() if key not in inferred}
    resolved |= {"bits": depth} if depth else {}
    if class_list:
        resolved |= {
            "classes": list(class_list),
            "codes": [list(v) if isinstance(v, tuple) else v for v in code.values],
        }
        resolved |= {"ignore_codes": [list(v) if isinstance(v, tuple) else v for v in code.ignored], "ignore_index": []}
        resolved["palette"] = [list(colour) for colour in colours]
    return FileDataset(
        where.name,
        split,
        samples,
        code,
        class_list,
        colours,
        source=str(where),
        options=resolved,
        notes=tuple(notes),
        problems=problems,
        bits=depth,
    )


def _palette(palette: Any, code: Code, masks: tuple[Path, ...]) -> tuple[Colour, ...]:
    """Return a colour for each class: ``palette``, else the codes, else the first mask's palette, else made up."""
    count = len(code.values)
    if palette is not None:
        colours = [code_value(colour) for colour in palette]
        if len(colours) != count or not all(isinstance(colour, tuple) for colour in colours):
            raise UsageError(f"data.palette: expected {count} colours [r, g, b], got {len(colours)}")
        return tuple(colour for colour in colours if isinstance(colour, tuple))
    if code.coloured:
        return tuple(value for value in code.values if isinstance(value, tuple))
    stored = palette_of(masks[0]) if masks else ()
    if stored and all(isinstance(v, int) and v < len(stored) for v in code.values):
        return tuple(stored[v] for v in code.values if isinstance(v, int))
    return default_palette(count)
