"""The options of a folder of images and masks: their values, and the YAML card that holds them."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from ..errors import DataError, UsageError, closest
from ..yaml_text import load_yaml
from . import IGNORE
from ._codes import Code, Colour

#: masks are bytes, and two of their values are taken
MOST_CLASSES = 253
_CARDS = ("kdc.yaml", "kdc.yml", "dataset.yaml", "dataset.yml")


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
    bits: int | None = None
    val_fraction: float | None = None
    split_seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse values of another type (UsageError); what they say is looked at where it is used."""
        texts, lists = "text", "a list"
        for name, kinds, expected in (
            ("images", (str,), texts),
            ("labels", (str,), texts),
            ("codes", (list, tuple, dict), "a list, or a mapping from class to code"),
            ("ignore_codes", (list, tuple), lists),
            ("palette", (list, tuple), lists),
            ("val_fraction", (int, float), "a share between 0 and 1"),
            ("split_seed", (int,), "a whole number from 0"),
        ):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
                raise UsageError(f"data.{name} = {value!r}: expected {expected}")
        if self.split_seed is not None and self.split_seed < 0:
            raise UsageError(f"data.split_seed = {self.split_seed}: expected a whole number from 0")

    @property
    def ignored(self) -> tuple[int, ...] | None:
        """The ids that are ignored in numbered masks, where they were said; -1, which no file holds, means none.

        Raises:
            UsageError: an id that no mask can hold.
        """
        if self.ignore_index is None:
            return None
        ids = self.ignore_index if isinstance(self.ignore_index, list | tuple) else [self.ignore_index]
        if not all(isinstance(value, int) and -1 <= value <= 65535 for value in ids):
            raise UsageError(
                f"data.ignore_index = {self.ignore_index!r}: expected values of masks, 0 to 65535, or -1 for none"
            )
        return tuple(value for value in ids if value >= 0)


def find_card(where: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """Return the folder of the data, the options of its card, and a note of each card that was read.

    Args:
        where: the folder, with its card in it or none; or a card, which lies anywhere and may name the folder as
            ``root``. It is laid over the one in the folder.

    Raises:
        DataError: no folder, or a card that cannot be used.
    """
    if where.is_dir():
        inside = next((where / name for name in _CARDS if (where / name).is_file()), None)
        return (where, _read(inside), [f"settings read from {inside}"]) if inside else (where, {}, [])

    card = _read(where)
    root = (where.parent / str(card.pop("root", "."))).expanduser().resolve()
    if not root.is_dir():
        raise DataError(f"{where}: root: {root} is no folder; name the folder of the images and labels")
    _, within, notes = find_card(root)
    if notes == [f"settings read from {where.resolve()}"]:
        notes = []
    return root, within | card, [*notes, f"settings read from {where}"]


def _read(path: Path) -> dict[str, Any]:
    accepted = [field.name for field in fields(Options)]
    try:
        card = load_yaml(path) or {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(card, dict):
        raise DataError(f"{path}: expected keys and values; accepted keys: {', '.join(accepted)}")
    for key in card:
        if key not in (*accepted, "root"):
            near = closest(str(key), accepted)
            raise DataError(f"{path}: unknown key {key!r}{near}; accepted: {', '.join(accepted)}, root")
    return card


def class_names(classes: Any) -> tuple[str, ...] | None:
    """Turn names, a comma-separated line of names, a number, or {id: name} into class names.

    Raises:
        UsageError: it is none of these, two names are alike, or they are not 1 to ``MOST_CLASSES``.
    """
    if classes is None:
        return None
    if isinstance(classes, str) and not classes.isdecimal():
        classes = [name.strip() for name in classes.split(",")]
    if isinstance(classes, dict):
        if set(classes) != set(range(len(classes))):
            raise UsageError(f"data.classes: expected ids 0 to {len(classes) - 1}, got {list(classes)[:10]}")
        classes = [classes[i] for i in range(len(classes))]

    if isinstance(classes, list | tuple):
        if strange := [name for name in classes if not isinstance(name, str | int | float)]:
            raise UsageError(f"data.classes: {strange[0]!r} is no name")
        names = tuple(map(str, classes))
        if not 1 <= len(names) <= MOST_CLASSES or len(set(names)) < len(names):
            raise UsageError(
                f"data.classes: expected 1 to {MOST_CLASSES} different names, got {len(names)}, {len(set(names))} of "
                "them different"
            )
        return names
    whole = isinstance(classes, int | str) and not isinstance(classes, bool) and len(str(classes)) < 10
    if not whole or not 1 <= int(classes) <= MOST_CLASSES:
        raise UsageError(f"data.classes = {classes!r}: expected names, or how many there are, 1 to {MOST_CLASSES}")
    return tuple(f"class{i}" for i in range(int(classes)))


def code_value(code: Any) -> int | Colour:
    whole = code if isinstance(code, list | tuple) else [code]
    most = 65535 if len(whole) == 1 else 255
    plain = all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= most for v in whole)
    if len(whole) not in (1, 3) or not plain:
        raise UsageError(f"data.codes: {code!r} is neither a grey value nor a colour [r, g, b]")
    return int(whole[0]) if len(whole) == 1 else (int(whole[0]), int(whole[1]), int(whole[2]))


def given_code(options: Options) -> Code | None:
    """Return the code that the options give; None where they leave it to the masks.

    Raises:
        UsageError: codes that fit neither each other nor the classes.
    """
    codes = options.codes
    if codes is None:
        return None

    names = given_names(options)
    values = [code_value(code) for code in (codes.values() if isinstance(codes, dict) else codes)]
    extra = [code_value(code) for code in options.ignore_codes or []]
    if len({isinstance(value, tuple) for value in [*values, *extra]}) > 1:
        raise UsageError("data.codes mixes grey values and colours; expected one kind")
    if names is not None and len(values) != len(names):
        raise UsageError(f"data.codes holds {len(values)} values for {len(names)} classes; expected one for each")
    if not values:
        raise UsageError("data.codes is empty; expected a grey value or a colour [r, g, b] for each class")
    if len(set(values)) < len(values):
        raise UsageError("data.codes gives one value to several classes; expected a different one for each")

    ignored = options.ignored
    if not isinstance(values[0], int):
        if ignored:
            raise UsageError("data.ignore_index is for numbered masks; RGB-coded ones take ignore_codes")
    else:
        extra += [value for value in ((IGNORE,) if ignored is None else ignored) if value not in values]
    if both := [value for value in values if value in extra]:
        raise UsageError(f"data.ignore_codes holds {both[0]}, the code of a class; a value is ignored or a class")
    return Code(tuple(values), tuple(extra))  # pyright: ignore[reportArgumentType]


def given_names(options: Options) -> tuple[str, ...] | None:
    """Return the class names that the options give: those of ``classes``, else of ``codes``, else None."""
    if options.classes is None and isinstance(options.codes, dict):
        return class_names(list(options.codes))
    if options.classes is None and options.codes is not None:
        return class_names(len(options.codes))
    return class_names(options.classes)
