"""What the report's page shows: ``report.html.jinja`` sees the fields of ``Page`` by their names."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ...distill.run.card import DataCard, FinalScores, RunCard, TeacherCard
from ..bench.tradeoff import TradeoffRecord
from .charts import Chart
from .deployment import Deployment
from .latencies import Bench
from .records import Gate
from .shipped import Shipped
from .strips import Strip


@dataclass(frozen=True)
class Row:
    """One score of every role, and its change from "before" to "after"."""

    name: str
    scores: dict[str, float | None]

    @classmethod
    def of(cls, name: str, roles: dict[str, FinalScores], score: Callable[[FinalScores], float | None]) -> "Row":
        """Take one score of each role."""
        return cls(name, {role: score(scores) for role, scores in roles.items()})

    @property
    def change(self) -> float | None:
        """What "after" has more than "before"; None where one of them is missing."""
        before, after = self.scores.get("before"), self.scores["after"]
        return None if before is None or after is None else after - before


@dataclass(frozen=True)
class ClassRow:
    """The IoU of one class, its share of the labelled pixels, and its colour."""

    iou: Row
    share: float | None
    colour: str


@dataclass(frozen=True)
class Gain:
    """What distillation brought over the baseline, and its share of the way to the teacher."""

    points: float | None = None
    closed: float | None = None


@dataclass(frozen=True)
class Best:
    """The best validation while training, and on how many images it was."""

    step: int
    miou: float
    images: int | None


@dataclass(frozen=True)
class Cost:
    """Parameters, with and without the auxiliary head, and multiply-adds of a network."""

    role: str
    name: str
    params: int
    deployed: int
    macs: int | None


@dataclass(frozen=True)
class History:
    """The commands that made a run."""

    run: str
    command: str
    created: str


@dataclass(frozen=True)
class Page:
    """Everything the page shows; None is "not measured"."""

    title: str
    card: RunCard
    data: DataCard
    builtin: bool
    teacher: TeacherCard
    distilled: bool
    tuned: bool
    settings: list[tuple[str, Any]]
    #: what the page calls each role, in the order of every table, chart and strip
    names: dict[str, str]
    scores: dict[str, FinalScores]
    metrics: list[Row]
    classes: list[ClassRow]
    #: whether the baseline has the same student and settings
    equal: bool
    baseline: str | None
    #: what the page calls the runs of its roles, by the name of their folder
    folders: dict[str, str]
    best: Best | None
    charts: list[Chart]
    strips: list[Strip]
    #: folder of each further run, by what the page calls it
    further: dict[str, str]
    tap: str | None
    maps: list[Strip]
    heat: Markup
    why_no_strips: str
    error_colours: dict[str, str]
    gates: list[Gate]
    benches: list[Bench]
    shipped: list[Shipped]
    tradeoff: TradeoffRecord | None
    #: as a data URI
    tradeoff_chart: str | None
    costs: list[Cost]
    deployment: Deployment
    #: median images per second, and peak memory in MiB, of the training
    rate: float | None
    memory: float | None
    #: lines of the device passport
    device: list[tuple[str, str]]
    notes: list[str]
    commands: list[History]

    def roles(self, rows: Iterable[Row]) -> list[str]:
        """Return the roles that any of the rows has a score of, so that no column is empty; "after" always has one."""
        known = {role for row in rows for role, score in row.scores.items() if score is not None}
        return [role for role in self.names if role == "after" or role in known]

    def short(self, name: str, network: str = "") -> str:
        """Name a row of a measurement by its role: ``distilled, model.int8.onnx`` for the file of this run."""
        row, _, spec = name.partition(" of ")
        role = self.folders.get(network or spec)
        return f"{role}, {row}" if role else name

    @property
    def measured(self) -> bool:
        """Whether the run was validated at all."""
        return self.scores["after"].miou is not None

    @property
    def gain(self) -> Gain:
        """See ``Gain``."""
        teacher, before, after = (
            self.scores[role].miou if role in self.scores else None for role in ("teacher", "before", "after")
        )
        if after is None or before is None:
            return Gain()
        return Gain(
            after - before, (after - before) / (teacher - before) if teacher is not None and teacher > before else None
        )
