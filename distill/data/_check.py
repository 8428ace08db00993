"""Reading a whole dataset and listing everything that is wrong with it."""

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from .. import console
from ..errors import DataError
from . import IGNORE, Dataset, Problem, open_leniently, splits
from ._labels import LabelCounts, label_warnings, some


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
    #: of each labelled split
    labels: dict[str, LabelCounts] = field(default_factory=dict)

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
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "labels"}
        return values | {"problems": [asdict(problem) for problem in self.problems], "ok": self.ok}

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
    contents: dict[str, dict[bytes, str]] = {}
    for dataset in opened:
        report.images[dataset.split] = len(dataset)
        report.notes += [note for note in dataset.notes if note not in report.notes]
        report.problems += [problem for problem in dataset.problems if problem not in report.problems]
        contents[dataset.split] = _examine(dataset, report)
    report.problems += _no_labels(opened)
    report.warnings += [*_in_both(contents), *label_warnings(report.classes, report.labels)]

    # of all labelled splits together
    k = len(report.classes)
    total = sum((counts.pixels for counts in report.labels.values()), np.zeros(256, np.int64))
    report.histogram, report.ignored = total[:k].tolist(), int(total[IGNORE])
    report.present = sum((counts.images for counts in report.labels.values()), np.zeros(256, np.int64))[:k].tolist()
    return report


def _examine(dataset: Dataset, report: CheckReport) -> dict[bytes, str]:
    """Decode a split into the report; return the names of its images by content."""
    counts, blank, contents = LabelCounts(), [], {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding releases the interpreter's lock
        results = pool.map(dataset.examine, range(len(dataset)))
        for i, sample in enumerate(console.progress(results, len(dataset), f"check {dataset.split}")):
            report.problems += sample.problems
            if sample.content is not None:
                contents[sample.content] = dataset.key(i)
            if sample.label is not None and not counts.add(sample.label):
                blank.append(dataset.key(i))
    if counts.pixels.any() and not counts.labelled:
        report.warnings.append(f"no pixel of {dataset.split} is labelled: every pixel is ignored")
    elif blank:
        report.warnings.append(f"{dataset.split}: every pixel is ignored in {some(blank)}")

    if dataset.labelled or counts.pixels.any():
        report.labels[dataset.split] = counts
    else:
        report.notes.append(f"{dataset.split} has no labels: it can be predicted, not trained on or evaluated")
    return contents


def _in_both(contents: dict[str, dict[bytes, str]]) -> list[str]:
    """Warn of images that two splits share, whatever their names."""
    lines = []
    for first, second in itertools.combinations(contents, 2):
        shared = [f"{second} {contents[second][image]} = {first} {contents[first][image]}"
                  for image in contents[second] if image in contents[first]]  # fmt: skip
        if shared:
            lines.append(
                f"{console.plural(len(shared), 'image')} of {second} {'is' if len(shared) == 1 else 'are'} in {first} "
                f"too: {some(shared)}; scores on images that were trained on say nothing"
            )
    return lines


def _no_labels(opened: list[Dataset]) -> list[Problem]:
    """Return why the data cannot be trained on, where the training split or everything lacks labels."""
    unlabelled = {dataset.split: dataset for dataset in opened if not dataset.labelled and not dataset.problems}
    if len(unlabelled) == len(opened) or "train" in unlabelled:
        return unlabelled.get("train", next(iter(unlabelled.values()))).why_unlabelled()
    if "val" in unlabelled:
        return [problem for problem in unlabelled["val"].why_unlabelled() if problem.kind != "no labels found"]
    return []
