"""Reading a whole dataset and listing everything that is wrong with it."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .. import console
from ..errors import DataError
from . import IGNORE, Problem, open_leniently, splits


@dataclass
class CheckReport:
    """The content of the files of all splits; training refuses data with ``problems``."""

    name: str
    source: str
    classes: tuple[str, ...]
    images: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: pixels of each class over all labelled splits
    histogram: list[int] = field(default_factory=list)
    ignored: int = 0
    #: images that hold each class
    present: list[int] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether training may use it."""
        return not self.problems

    @property
    def exit_code(self) -> int:
        """The exit code of ``kdc data check``."""
        return 0 if self.ok else DataError.exit_code

    @property
    def error(self) -> str:
        """The problems, in a line."""
        return f"{console.plural(len(self.problems), 'problem')} in {self.source}; the first: {self.problems[0]}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self) | {"ok": self.ok}

    def show(self) -> None:
        """Print notes, histogram, warnings and problems for people."""
        counts = ", ".join(f"{number} {split}" for split, number in self.images.items())
        console.say(f"{self.name}: {counts} images, {len(self.classes)} classes")
        for note in self.notes:
            console.say(note)
        total = max(1, sum(self.histogram) + self.ignored)
        rows = [
            (i, name, f"{pixels:,}", f"{100 * pixels / total:.2f} %", str(seen))
            for i, (name, pixels, seen) in enumerate(zip(self.classes, self.histogram, self.present, strict=True))
        ]
        rows.append((IGNORE, "(ignored)", f"{self.ignored:,}", f"{100 * self.ignored / total:.2f} %", ""))
        console.table("class histogram", ("id", "class", "pixels", "share", "images"), rows)
        for warning in self.warnings:
            console.warn(warning)
        for problem in self.problems:
            console.warn(str(problem))
        console.say(f"{len(self.problems)} problems, {len(self.warnings)} warnings")


def check_data(name_or_dir: str, **options: Any) -> CheckReport:
    """Decode every image and mask of every split; list each problem with its file and value, and count the classes.

    Raises:
        DataError: there is nothing to check: no such directory, no images, classes that cannot be inferred.
    """
    opened = [open_leniently(name_or_dir, split, **options) for split in splits(name_or_dir, **options)]
    first = opened[0]
    report = CheckReport(first.name, first.source, first.classes)
    counted = {}
    for dataset in opened:
        pixels, present = np.zeros(256, np.int64), np.zeros(256, np.int64)
        report.images[dataset.split] = len(dataset)
        report.notes += [note for note in dataset.notes if note not in report.notes]
        report.problems += [problem for problem in dataset.problems if problem not in report.problems]

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding releases the interpreter's lock
            results = pool.map(dataset.examine, range(len(dataset)))
            for i, (label, problems) in enumerate(console.progress(results, len(dataset), f"check {dataset.split}")):
                report.problems += problems
                if label is None:
                    continue
                counts = np.bincount(label.ravel(), minlength=256)
                pixels += counts
                present += counts > 0
                if counts[IGNORE] == label.size:
                    report.warnings.append(f"{dataset.split} {dataset.key(i)}: every pixel is ignored")

        if dataset.problems or dataset.labelled:
            counted[dataset.split] = (pixels, present)
        else:
            report.notes.append(f"{dataset.split} has no labels: it can be predicted, not trained on or evaluated")

    # of all labelled splits together
    k = len(report.classes)
    pixels = sum((p for p, _ in counted.values()), np.zeros(256, np.int64))
    report.histogram, report.ignored = pixels[:k].tolist(), int(pixels[IGNORE])
    report.present = sum((p for _, p in counted.values()), np.zeros(256, np.int64))[:k].tolist()

    for number, name in enumerate(report.classes if counted else ()):
        missing = [split for split, (p, _) in counted.items() if p[number] == 0]
        if len(missing) == len(counted):
            report.warnings.append(f"class {number} ({name}) is never seen")
        elif "train" in missing:
            report.warnings.append(f"class {number} ({name}) is never seen in train")
    return report
