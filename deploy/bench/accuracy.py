"""How good networks are on a split: one function for a checkpoint, an ONNX file and every other runtime."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ...distill import console, units
from ...distill.data._labels import LabelCounts, label_warnings
from ...distill.errors import DataError, ExportError, KdcError
from ...distill.evaluation.evaluate import evaluate
from ...distill.evaluation.metrics import Scores
from ...distill.run.folder import Run
from ...distill.run.records import Record
from ..machine.passport import Passport, passport
from ..predict.segmenter import Ran, Windows, locate, open_segmenter
from ..runtimes.options import CPU, RuntimeOptions, is_torch
from .evaluation_data import OWN_DATA, EvaluationData
from .plan import NotMeasured, Plan, Source, make_plan, nothing_left
from .record import check_place, keep, show_rest

if TYPE_CHECKING:
    from ...distill.data import Dataset


@dataclass(frozen=True)
class Evaluation(Record):
    """The scores of a network on a split.

    Attributes:
        source: the run or file.
        privileged: a label-assisted teacher is shown the label: its scores are no student's.
        fingerprint: of the data.
    """

    MERGED: ClassVar = ("ran",)

    source: str
    ran: Ran
    privileged: bool
    data: str
    split: str
    fingerprint: str
    scores: Scores
    seconds: float


@dataclass(frozen=True)
class AccuracyRow(Record):
    """The evaluation of one network; ``change`` is that of mIoU from the first row."""

    MERGED: ClassVar = ("evaluation",)

    name: str
    evaluation: Evaluation
    change: float


@dataclass(frozen=True, kw_only=True)
class AccuracyRecord(Record):
    """Scores on the same images; the file ``record`` holds it."""

    OPTIONAL: ClassVar = ("record",)

    kind: str = "accuracy"
    device: str
    data: str
    split: str
    images: int
    rows: list[AccuracyRow]
    not_measured: list[NotMeasured]
    passport: Passport
    record: str | None = None


def evaluate_source(
    source: str | Path | Run | None,
    data: EvaluationData = OWN_DATA,
    *,
    options: RuntimeOptions = CPU,
    size: tuple[int, int] | None = None,
    windows: Windows | None = None,
) -> Evaluation:
    """Evaluate a run, a checkpoint or an ONNX file on whole images.

    Args:
        source: what to evaluate; None is the last run.
        data: what on (default: the data of the run that the file belongs to).
        options: what runs it, and on which device.
        size: input height and width, for an ONNX file that leaves them free.
        windows: how images that the network is not made for are taken (default: as its file declares).

    Raises:
        UsageError: no data are known, or a flag that does not fit the file.
        DataError: the split cannot be evaluated, or its classes are not those of the network.
        WeightsError: a broken file.
    """
    network, run = locate(source)
    return _evaluate(network, data.open(run), data.limit, options, size, windows)


def _evaluate(
    network: Path | Run,
    dataset: "Dataset",
    limit: int | None,
    options: RuntimeOptions,
    size: tuple[int, int] | None,
    windows: Windows | None = None,
) -> Evaluation:
    segmenter = open_segmenter(network, options=options.for_data(dataset), size=size, windows=windows, assisted=True)
    try:
        classes = segmenter.num_classes
        if classes and classes != dataset.num_classes:
            raise DataError(
                f"the network has {classes} classes, {dataset.name} has {dataset.num_classes}; name its own data"
            )

        indices = range(min(limit, len(dataset))) if limit else None
        start = time.perf_counter()
        scores = evaluate(segmenter.predict, dataset, indices=indices, label="evaluating")
    finally:
        segmenter.close()
    _check_labels(scores, dataset)

    return Evaluation(
        source=str(network.path if isinstance(network, Run) else network),
        ran=segmenter.ran,
        privileged=bool(getattr(segmenter.predict, "privileged", False)),
        data=dataset.name,
        split=dataset.split,
        fingerprint=dataset.fingerprint(),
        scores=scores,
        seconds=round(time.perf_counter() - start, 2),
    )


def _check_labels(scores: Scores, dataset: "Dataset") -> None:
    """Warn of labels that make the scores say little, once for a data set.

    Raises:
        DataError: nothing is labelled.
    """
    part = dataset.split if scores.images == len(dataset) else f"the first {scores.images} images of {dataset.split}"
    if not scores.labelled:
        raise DataError(f"no pixel of {part} of {dataset.name} is labelled: there is nothing to score")
    counts = LabelCounts.of(scores.confusion.sum(1).tolist(), scores.ignored)
    for line in label_warnings(scores.classes, {part: counts}):
        console.warn(line)


def bench_accuracy(
    sources: Sequence[Source] | None = None,
    data: EvaluationData = OWN_DATA,
    *,
    size: tuple[int, int] | None = None,
    options: RuntimeOptions = CPU,
    out: Path | None = None,
) -> AccuracyRecord:
    """Evaluate runs, each with every exported file, and single files on the same images.

    Args:
        sources: runs or files; None is the last run.
        data: what on (default: the data of the first run).
        size: input height and width, for files that leave them free.
        options: what runs them, and on which device.
        out: folder of the record (default: ``bench/`` of the run, else ``bench/`` here).

    Raises:
        UsageError: nothing to evaluate, or no data are known.
        KdcError: as ``evaluate_source``.
    """
    plan = make_plan(sources, size=size, batch=None, options=options)
    check_place(plan.home, out)
    evaluations = evaluate_plan(plan, data)
    first = next(iter(evaluations.values()))
    record = AccuracyRecord(
        device=options.device,
        data=first.data,
        split=first.split,
        images=first.scores.images,
        rows=[
            AccuracyRow(name, evaluation, evaluation.scores.miou - first.scores.miou)
            for name, evaluation in evaluations.items()
        ],
        not_measured=plan.missing,
        passport=passport(),
    )
    return keep(record, plan.home, out)


def evaluate_plan(plan: Plan, data: EvaluationData) -> dict[str, Evaluation]:
    """Evaluate every candidate of a plan on one data set, by label; those that cannot run join ``plan.missing``.

    Raises:
        KdcError: as ``bench_accuracy``.
    """
    plan.options.refuse_torch_modes()
    dataset = data.open(plan.home)
    evaluations: dict[str, Evaluation] = {}
    for candidate in plan.candidates:
        source = candidate.source
        size = None if is_torch(source) or candidate.size else plan.size
        try:
            options = plan.options.for_source(source)
            evaluations[candidate.label] = _evaluate(source, dataset, data.limit, options, size)
        except KdcError as error:
            if not candidate.may_be_refused(error):
                raise
            plan.missing.append(NotMeasured(candidate.label, f"not measured: {error}"))
    if not evaluations:
        raise ExportError(nothing_left(plan.missing, "evaluate"))
    return evaluations


def show_evaluation(result: Evaluation) -> None:
    """Print an evaluation for people."""
    scores = result.scores
    title = f"{result.source} ({result.ran.ran_on}) on {result.data} {result.split}, {scores.images} images"
    title += ", PRIVILEGED: it is shown the label" if result.privileged else ""
    rows = [[name, f"{100 * iou:.2f}"] for name, iou in zip(scores.classes, scores.iou, strict=True)]
    console.table(title, ["class", "IoU %"], rows)

    rows = [
        ["mIoU (all classes)", percent(scores.miou)],
        ["mIoU (present classes)", percent(scores.miou_present)],
        ["boundary mIoU", percent(scores.boundary_miou)],
        ["pixel accuracy", percent(scores.pixel_accuracy)],
    ]
    console.table("", ["score", "%"], rows)


def show_accuracy(result: AccuracyRecord) -> None:
    """Print the scores of several networks for people."""
    cells = []
    for row in result.rows:
        evaluation, scores = row.evaluation, row.evaluation.scores
        each = (scores.miou, scores.miou_present, scores.boundary_miou, scores.pixel_accuracy)
        line = [row.name, evaluation.ran.precision or "fp32", evaluation.ran.ran_on, *map(percent, each)]
        cells.append([*line, units.points(row.change)])

    title = f"accuracy in per cent on {result.data} {result.split}, {result.images} images"
    columns = ["network", "precision", "ran on", "mIoU", "mIoU present", "boundary", "pixels", "mIoU change"]
    console.table(title, columns, cells)
    show_rest(result.not_measured, (), f"record: {result.record}")


def percent(value: float | None) -> str:
    """Return a fraction in per cent; None is not measured."""
    return "not measured" if value is None else units.percent(value)
