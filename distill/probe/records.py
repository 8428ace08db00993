"""The plan of a run and the measurements of a probe, as records."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..methods import Description
from ..run.records import Record
from .memory import Memory


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over the batches."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return mean and standard deviation of the values."""
        return cls(statistics.fmean(values), statistics.pstdev(values))


@dataclass(frozen=True)
class DataSummary:
    """The data of a run: images for training and validation, and classes."""

    name: str
    train: int
    val: int
    classes: int


@dataclass(frozen=True)
class Student(Record):
    """The student's network; a probe says its initial weights, too, in words."""

    OPTIONAL: ClassVar = ("start",)

    name: str
    params: int
    start: str | None = None


@dataclass(frozen=True)
class TeacherSource(Record):
    """The teacher's network and where its weights come from; a probe says whether it is trained, or a phase does so."""

    OPTIONAL: ClassVar = ("trained",)

    name: str
    source: str
    trained: bool | None = None


@dataclass(frozen=True)
class RunPlan(Record):
    """The parts, the length and the memory of a run."""

    data: DataSummary
    student: Student
    teacher: TeacherSource | None
    method: Description
    notes: list[str]
    iters: int
    #: of a micro-batch
    images_per_device: int
    device: str
    memory_mib: Memory


@dataclass(frozen=True)
class ClassScores:
    """One class: its share of the pixels, and the IoU of teacher and student."""

    name: str
    share: float
    teacher: float
    student: float


@dataclass(frozen=True)
class Knowledge:
    """Teacher and student on the same validation images: mIoU over the classes that are present."""

    split: str
    images: int
    #: mIoU of the best constant answer
    chance: float
    teacher: float
    student: float
    classes: list[ClassScores]
    #: classes that none of the images holds
    absent: list[str]
    #: classes in which the teacher is no better than the student
    not_taught: list[str]


@dataclass(frozen=True)
class TapShape:
    """Sizes (C, H, W) of a tap of both networks, and whether the student's is resized to the teacher's."""

    tap: str
    student: list[int]
    teacher: list[int]
    resized: bool


@dataclass(frozen=True)
class PhaseState:
    """A phase of the method, and whether its result exists already."""

    name: str
    iters: int
    ready: bool


@dataclass(frozen=True)
class Task:
    """The task loss, and the norm of its gradient over all parameters of the student."""

    value: Spread
    gradient: Spread


@dataclass(frozen=True)
class Term:
    """One term at the student's start; means over the batches, ``*_spread`` their standard deviations."""

    term: str
    value: float
    value_spread: float
    #: at the first step
    weight: float
    schedule: str
    #: False where the weight follows a schedule, of which only the beginning was seen
    constant: bool
    weighted: float
    #: of the gradient, over all parameters of the student
    norm: float
    #: ``norm`` over that of the task's gradient, both over the parameters that the term reaches
    ratio: float
    #: ``ratio`` of the weighted term
    share: float
    share_spread: float
    #: between the two gradients; None where one of them is 0
    cosine: float | None
    cosine_spread: float | None
    #: the part that is still to be trained and on which the term depends
    untrained: str | None


@dataclass(frozen=True)
class Advice:
    """A weight to start from; ``suggested`` is None where the gradients suggest none."""

    term: str
    weight: float
    #: of the weighted term's gradient in the task's
    share: float
    suggested: float | None
    why: str
    #: the setting to type, where the suggestion differs from the present weight
    setting: str | None


@dataclass(frozen=True)
class Forecast:
    """Seconds of a step and of its parts, hours of the run, and memory of a device in MiB."""

    device: str
    precision: str
    seconds: dict[str, float]
    workers: int
    step: float
    iters: int
    hours: float
    memory_mib: Memory
    #: measured on a GPU, the optimiser's state added
    peak_mib: float | None


@dataclass(frozen=True)
class BatchSummary:
    """The batches that were measured: how many, the images of each, and their crop."""

    count: int
    images: int
    crop: list[int]


@dataclass(frozen=True)
class Probe(Record):
    """Everything that a probe measured."""

    student: Student
    teacher: TeacherSource
    #: None where it was not measured, for the reason in ``skipped``
    knowledge: Knowledge | None
    skipped: str | None
    shapes: list[TapShape]
    method: Description
    notes: list[str]
    phases: list[PhaseState]
    critics: list[str]
    #: by method and quantity, as ``Composite.magnitudes`` gives them
    magnitudes: dict[str, dict[str, Spread]]
    task: Task
    terms: list[Term]
    forecast: Forecast
    batches: BatchSummary
    advice: list[Advice]
    #: the advice as settings of the command line
    settings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = super().to_dict()
        values["knowledge"] = {"skipped": values.pop("skipped")} | (values["knowledge"] or {})
        return values
