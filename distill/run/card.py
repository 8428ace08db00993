"""run.json as typed records: ``RunCard.from_dict`` reads it, ``Run.create`` and ``Run.record`` write it.

A key that a file lacks, because it is old or unfinished, has its default; unknown keys stay in the file.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..network_spec import UNKNOWN, NetworkSpec
from ..preprocess import PAD, Policy
from .records import Record


@dataclass(frozen=True)
class DataCard(Record):
    """The data that a run was trained on."""

    name: str = ""
    source: str = ""
    #: of the reader, as ``open_data`` takes them
    options: dict[str, Any] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    palette: list[list[int]] = field(default_factory=list)
    num_classes: int = 0
    #: usual height and width of the validation images, see ``Dataset.size`` (older runs: of the first)
    size: tuple[int, int] | None = None
    train_images: int = 0
    val_images: int = 0
    fingerprint: str | None = None
    notes: list[str] = field(default_factory=list)
    #: how images of other sizes meet a file that is made for one
    fit: Policy = PAD


@dataclass(frozen=True)
class TeacherCheck(Record):
    """How a teacher did on a few validation images before it taught."""

    miou: float
    #: mIoU of the best constant answer
    chance: float
    images: int


@dataclass(frozen=True)
class TeacherCard(Record):
    """Where the teacher of a run came from."""

    OPTIONAL: ClassVar = ("check",)

    name: str = ""
    spec: NetworkSpec = UNKNOWN
    #: the weights that a phase of the run trains it from, where it did not come ``trained``
    start: str | None = None
    trained: bool = True
    file: str | None = None
    sha256: str | None = None
    #: the run that trained it
    run: str | None = None
    source: str = ""
    check: TeacherCheck | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        unsaid = ("start", "trained") if self.trained else ()
        return {key: value for key, value in super().to_dict().items() if key not in unsaid}


@dataclass(frozen=True)
class FinalScores(Record):
    """The scores of a run's best weights on the whole validation split, as ``Scores.to_dict`` gives them."""

    miou: float | None = None
    miou_present: float | None = None
    boundary_miou: float | None = None
    boundary_radius: int | None = None
    pixel_accuracy: float | None = None
    iou: list[float] = field(default_factory=list)
    label_pixels: list[int] = field(default_factory=list)
    ignored_pixels: int | None = None
    classes: list[str] = field(default_factory=list)
    images: int | None = None


@dataclass(frozen=True)
class RunCard(Record):
    """The values of run.json, in the order of the file."""

    status: str | None = None
    name: str | None = None
    created: str = ""
    command: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    git: str | None = None
    #: every setting, nested; config.yaml shows the same to people, and may be edited
    config: dict[str, Any] = field(default_factory=dict)
    kind: str | None = None
    method: str | None = None
    terms: dict[str, str] = field(default_factory=dict)
    teacher: TeacherCard | None = None
    student: NetworkSpec = UNKNOWN
    #: whether the network is shown the label
    privileged: bool = False
    data: DataCard = field(default_factory=DataCard)
    seed: int | None = None
    config_iters: int = 0
    threads: int | None = None
    device: str | None = None
    world: int = 1
    parents: list[str] = field(default_factory=list)
    #: the run that a quantisation-aware training goes on from
    tuned_from: str | None = None
    notes: list[str] = field(default_factory=list)
    final: FinalScores | None = None
    error: str | None = None
    baseline: str | None = None
    #: sha256 by path in the folder
    files: dict[str, str] = field(default_factory=dict)
    #: what else was done with the run
    commands: list[list[str]] = field(default_factory=list)

    @property
    def miou(self) -> float | None:
        """The validation mIoU that the run ended with."""
        return self.final.miou if self.final else None


@dataclass(frozen=True)
class CheckpointCard(Record):
    """The facts about the weights in the header of a kdc safetensors file."""

    model: NetworkSpec = UNKNOWN
    data: DataCard = field(default_factory=DataCard)
