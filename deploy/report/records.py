"""What the report reads from a run's files, as records; a key that an older file lacks is the field's default."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...distill.run.card import FinalScores, RunCard
from ...distill.run.folder import Run
from ...distill.run.records import Record


@dataclass(frozen=True)
class Line(Record):
    """A line of metrics.jsonl: a step of the training, or a validation after it."""

    step: int
    stage: str = "main"
    loss: float | None = None
    task: dict[str, float] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    #: by method
    features: dict[str, dict[str, float]] = field(default_factory=dict)
    #: of the validation
    val: FinalScores | None = None


@dataclass(frozen=True)
class Latency(Record):
    """The newest record of ``kdc bench latency`` of one mode, device, size and batch."""

    file: str
    backends: list[Any]
    mode: str = "net"
    device: str = "cpu"
    size: list[int] = field(default_factory=list)
    batch: int = 1
    threads: int | None = None
    passport: Any = None
    flags: list[str] = field(default_factory=list)
    not_measured: list[Any] = field(default_factory=list)

    @property
    def slowest(self) -> float:
        """The largest median in milliseconds; 1 where there is none."""
        return max(row.get("p50") or 0.0 for row in self.backends) or 1.0


@dataclass(frozen=True)
class Measurement(Record):
    """The newest record of ``kdc bench throughput`` or ``memory``."""

    rows: list[Any]
    device: str = "cpu"
    size: list[int] = field(default_factory=list)
    threads: int | None = None
    unit: str = ""
    flags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Tradeoff(Record):
    """What ``kdc bench tradeoff`` wrote; ``svg`` is its chart as a data URI."""

    rows: list[Any]
    svg: str | None = None
    images: int | None = None
    data: str = ""
    split: str = ""
    size: list[int] = field(default_factory=list)
    batch: int = 1
    device: str = "cpu"
    threads: int | None = None
    flags: list[str] = field(default_factory=list)
    not_measured: list[Any] = field(default_factory=list)


def read_json(path: Path) -> Any:
    """Return what a file holds; None where it is missing or broken."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def read_lines(run: Run | None) -> list[Line]:
    """Return the lines of a run's metrics.jsonl; none without a run."""
    return [Line.from_dict(values) for values in run.records()] if run else []


def scores_of(card: RunCard, lines: list[Line]) -> FinalScores:
    """Return the final scores of a run, or those of its last validation; empty ones where it has none."""
    vals = [line.val for line in lines if line.val]
    return card.final or (vals[-1] if vals else FinalScores())


def newest(run: Run, kind: str) -> list[tuple[Path, Any]]:
    """Return the records of one kind of measurement in the run's ``bench/``, the oldest first."""
    paths = sorted(run.bench.glob(f"{kind}-*.json"), key=lambda path: path.stat().st_mtime_ns)
    return [(path, values) for path in paths if isinstance(values := read_json(path), dict)]
