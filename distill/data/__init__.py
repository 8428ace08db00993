"""Datasets by name or by folder: every file here without a leading underscore is one kind, named as the file."""

import hashlib
import inspect
import json
import pkgutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import DataError, UsageError, closest

if TYPE_CHECKING:
    import numpy as np

#: The label value that counts nowhere: whatever the files say, inside kdc it is this one.
IGNORE = 255
#: images whose size is looked at to find the usual one
SIZED = 500


@dataclass(frozen=True)
class Problem:
    """One fault of one file: its kind, the faulty value, and the cure."""

    file: str
    kind: str
    value: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.kind}: {self.value}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True)
class Examined:
    """One sample as the checker sees it: its label, everything wrong with it, and a hash of its image's pixels."""

    label: "np.ndarray | None"
    problems: list[Problem]
    content: bytes | None


def content_of(image: "np.ndarray | None") -> bytes | None:
    """Return a hash that images of equal pixels share, whatever their files."""
    if image is None:
        return None
    return hashlib.blake2b(image.tobytes(), digest_size=16, key=str(image.shape).encode()).digest()


class Dataset:
    """One split: images and, where ``labelled``, their class maps.

    ``source`` and ``options`` let ``open_data`` open the same data again, with everything inferred written out;
    ``notes`` are the lines that a user should see: inferences, choices, that data is generated.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    labelled: bool = True
    #: values in the label files that count nowhere
    ignored: tuple[Any, ...] = (IGNORE,)
    source: str
    options: dict[str, Any]
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    #: of the values in 16-bit images, where there are any
    bits: int | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__} does not say its length")

    def key(self, i: int) -> str:
        """Return the name of sample ``i``, for messages and pictures."""
        raise TypeError(f"{type(self).__name__} does not name its samples")

    def read(self, i: int) -> "tuple[np.ndarray, np.ndarray | None]":
        """Return the image (uint8 H,W,3 RGB) and the label (uint8 H,W; 255 = ignored; None in an unlabelled split).

        Raises:
            BadSample: a file is missing, broken or does not fit its partner (a ``DataError``).
        """
        raise TypeError(f"{type(self).__name__} does not read")

    def examine(self, i: int) -> Examined:
        """Return sample ``i`` with everything that is wrong with it, where ``read`` stops at the first."""
        try:
            image, label = self.read(i)
        except BadSample as bad:
            return Examined(None, [bad.problem], None)
        return Examined(label, [], content_of(image))

    def why_unlabelled(self) -> list[Problem]:
        """Return the likely reasons why no labels were found; at least one."""
        return [Problem(self.source, "no labels found", f"{self.split} holds images alone")]

    def shape(self, i: int) -> tuple[int, int]:
        """Return height and width of image ``i``."""
        height, width = self.read(i)[0].shape[:2]
        return int(height), int(width)

    def size(self) -> tuple[int, int]:
        """Return the usual size, from the images of the split, or ``SIZED`` of them: height and width by themselves.

        Each is the largest that nine in ten do not exceed and that is at most twice the median: a single huge image
        among a few does not count.
        """
        count = min(len(self), SIZED)
        sides = zip(*(self.shape(i * len(self) // count) for i in range(count)), strict=True)
        height, width = (_usual(sorted(side)) for side in sides)
        return height, width

    def fingerprint(self) -> str:
        """Return a sha256 that is equal for equal data."""
        return self._hash([])

    def _hash(self, what: Any) -> str:
        whole = [self.name, self.split, self.classes, what]
        return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()


def _usual(lengths: list[int]) -> int:
    last = len(lengths) - 1
    return max(n for n in lengths[: round(0.9 * last) + 1] if n <= 2 * lengths[last // 2])


class BadSample(DataError):
    """A sample that cannot be used; ``problem`` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)  # as the only argument, so that it survives the way out of a worker process
        self.problem = problem


def names() -> list[str]:
    """Return the dataset kinds: the files of this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str) -> ModuleType:
    """Import the module of one dataset kind."""
    if name not in names():
        raise UsageError(f"no dataset called {name!r}{closest(name, names())}; accepted: {', '.join(names())}")
    module = import_module(f".{name}", __package__)
    if lacking := [part for part in ("open_split", "splits", "RECIPE") if not hasattr(module, part)]:
        raise UsageError(
            f"distill/data/{name}.py holds no {' and no '.join(lacking)}; CONTRIBUTING.md shows a whole one, and a "
            "helper's file begins with an underscore"
        )
    return module


def _kind(name_or_dir: str, **options: Any) -> tuple[ModuleType, dict[str, Any]]:
    """Return the module that reads ``name_or_dir``, and its options (with ``root`` for a directory)."""
    name = kind = str(name_or_dir)
    if name not in names():
        folder = Path(name).expanduser()
        card = folder.suffix.lower() in (".yaml", ".yml") and folder.is_file()
        if not folder.is_dir() and not card:
            raise DataError(
                f"no dataset or directory called {name!r}{closest(name, names())}; "
                f"accepted: {', '.join(n for n in names() if n != 'folder')}, or a directory of images and masks, "
                "or a YAML card that names one as root"
            )
        options["root"] = str(folder.resolve())
        kind = "camvid" if not card and load("camvid").recognise(folder) else "folder"

    module = load(kind)
    accepted = [p for p in inspect.signature(module.open_split).parameters if p != "split"]
    for option in options:
        if option not in accepted:
            raise UsageError(
                f"data.{option} is not an option of {kind}{closest(option, accepted)}; accepted: {', '.join(accepted)}"
            )
    return module, options


def open_leniently(name_or_dir: str, split: str, **options: Any) -> Dataset:
    """Open a split even when its list of ``problems`` is not empty (for the checker)."""
    module, options = _kind(name_or_dir, **options)
    return module.open_split(split, **options)


def open_data(name_or_dir: str, split: str, **options: Any) -> Dataset:
    """Open one split of a named dataset ("builtin", "camvid") or of a directory.

    Raises:
        DataError: nothing there, no such split, or files that do not pair up.
        UsageError: an option that this kind of data does not have.
    """
    dataset = open_leniently(name_or_dir, split, **options)
    for problem in dataset.problems:
        more = f", and {len(dataset.problems) - 1} more" if len(dataset.problems) > 1 else ""
        raise DataError(f"{problem}{more}; see all with: kdc data check {name_or_dir}")
    return dataset


def splits(name_or_dir: str, **options: Any) -> list[str]:
    """Return the existing splits, of "train", "val" and "test"."""
    module, options = _kind(name_or_dir, **options)
    return module.splits(**options)


def recipe(name_or_dir: str) -> dict[str, Any]:
    """Return the flat configuration defaults that belong to this data, such as ``{"train.crop": (96, 192)}``."""
    return dict(_kind(name_or_dir)[0].RECIPE)
