"""What the report reads from a run's files, as records; a key that an older file lacks is the field's default."""

import contextlib
from dataclasses import dataclass, field

from ...distill.run.card import FinalScores, RunCard
from ...distill.run.folder import Run
from ...distill.run.records import Record
from ..artefacts.ledger import GateRow
from ..parity.result import GateResult


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
class Gate:
    """A row of the ledger, whether it is about the file that is there, and what made that stale, if anything."""

    row: GateRow
    fits: bool
    result: GateResult
    stale: str = ""


def read_lines(run: Run | None) -> list[Line]:
    """Return the lines of a run's metrics.jsonl, those that can be read; none without a run."""
    lines = []
    for values in run.records() if run else []:
        with contextlib.suppress(TypeError, ValueError):
            lines.append(Line.from_dict(values))
    return lines


def scores_of(card: RunCard, lines: list[Line]) -> FinalScores:
    """Return the final scores of a run, or those of its last validation; empty ones where it has none."""
    vals = [line.val for line in lines if line.val]
    return card.final or (vals[-1] if vals else FinalScores())
