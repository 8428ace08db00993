"""run.json as typed records: ``RunCard.from_dict`` reads it, ``Run.create`` and ``Run.record`` write it.

A key that a file lacks, because it is old or unfinished, has its default; unknown keys stay in the file.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..network_spec import UNKNOWN, NetworkSpec


@dataclass(frozen=True)
class DataCard:
    """The data that a run was trained on."""

    name: str = ""
    source: str = ""
    #: of the reader, as ``open_data`` takes them
    options: dict[str, Any] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    palette: list[list[int]] = field(default_factory=list)
    num_classes: int = 0
    #: height and width of the first validation image
    size: tuple[int, int] | None = None
    train_images: int = 0
    val_images: int = 0
    fingerprint: str | None = None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DataCard":
        """Undo ``to_dict``."""
        fields = _fields(cls, values)
        if "size" in fields:
            height, width = fields["size"]
            fields["size"] = (height, width)
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class TeacherCheck:
    """How a teacher did on a few validation images before it taught."""

    miou: float
    #: mIoU of the best constant answer
    chance: float
    images: int


@dataclass(frozen=True)
class TeacherCard:
    """Where the teacher of a run came from."""

    name: str = ""
    source: str = ""
    spec: NetworkSpec = UNKNOWN
    file: str | None = None
    sha256: str | None = None
    #: the run that trained it
    run: str | None = None
    #: whether it came trained; if not, a phase of the run trains it, from the weights ``start``
    trained: bool = True
    start: str | None = None
    check: TeacherCheck | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TeacherCard":
        """Undo ``to_dict``."""
        fields = _fields(cls, values)
        fields |= {"spec": NetworkSpec.from_dict(fields["spec"])} if "spec" in fields else {}
        fields |= {"check": TeacherCheck(**fields["check"])} if "check" in fields else {}
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "name": self.name,
            "spec": self.spec.to_dict(),
            **({} if self.trained else {"start": self.start, "trained": False}),
            "file": self.file,
            "sha256": self.sha256,
            "run": self.run,
            "source": self.source,
            **({"check": asdict(self.check)} if self.check else {}),
        }


@dataclass(frozen=True)
class FinalScores:
    """The scores of a run's best weights on the whole validation split, as ``Scores.to_dict`` gives them."""

    miou: float | None = None
    miou_present: float | None = None
    boundary_miou: float | None = None
    boundary_radius: int | None = None
    pixel_accuracy: float | None = None
    iou: list[float] = field(default_factory=list)
    label_pixels: list[int] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    images: int | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FinalScores":
        """Read what ``Scores.to_dict`` gave."""
        return cls(**_fields(cls, values))


@dataclass(frozen=True)
class RunCard:
    """The values of run.json, in the order of the file."""

    status: str | None = None
    name: str | None = None
    created: str = ""
    command: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    git: str | None = None
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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunCard":
        """Read the values of a run.json."""
        fields = _fields(cls, values)
        parts = {
            "teacher": TeacherCard.from_dict,
            "student": NetworkSpec.from_dict,
            "data": DataCard.from_dict,
            "final": FinalScores.from_dict,
        }
        return cls(**fields | {key: read(fields[key]) for key, read in parts.items() if key in fields})

    @property
    def miou(self) -> float | None:
        """The validation mIoU that the run ended with."""
        return self.final.miou if self.final else None


@dataclass(frozen=True)
class CheckpointCard:
    """The facts about the weights in the header of a kdc safetensors file."""

    model: NetworkSpec
    data: DataCard

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CheckpointCard":
        """Read what ``save_student`` wrote."""
        return cls(NetworkSpec.from_dict(values.get("model") or {}), DataCard.from_dict(values.get("data") or {}))


def _fields(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of ``values`` that are fields of a record and not null."""
    return {key: values[key] for key in cls.__dataclass_fields__ if values.get(key) is not None}
