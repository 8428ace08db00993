"""``kdc data``: list, describe and check data sets."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ..run.records import Record
from .flags import Classes, Ignore, Sets, print_table

if TYPE_CHECKING:
    from ..data._check import CheckReport

Source = Annotated[str, typer.Argument(metavar="DATA|DIR", help="A data set by name, or a folder of images and masks.")]


@dataclass(frozen=True)
class DataSet(Record):
    """A data set that kdc knows by name."""

    name: str
    summary: str


@dataclass(frozen=True)
class DataSets(Record):
    """The data sets that kdc knows by name."""

    data: list[DataSet]


@dataclass(frozen=True)
class SplitInfo(Record):
    """A split of a data set."""

    images: int
    labelled: bool


@dataclass(frozen=True)
class DataInfo(Record):
    """A data set or folder; ``size`` is the usual height and width of its images."""

    name: str
    classes: list[str]
    num_classes: int
    size: list[int]
    splits: dict[str, SplitInfo]
    notes: list[str]


def data_ls() -> DataSets:
    """List the data sets that kdc knows by name."""
    from ..data import load, names

    sets = [DataSet(name, (load(name).__doc__ or name).splitlines()[0]) for name in names()]
    print_table("data sets", ("name", "what it is"), [(each.name, each.summary) for each in sets])
    return DataSets(sets)


def data_info(source: Source, classes: Classes = None, ignore_index: Ignore = None, sets: Sets = None) -> DataInfo:
    """Show the classes, splits and sizes of a data set or folder."""
    from ..data import open_data, splits
    from ..settings.layers import data_options

    options = data_options(source, classes, ignore_index, sets)
    opened = {split: open_data(source, split, **options) for split in splits(source, **options)}
    first = next(iter(opened.values()))

    rows = [
        ("classes", f"{first.num_classes}: {', '.join(first.classes)}"),
        ("usual size", "x".join(map(str, first.size()))),
    ]
    rows += [(split, f"{len(d)} images{'' if d.labelled else ', no labels'}") for split, d in opened.items()]
    print_table(first.name, ("", ""), rows + [("note", note) for note in first.notes])

    return DataInfo(
        name=first.name,
        classes=list(first.classes),
        num_classes=first.num_classes,
        size=list(first.size()),
        splits={split: SplitInfo(len(d), d.labelled) for split, d in opened.items()},
        notes=list(first.notes),
    )


def data_check(
    source: Source, classes: Classes = None, ignore_index: Ignore = None, sets: Sets = None
) -> "CheckReport":
    """Decode every image and mask, list every problem and count the classes."""
    from ..data._check import check_data
    from ..settings.layers import data_options

    report = check_data(source, **data_options(source, classes, ignore_index, sets))
    report.show()
    return report
