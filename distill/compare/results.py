"""The results of a comparison: by method the mean, its spread, and the paired difference to the student alone."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..run.folder import Run
from ..run.records import Record
from .folder import Comparison
from .paired import holm, paired
from .plan import BASELINE, Entry, label_of, shared

READING = (
    "mIoU: the checkpoint that was best on the validation split, evaluated on that whole split over all classes, as "
    "the papers report it; what the last step reached stands in the last column.",
    "Difference: against the same student trained without a teacher, seed by seed (paired), in points of mIoU; "
    "interval: 95 %, Student's t. A gain or a loss is one whose interval leaves out 0; the rest is not shown, nor is "
    "anything with fewer than two pairs of seeds.",
)


@dataclass(frozen=True)
class RunScores:
    """The scores of a finished run on the validation split: its best checkpoint's, but for ``miou_last``."""

    miou: float
    miou_last: float | None
    best_step: int | None
    boundary_miou: float | None
    pixel_accuracy: float | None
    #: of each class
    iou: list[float]


@dataclass(frozen=True)
class RunRow:
    """One run; ``scores`` and what follows them are those of a finished one."""

    entry: Entry
    state: str
    error: str | None
    scores: RunScores | None
    classes: list[str]
    device: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the scores side by side with the rest."""
        values = {key: getattr(self.entry, key) for key in ("name", "label", "method", "grid", "seed", "baseline")}
        values |= {"state": self.state, "error": self.error}
        values |= asdict(self.scores) if self.scores else dict.fromkeys(RunScores.__dataclass_fields__)
        return values | {"device": self.device}


@dataclass(frozen=True)
class ClassChange:
    """A class and its mean paired difference."""

    name: str
    difference: float


@dataclass
class SummaryRow:
    """One method at one grid point, over its seeds."""

    label: str
    method: str
    grid: dict[str, str]
    #: of the finished runs, as are the scores
    seeds: list[int]
    planned: int
    failed: int
    scores: list[float]
    miou: float | None
    sd: float | None
    #: label of the row that this one is compared with; None of a baseline
    baseline: str | None
    baseline_miou: float | None
    #: by seed, the mIoU of the run and of its baseline
    pairs: list[tuple[float, float]]
    #: mean of the paired differences, its interval and p-value, as in ``Paired``
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    #: corrected for the number of methods
    p_holm: float | None
    verdict: str
    best_class: ClassChange | None
    worst_class: ClassChange | None
    miou_last: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the difference, where there is one."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class ClassRow:
    """One class of one method at one grid point."""

    label: str
    name: str
    seeds: int
    iou: float | None
    pairs: int
    difference: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class TeacherRow:
    """A teacher and its scores on the validation split."""

    name: str
    source: str
    miou: float | None
    iou: list[float]
    privileged: bool


@dataclass
class Results(Record):
    """All tables of a comparison; scores are fractions in [0, 1]."""

    out: str
    commands: list[list[str]]
    protocol: dict[str, Any]
    #: how many runs are in which
    states: dict[str, int]
    #: by run, the error that ended it
    failed: dict[str, str | None]
    teachers: list[TeacherRow]
    #: of the classes
    names: list[str]
    summary: list[SummaryRow]
    runs: list[RunRow]
    classes: list[ClassRow]
    notes: list[str]
    #: the tables and plots, once they are written
    files: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = super().to_dict()
        values["classes"] = [
            {"class" if key == "name" else key: v for key, v in vars(row).items()} for row in self.classes
        ]
        if not self.files:
            del values["files"]
        return values


def collect(folder: Comparison) -> Results:
    """Read every run of a comparison and compute its tables."""
    runs = [_run(folder, entry) for entry in folder.entries]
    by_name = {row.entry.name: row for row in runs}
    groups: dict[str, list[RunRow]] = {}
    for row in sorted(runs, key=lambda row: row.entry.baseline is not None):
        groups.setdefault(row.entry.label, []).append(row)
    names = next((row.classes for row in runs if row.classes), [])

    summary = [_summary(label, rows, by_name, names) for label, rows in groups.items()]
    tested = [row for row in summary if row.p is not None]
    for row, p in zip(tested, holm([row.p for row in tested if row.p is not None]), strict=True):
        row.p_holm = p

    states = [row.state for row in runs]
    return Results(
        out=str(folder.path),
        commands=folder.commands,
        protocol=folder.protocol or {},
        states={state: states.count(state) for state in dict.fromkeys(states)},
        failed={row.entry.name: row.error for row in runs if row.state == "failed"},
        teachers=_teachers(folder),
        names=names,
        summary=summary,
        runs=runs,
        classes=[row for label, rows in groups.items() for row in _classes(label, rows, by_name, names)],
        notes=_notes(folder, runs, tested),
    )


def _teachers(folder: Comparison) -> list[TeacherRow]:
    return [
        TeacherRow(card.name, card.source, teacher.scores.miou, teacher.scores.iou, teacher.privileged)
        for teacher in folder.teachers.values()
        if (card := teacher.card)
    ]


def _run(folder: Comparison, entry: Entry) -> RunRow:
    state, run = folder.state(entry.name), folder.run(entry.name)
    final = run.card.final if run and state == "finished" else None
    scores, classes, device = None, [], None
    if run and final and final.miou is not None:
        classes, device = final.classes, _device(run)
        records = [record for record in run.records() if "val" in record]
        # the first of equals, as training keeps it
        best = max(records, key=lambda record: record["val"]["miou"], default=None)
        scores = RunScores(
            final.miou,
            records[-1]["val"]["miou"] if records else None,
            best["step"] if best else None,
            final.boundary_miou,
            final.pixel_accuracy,
            final.iou,
        )

    error = folder.failed[entry.name].error if state == "failed" else None
    return RunRow(entry, state, error, scores, classes, device)


def _device(run: Run) -> str:
    card = run.card
    return f"{card.device}, kdc {card.versions['kdc']}, torch {card.versions['torch']}"


def _pairs(rows: Iterable[RunRow], by_name: Mapping[str, RunRow]) -> list[tuple[RunScores, RunScores]]:
    """Return the scores of each finished run with those of its finished baseline."""
    pairs = [(row.scores, by_name.get(row.entry.baseline or "")) for row in rows]
    return [(scores, other.scores) for scores, other in pairs if scores and other and other.scores]


def _summary(label: str, rows: Sequence[RunRow], by_name: Mapping[str, RunRow], names: Sequence[str]) -> SummaryRow:
    done = [row.scores for row in rows if row.scores]
    pairs = _pairs(rows, by_name)

    change = paired([scores.miou - other.miou for scores, other in pairs])
    means = [(name, _mean(scores.iou[i] - other.iou[i] for scores, other in pairs)) for i, name in enumerate(names)]
    classes = [ClassChange(name, mean) for name, mean in means if mean is not None]
    classes.sort(key=lambda each: each.difference)

    method, grid = rows[0].entry.method, rows[0].entry.grid
    baseline = label_of(BASELINE, {key: value for key, value in grid.items() if shared(key)})

    return SummaryRow(
        label=label,
        method=method,
        grid=grid,
        seeds=[row.entry.seed for row in rows if row.scores],
        planned=len(rows),
        failed=sum(row.state == "failed" for row in rows),
        scores=[scores.miou for scores in done],
        miou=_mean(scores.miou for scores in done),
        sd=statistics.stdev(scores.miou for scores in done) if len(done) > 1 else None,
        baseline=None if method == BASELINE else baseline,
        baseline_miou=_mean(other.miou for _, other in pairs),
        pairs=[(scores.miou, other.miou) for scores, other in pairs],
        difference=change.mean if change else None,
        low=change.low if change else None,
        high=change.high if change else None,
        p=change.p if change else None,
        p_holm=None,
        verdict="" if method == BASELINE else change.verdict if change else "not shown",
        best_class=classes[-1] if classes else None,
        worst_class=classes[0] if classes else None,
        miou_last=_mean(scores.miou_last for scores in done),
    )


def _classes(label: str, rows: Sequence[RunRow], by_name: Mapping[str, RunRow], names: Sequence[str]) -> list[ClassRow]:
    done, pairs = [row.scores for row in rows if row.scores], _pairs(rows, by_name)
    table = []
    for i, name in enumerate(names if done else ()):
        iou = _mean(scores.iou[i] for scores in done)
        change = paired([scores.iou[i] - other.iou[i] for scores, other in pairs])
        interval = (change.mean, change.low, change.high) if change else (None, None, None)
        table.append(ClassRow(label, name, len(done), iou, len(pairs), *interval))
    return table


def _notes(folder: Comparison, runs: Iterable[RunRow], tested: Sequence[SummaryRow]) -> list[str]:
    """Return the caveats that belong to the table."""
    done = [run for row in runs if row.scores and (run := folder.run(row.entry.name))]
    notes = [*READING, *dict.fromkeys(line for run in done for line in run.card.data.notes)]

    if len(tested) > 1:
        notes.append(
            f"{len(tested)} comparisons are made at once: of methods without effect, one interval in twenty leaves out "
            "0 by chance. p (Holm) is corrected for that; the intervals and verdicts are not."
        )
    few = {len(row.pairs) for row in tested} or {0}
    if 0 < min(few) < 5:
        notes.append(
            f"{min(few)} pairs of seeds make wide intervals: 'not shown' does not mean that there is no effect."
        )

    limits = {entry.config.train.val_images for entry in folder.entries if entry.config.train.val_images}
    if limits:
        notes.append(f"The best checkpoint was chosen, and the last step evaluated, on {max(limits)} images.")
    if len(devices := sorted({row.device for row in runs if row.device})) > 1:
        notes.append(f"The runs were not all made alike: {'; '.join(devices)}.")
    if any(teacher.card is None for teacher in folder.teachers.values()):
        notes.append("The teacher of a label-assisted method is trained by a phase of each run, with the run's seed.")
    return notes


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
