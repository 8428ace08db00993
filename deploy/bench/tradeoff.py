"""Accuracy against cost: mIoU over latency, arithmetic and parameters, and which networks nothing else beats.

As the cost-accuracy figures of the distillation papers, but of files as they are deployed, on the machine at hand.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from ...distill import console
from ...distill.run.files import write_bytes, write_json
from ...distill.run.folder import Run, find_run, relative
from ...distill.run.records import Record
from ...distill.units import file_size
from ..machine.passport import Passport, passport
from ..runtimes.options import CPU, RuntimeOptions
from .accuracy import Evaluation, evaluate_plan, percent
from .costs import Deployed, deployed
from .evaluation_data import OWN_DATA, EvaluationData
from .latency import time_plan
from .latency_record import LatencyRow
from .plan import Candidate, NotMeasured, Size, Source, make_plan
from .record import EFFORT, Effort, check_place, conditions, record_path, show_rest
from .tradeoff_chart import COSTS, TradeoffRow, tradeoff_chart

FILE = "tradeoff"


@dataclass(frozen=True, kw_only=True)
class TradeoffRecord(Record):
    """Accuracy against cost.

    Attributes:
        flags: what may have disturbed the latency.
        passport: of the machine, before it began.
        rows: by falling mIoU.
        seconds: that the latency of each row was measured.
        latency_record: the file that holds the latency with its raw samples.
        files: ``tradeoff.json``, ``.csv`` and ``.svg`` of the latest trade-off, where the report looks.
        record: the file that holds this one, and stays.
    """

    OPTIONAL: ClassVar = ("seconds", "files", "record")

    kind: str = "tradeoff"
    device: str
    size: Size
    batch: int
    threads: int
    not_measured: list[NotMeasured]
    flags: list[str]
    passport: Passport
    data: str
    split: str
    images: int
    rows: list[TradeoffRow]
    seconds: float | None = None
    latency_record: str | None
    files: dict[str, str] | None = None
    record: str | None = None


def family(run: Run) -> list[Run]:
    """Return a run, what it is compared with (the student alone, or before rounding), and the teacher's, if known."""
    card = run.card
    others = (card.baseline or card.tuned_from, card.teacher.run if card.teacher else None)
    return [run, *(other for spec in others if (other := relative(run, spec)))]


def bench_tradeoff(
    sources: Sequence[Source] | None = None,
    effort: Effort = EFFORT,
    data: EvaluationData = OWN_DATA,
    *,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    options: RuntimeOptions = CPU,
    out: Path | None = None,
) -> TradeoffRecord:
    """Measure latency and accuracy of every source, count its arithmetic and parameters, and find who is on the front.

    Args:
        sources: runs or files; None is the last run with the student alone and the teacher that it came from.
        effort: of the latency.
        data: of the accuracy.
        size: see ``bench_latency``, as ``batch``, ``options`` and ``out``.

    Raises:
        KdcError: as ``bench_latency`` and ``bench_accuracy``.
    """
    plan = make_plan(sources or family(find_run(None)), size=size, batch=batch, options=options)
    before = passport()  # evaluation loads the machine, too
    # accuracy first: it is what fails, if anything does
    check_place(plan.home, out)
    evaluations = evaluate_plan(plan, data)
    timed = time_plan(plan, effort, out, before)

    candidates = {candidate.label: candidate for candidate in plan.candidates}
    costs = {row.name: deployed(candidates[row.name].source, plan.size) for row in timed.backends}
    lacking = [
        NotMeasured(name, f"parameters or FLOPs not measured: {each.why}") for name, each in costs.items() if each.why
    ]
    rows = [_row(row, candidates[row.name], evaluations.get(row.name), costs[row.name]) for row in timed.backends]
    rows = [replace(row, pareto={cost: on_front(row, rows, cost) for cost in COSTS}) for row in rows]
    rows.sort(key=lambda row: -(row.miou if row.miou is not None else -1.0))

    first = next(iter(evaluations.values()))
    result = TradeoffRecord(
        device=timed.device,
        size=timed.size,
        batch=timed.batch,
        threads=timed.threads,
        not_measured=[*timed.not_measured, *lacking],
        flags=timed.flags,
        passport=timed.passport,
        data=first.data,
        split=first.split,
        images=first.scores.images,
        rows=rows,
        seconds=effort.seconds,
        latency_record=timed.record,
    )

    record = record_path(plan.home, out, FILE)
    files = {kind: record.with_name(f"{FILE}.{kind}") for kind in ("json", "csv", "svg")}
    for path in (record, files["json"]):
        write_json(path, result.to_dict())
    write_bytes(files["csv"], table(rows).encode())
    write_bytes(files["svg"], tradeoff_chart(rows, _conditions(result)).encode())
    return replace(result, files={kind: str(path) for kind, path in files.items()}, record=str(record))


def _row(timed: LatencyRow, candidate: Candidate, evaluation: Evaluation | None, cost: Deployed) -> TradeoffRow:
    run, scores = candidate.run, evaluation.scores if evaluation else None
    return TradeoffRow(
        name=timed.name,
        network=run.path.name if run else str(candidate.source),
        precision=timed.backend.precision,
        ran_on=timed.backend.ran_on,
        miou=scores and scores.miou,
        miou_present=scores and scores.miou_present,
        boundary_miou=scores and scores.boundary_miou,
        pixel_accuracy=scores and scores.pixel_accuracy,
        latency_ms=timed.times.p50,
        latency_p95_ms=timed.times.p95,
        images_per_s=timed.images_per_s,
        gflops=None if cost.macs is None else round(2 * cost.macs / 1e9, 4),
        params_m=None if cost.params is None else round(cost.params / 1e6, 4),
        size_mb=timed.backend.size_mb,
        pareto={},
    )


def on_front(row: TradeoffRow, rows: Sequence[TradeoffRow], cost: str) -> bool | None:
    """Tell whether no other row is at least as accurate for at most the cost, and better in one; None: not measured."""
    own = row.point(cost)
    if own is None:
        return None
    points = [point for other in rows if (point := other.point(cost))]
    return not any(miou >= own[0] and value <= own[1] and (miou, value) != own for miou, value in points)


def table(rows: Sequence[TradeoffRow]) -> str:
    """Return the rows as CSV: one line a network, empty where nothing was measured."""
    lines = []
    for row in rows:
        values = row.to_dict()
        front = values.pop("pareto")
        lines.append(values | {f"pareto_{cost}": front[cost] for cost in COSTS})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def show_tradeoff(result: TradeoffRecord) -> None:
    """Print a trade-off for people; a star marks what is on the front of that cost."""
    cells = []
    for row in result.rows:
        costs = [
            "not measured" if value is None else f"{COSTS[cost].write(value)}{' *' if row.pareto[cost] else '  '}"
            for cost, value in row.costs.items()
        ]
        cells.append([row.name, row.precision, row.ran_on, percent(row.miou), *costs, file_size(1e6 * row.size_mb)])

    columns = ["network", "precision", "ran on", "mIoU %", *(cost.name for cost in COSTS.values()), "file"]
    console.table(f"trade-off, {_conditions(result)}, {result.data} {result.split}", columns, cells)
    console.say("*: no other is as accurate for less of that cost (the Pareto front)")
    files = ", ".join((result.files or {}).values())
    show_rest(result.not_measured, result.flags, f"files: {files}; record: {result.record}")


def _conditions(result: TradeoffRecord) -> str:
    return conditions(result.device, result.size, result.threads, result.passport, result.batch)
