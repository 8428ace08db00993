"""The papers' tables as data: one YAML file a paper in this folder, read by a strict schema into single claims."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from .. import models
from ..errors import UsageError, closest
from ..settings.config import Size
from ..settings.yaml_files import read_yaml

FOLDER = Path(__file__).parent
Metric = Literal["params", "flops", "miou"]
#: the factor of a letter behind a number, or at the head of its column
UNITS = {"one": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
#: of the columns, where neither the number nor the table gives one
DEFAULT_UNITS: dict[Metric, str] = {"params": "M", "flops": "G", "miou": "one"}
_NUMBER = re.compile(r"([\d,]*\d(?:\.\d+)?)(?:\s*~\s*([\d,]*\d(?:\.\d+)?))?\s*([KMGT%])?(?:\s*±\s*[\d.]+)?")


def _printed(value: object) -> object:
    if isinstance(value, int | float):
        raise ValueError(f"{value} must be quoted, as printed: YAML drops its last zeros, which tell the tolerance")
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise ValueError(
            f"{value!r} is no number; such as '61.1M', '384.84', '61,118,950', '70.03 ± 0.13', '74.6~75.0'"
        )
    return value


def _model(value: object) -> object:
    """Return kdc's name of a network; one of an architecture that kdc lacks keeps its name."""
    if not isinstance(value, str):
        return value
    try:
        return models.expand(value)
    except UsageError as error:
        if value.lower().rpartition("-")[0] in ("", *models.architectures()):
            raise ValueError(str(error)) from error
        return value


Printed = Annotated[str, BeforeValidator(_printed)]
Count = Annotated[int, Field(ge=1, le=255)]


class Part(BaseModel):
    """A part of a file; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid")


class Row(Part):
    """One line of a table: the label as printed, the network that it names, and its numbers as printed."""

    row: str
    model: Annotated[str, BeforeValidator(_model)]
    #: the method that trained it, by kdc's name; "none" is plain training, of a teacher too
    method: str = "none"
    params: Printed | None = None
    flops: Printed | None = None
    #: of ``method``, or of several methods by name
    miou: Printed | dict[str, Printed] | None = None
    classes: Count | None = None
    size: Size | None = None
    recipe: str | None = None
    #: by metric, in the unit of the printed number; by default half a unit of its last digit
    tolerance: dict[Metric, Annotated[float, Field(ge=0)]] = {}


class Table(Part):
    """A table: its rows, and what they share."""

    table: str
    dataset: str
    split: str = "val"
    classes: Count | None = None
    #: the input that the table says its FLOPs are for
    size: Size | None = None
    #: the training crop: the first guess where the table says nothing
    crop: Size | None = None
    units: dict[Metric, Literal["one", "K", "M", "G", "T"]] = {}
    recipe: str | None = None
    source: str | None = None
    rows: Annotated[list[Row], Field(min_length=1)]

    @model_validator(mode="after")
    def _countable(self) -> "Table":
        for row in self.rows:
            if (row.params or row.flops) and not (row.classes or self.classes):
                raise ValueError(f"row {row.row!r} has params or flops, so its table must say classes")
            if row.flops and not (row.size or self.size or self.crop):
                raise ValueError(f"row {row.row!r} has flops, so its table must say size (if printed) or crop")
        return self


class Paper(Part):
    """A file: its tables, where they were read, and the training protocol that its mIoU belong to."""

    paper: str
    title: str
    source: str
    recipe: str
    tables: Annotated[list[Table], Field(min_length=1)]

    def claims(self) -> Iterator["Claim"]:
        """Give every number of the paper, in the order of its tables."""
        for table in self.tables:
            for line, row in enumerate(table.rows, 1):
                scores = row.miou if isinstance(row.miou, dict) else {row.method: row.miou}
                numbers: list[tuple[Metric, str, str | None]] = [
                    ("params", row.method, row.params),
                    ("flops", row.method, row.flops),
                    *(("miou", method, printed) for method, printed in scores.items()),
                ]
                for metric, method, printed in numbers:
                    if printed is not None:
                        yield self._claim(table, line, row, metric, method, printed)

    def _claim(self, table: Table, line: int, row: Row, metric: Metric, method: str, printed: str) -> "Claim":
        unit = table.units.get(metric, DEFAULT_UNITS[metric])
        value, tolerance, unit = parse(printed, unit)
        if metric in row.tolerance:
            tolerance = row.tolerance[metric] * UNITS[unit]

        return Claim(
            paper=self.paper,
            table=table.table,
            line=line,
            row=row.row,
            source=table.source or self.source,
            recipe=row.recipe or table.recipe or self.recipe,
            model=row.model,
            method=method,
            dataset=table.dataset,
            split=table.split,
            classes=row.classes or table.classes,
            size=row.size or table.size,
            crop=table.crop,
            metric=metric,
            printed=printed,
            unit=unit,
            value=value,
            tolerance=tolerance,
        )


@dataclass(frozen=True)
class Claim:
    """One printed number: ``value`` and ``tolerance`` in single parameters, single operations or per cent."""

    paper: str
    table: str
    line: int
    row: str
    source: str
    recipe: str
    model: str
    method: str
    dataset: str
    split: str
    classes: int | None
    size: tuple[int, int] | None
    crop: tuple[int, int] | None
    metric: Metric
    printed: str
    unit: str
    value: float
    tolerance: float


def parse(printed: str, unit: str) -> tuple[float, float, str]:
    """Return the value of a printed number, half a unit of its last digit, and the unit that it was printed in.

    A range, ``74.6~75.0``, is its middle, within half its width and half a digit.
    """
    match = _NUMBER.fullmatch(printed)
    assert match
    first, last, letter = match.groups()
    unit = letter if letter in UNITS else unit
    ends = [float(end.replace(",", "")) for end in (first, last or first)]
    digit = 10.0 ** -len(first.partition(".")[2]) / 2
    scale = UNITS[unit]
    return sum(ends) / 2 * scale, ((ends[1] - ends[0]) / 2 + digit) * scale, unit


def names() -> list[str]:
    """Return the names of the papers that kdc brings: the YAML files of this folder."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_paper(name: str) -> Paper:
    """Read a paper by name, or any file of that form.

    Raises:
        UsageError: no such paper, or a file that the schema refuses; the message says where and why.
    """
    own = Path(name).suffix in (".yaml", ".yml")
    if not own and name not in names():
        accepted = [*names(), "all"]
        raise UsageError(f"no paper '{name}'{closest(name, accepted)}; there are: {', '.join(accepted)}, or FILE.yaml")
    file = Path(name) if own else FOLDER / f"{name}.yaml"
    try:
        return Paper.model_validate(read_yaml(file))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{file}: {place}: {first['msg'].removeprefix('Value error, ')}") from error
