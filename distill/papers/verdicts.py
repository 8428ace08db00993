"""The verdict on a claim: counted again under the conventions, or compared with a trained run."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .. import models
from ..errors import UsageError
from ..run.folder import Run
from .conventions import Reading, find_backbone, find_reading, other_classes
from .tables import UNITS, Claim

STATUSES = {
    "reproduced": "a convention gives the printed number, with what the row says",
    "mislabelled": "reproduced only as another network, number of classes or input size than the row says",
    "unexplained": "no convention gives the printed number",
    "unchecked": "kdc has no such network",
    "reported": "an mIoU: nothing to check it with",
    "measured": "an mIoU: the mean of the trained runs is within the tolerance",
    "differs": "an mIoU: the mean of the trained runs is beyond the tolerance",
}
#: methods that published recipes add to the one that names them; among themselves the first one names the recipe
COMPANIONS = ("cwd", "kd", "adv")


@dataclass
class Verdict:
    """A claim and its check: ``reading`` gave its number; where none did, ``nearest`` of the row's own came closest."""

    claim: Claim
    status: str
    reading: Reading | None = None
    nearest: Reading | None = None
    tried: int = 0
    #: the other network that the row's parameters and FLOPs are those of
    row_is: str | None = None
    #: all numbers of classes that would do, where another one than the row's is needed
    classes: list[int] = field(default_factory=list)
    #: mean mIoU of the trained runs, in per cent, and their names
    measured: float | None = None
    runs: list[str] = field(default_factory=list)
    #: a table that should agree prints another number, and either may be right
    contradicted: bool = False

    @property
    def failed(self) -> bool:
        """Whether ``--strict`` counts it."""
        return self.status in ("mislabelled", "unexplained", "differs") or self.contradicted

    @property
    def how(self) -> str:
        """The convention in a few words."""
        if self.status == "unexplained":
            return f"none of {self.tried} conventions, nearest {self.nearest}"
        if self.status == "unchecked":
            return STATUSES["unchecked"]
        if not self.reading:
            return ""
        if self.classes:
            *most, last = [str(k) for k in self.classes]
            return f"as {', '.join(most) + ' or ' if most else ''}{last} classes"
        if self.row_is:
            return f"as {self.row_is}"
        return str(self.reading)

    @property
    def counted_classes(self) -> int | None:
        """The number of classes that ``recomputed`` was counted with; None for an mIoU."""
        shown = self.reading or self.nearest
        return None if shown is None else shown.convention.classes

    @property
    def recomputed(self) -> float | None:
        """Parameters, operations or mIoU in per cent; the nearest where none fits."""
        shown = self.reading or self.nearest
        return self.measured if shown is None else shown.value

    @property
    def recomputed_text(self) -> str:
        """``recomputed`` in the claim's unit."""
        return "-" if self.recomputed is None else in_unit(self.claim, self.recomputed)

    @property
    def difference(self) -> float | None:
        """``recomputed`` less the claim's value."""
        return None if self.recomputed is None else self.recomputed - self.claim.value

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        shown = self.reading or self.nearest
        return asdict(self.claim) | {
            "status": self.status,
            "failed": self.failed,
            "contradicted": self.contradicted,
            "recomputed": self.recomputed,
            "recomputed_text": self.recomputed_text,
            "convention": shown.convention.to_dict() if shown else None,
            "how": self.how,
            "rounded_twice": shown is not None and shown.rounded_twice,
            "row_is": self.row_is,
            "changed": shown.change if shown else "",
            "classes_that_fit": self.classes,
            "conventions_tried": self.tried,
            "difference": self.difference,
            "runs": self.runs,
        }


def recount(claims: Sequence[Claim]) -> list[Verdict]:
    """Count again every network whose parameters or FLOPs are claimed; the order stays."""
    known = set(models.names())
    verdicts = [_count(claim) if claim.model in known else _unknown(claim) for claim in claims]
    rows: dict[tuple[str, str, int], list[Verdict]] = {}
    for verdict in verdicts:
        rows.setdefault((verdict.claim.paper, verdict.claim.table, verdict.claim.line), []).append(verdict)
    for row in rows.values():
        statuses = {verdict.status for verdict in row}
        if "unexplained" in statuses and "reproduced" not in statuses:  # nothing in the row is what its label says
            readings = find_backbone([verdict.claim for verdict in row if verdict.claim.metric != "miou"])
            for verdict in row if readings else ():
                verdict.row_is = next(iter(readings.values())).convention.model
                if reading := readings.get(verdict.claim):
                    verdict.status, verdict.reading, verdict.classes = "mislabelled", reading, []
    return verdicts


def compare_runs(verdicts: Sequence[Verdict], runs: Sequence[Run], within: float) -> list[str]:
    """Set the mIoU of runs beside the claims of their student, method, data and split.

    Args:
        verdicts: those of mIoU claims that match become "measured" or "differs".
        runs: finished runs; several of one kind, such as seeds, count as their mean.
        within: tolerance in points of mIoU.

    Returns:
        A sentence for every run that no claim matches.

    Raises:
        UsageError: a run has no final mIoU.
    """
    reported = [verdict for verdict in verdicts if verdict.claim.metric == "miou"]
    scores: dict[int, list[float]] = {}
    unmatched = []

    for run in runs:
        card = run.card
        if card.miou is None:
            raise UsageError(f"{run.path.name} has no final mIoU: it is not finished, or nothing was validated")
        matches = [i for i, verdict in enumerate(reported) if _is_of(run, verdict)]
        for i in matches:
            scores.setdefault(i, []).append(100 * card.miou)
            reported[i].runs.append(run.path.name)
        if not matches:
            kind = f"{card.student.name}, {card.method or 'none'}, {card.data.name}"
            known = ", ".join(sorted({verdict.claim.dataset for verdict in reported}))
            unmatched.append(f"{run.path.name}: nothing is claimed of {kind} {run.config.data.split} (data: {known})")

    for i, values in scores.items():
        verdict = reported[i]
        verdict.measured = sum(values) / len(values)
        verdict.status = "measured" if abs(verdict.measured - verdict.claim.value) <= within else "differs"
    return unmatched


def _is_of(run: Run, verdict: Verdict) -> bool:
    claim, parts = verdict.claim, (run.card.method or "none").split("+")
    own = [part for part in parts if part not in COMPANIONS] or [part for part in COMPANIONS if part in parts][:1]
    same_method = claim.method == "+".join(own) or set(claim.method.split("+")) == set(parts)
    same_student = run.card.student.name == (verdict.row_is or claim.model)
    data = (run.card.data.name.lower(), run.config.data.split)
    return same_method and same_student and data == (claim.dataset, claim.split)


def _unknown(claim: Claim) -> Verdict:
    return Verdict(claim, "reported" if claim.metric == "miou" else "unchecked")


def _count(claim: Claim) -> Verdict:
    if claim.metric == "miou":
        return Verdict(claim, "reported")
    reading, tried = find_reading(claim)
    if reading is None:
        literal = [
            reading for reading in tried if not reading.change
        ]  # the network, classes and size that the row names
        nearest = min(literal, key=lambda r: abs(r.value - claim.value))
        return Verdict(claim, "unexplained", nearest=nearest, tried=len(tried))
    classes = other_classes(claim, reading.convention) if reading.change == "classes" else []
    status = "mislabelled" if reading.change else "reproduced"
    return Verdict(claim, status, reading, tried=len(tried), classes=classes)


def in_unit(claim: Claim, value: float) -> str:
    """Write a count in the claim's unit, with one digit more than the claim has; an mIoU with two."""
    if claim.metric == "miou":
        return f"{value:.2f}"
    if claim.unit == "one":
        return f"{value:,.0f}"
    decimals = len(claim.printed.partition(".")[2].rstrip("KMGT% "))
    return f"{value / UNITS[claim.unit]:.{decimals + 1}f}{claim.unit}"
