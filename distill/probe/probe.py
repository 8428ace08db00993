"""A few minutes before a long run: the teacher's scores, each term's value and gradient, the cost of a step."""

import contextlib
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from .. import cost
from ..data import Dataset
from ..errors import UsageError, WeightsError
from ..evaluation.evaluate import evaluate, model_predictor
from ..job import Parts, lineage, prepare
from ..methods import Composite, Phase
from ..models import SegmentationModel
from ..run.listing import all_runs
from ..run.phase_results import Artefacts, Lineage
from ..settings.config import Config
from ..training.batches import Batches
from ..training.devices import launch
from ..training.teacher import Teacher, chance, spread
from .gradients import Rehearsal, rehearse
from .memory import estimate_memory
from .records import (
    BatchSummary,
    ClassScores,
    Forecast,
    Knowledge,
    Probe,
    Spread,
    Student,
    Task,
    TeacherSource,
    Term,
)
from .suggested_weights import advise
from .tables import show_probe


def probe(config: Config, *, images: int = 32, batches: int = 4, root: Path | None = None) -> Probe:
    """Measure where a distillation would start, print it and return it; nothing is written and no step is taken.

    Args:
        config: the settings of the run.
        images: validation images on which teacher and student are evaluated.
        batches: training batches that are measured, each one device's share of a micro-batch.
        root: the folder of the runs, for teachers that a run trained.

    Raises:
        UsageError: there is no method.
        WeightsError: there is no teacher with weights.
        NumbersError: a term is not finite at the start.
    """
    if config.method.name == "none":
        raise UsageError("kdc probe looks at a distillation; name a --method, such as kd (see: kdc methods ls)")
    options = config.train
    share = options.batch // (options.devices * options.nodes * options.accumulate)
    one = config.changed(
        train__devices=1,
        train__nodes=1,
        train__accumulate=1,
        train__batch=share,
        train__workers=0,
        train__compile=False,
    )
    fabric = launch(one)
    parts = prepare(config, fabric, root, dry=True)
    teacher = parts.teacher
    assert teacher is not None
    if next(teacher.model.parameters()).is_meta:
        raise WeightsError(_fit_first(config, teacher))

    stream = Batches(parts.data, one, fabric).stream("main", 0, batches)
    origin = replace(lineage(parts, fabric), processes=options.devices * options.nodes)
    rehearsal = rehearse(
        one, fabric, parts.student, parts.method, teacher.model, stream, batches, lambda p: _ready(p, origin, root)
    )

    terms = _terms(parts.method, rehearsal)
    advice = advise(terms)
    taught = teacher.trained or all(phase.ready for phase in rehearsal.phases)
    knowledge = _knowledge(parts, teacher.model if taught else None, images, fabric.device)
    result = Probe(
        student=Student(parts.student.name, cost.params(parts.student)[0], _start(config)),
        teacher=TeacherSource(teacher.model.name, teacher.card.source, teacher.trained),
        knowledge=knowledge if isinstance(knowledge, Knowledge) else None,
        skipped=knowledge if isinstance(knowledge, str) else None,
        shapes=rehearsal.shapes,
        method=parts.method.describe(),
        notes=[*parts.method.notes(), *parts.method.warnings()],
        phases=rehearsal.phases,
        critics=sorted(parts.method.critics()),
        magnitudes={
            name: {key: Spread.of([value[key] for value in values]) for key in values[0]}
            for name, values in rehearsal.magnitudes.items()
        },
        task=Task(Spread.of(rehearsal.task), Spread.of(rehearsal.task_norm)),
        terms=terms,
        forecast=forecast(config, parts, teacher, rehearsal, share, fabric),
        batches=BatchSummary(batches, share, list(options.crop)),
        advice=advice,
        settings=[each.setting for each in advice if each.setting],
    )

    show_probe(result)
    return result


def _fit_first(config: Config, teacher: Teacher) -> str:
    options = " ".join(f"--set data.{key}={_plain(value)}" for key, value in config.data.options().items())
    stride = config.model.teacher_stride
    options += f" --set model.output_stride={stride}" if stride else ""
    return (
        f"the teacher {teacher.model.name} is not fitted yet, and kdc probe writes nothing; make it with: kdc train "
        f"--student {teacher.model.name} --data {config.data.source} {options}".rstrip()
    )


def _plain(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _start(config: Config) -> str:
    if config.model.init:
        return f"the weights of {config.model.init}"
    return f"a trained backbone ({config.model.student_weights})" if config.model.student_weights else "random"


def _ready(phase: Phase, origin: Lineage, root: Path | None) -> bool:
    """Load the result of an equal phase into this one, if a run has left it, and say whether it has."""
    for run in all_runs(root):
        kept = Artefacts(run, origin)
        if kept.path(phase).exists():
            with contextlib.suppress(WeightsError):  # a damaged one would not be reused either
                kept.load(phase)
                return True
    return False


def _knowledge(parts: Parts, teacher: SegmentationModel | None, images: int, device: torch.device) -> Knowledge | str:
    """Evaluate teacher and student on the same images, or return why that cannot be done."""
    data: Dataset | None = parts.val
    if data is None:
        return "there are no labelled validation images"
    if teacher is None:
        return "a phase of the method trains the teacher first"

    indices = spread(data, images)
    outcomes = {}
    for role, model in (("teacher", teacher), ("student", parts.student)):
        training = model.training
        outcomes[role] = evaluate(model_predictor(model, device), data, indices=indices, label=role)
        model.train(training)

    scores, own = outcomes["teacher"], outcomes["student"]
    pixels = scores.confusion.sum(1)
    classes = [
        ClassScores(name, float(n / max(pixels.sum(), 1)), teacher_iou, student_iou)
        for name, n, teacher_iou, student_iou in zip(scores.classes, pixels, scores.iou, own.iou, strict=True)
        if n
    ]
    return Knowledge(
        split=data.split,
        images=len(indices),
        chance=chance(scores),
        teacher=scores.miou_present,
        student=own.miou_present,
        classes=classes,
        absent=[name for name, n in zip(scores.classes, pixels, strict=True) if not n],
        not_taught=[each.name for each in classes if each.teacher <= each.student],
    )


def _terms(method: Composite, rehearsal: Rehearsal) -> list[Term]:
    terms = []
    coming = {phase.name.partition(".")[0] for phase in rehearsal.phases if not phase.ready}
    for name, pulls in rehearsal.terms.items():
        weight, schedule = method.weight(name, 0), method.schedules[name]
        value = Spread.of([pull.value for pull in pulls])
        ratio = Spread.of([pull.norm / pull.task_norm if pull.task_norm else 0.0 for pull in pulls])
        cosines = [pull.cosine for pull in pulls if pull.cosine is not None]
        critic = "its critic" if name in rehearsal.with_critic else None

        terms.append(
            Term(
                term=name,
                value=value.mean,
                value_spread=value.std,
                weight=weight,
                schedule=str(schedule),
                constant=schedule.kind == "constant",
                weighted=weight * value.mean,
                norm=statistics.fmean([pull.norm for pull in pulls]),
                ratio=ratio.mean,
                share=weight * ratio.mean,
                share_spread=weight * ratio.std,
                cosine=statistics.fmean(cosines) if cosines else None,
                cosine_spread=statistics.pstdev(cosines) if cosines else None,
                untrained="what its phase makes" if name.partition(".")[0] in coming else critic,
            )
        )
    return terms


def forecast(
    config: Config, parts: Parts, teacher: Teacher, rehearsal: Rehearsal, share: int, fabric: Fabric
) -> Forecast:
    """Estimate time and memory of the run from the medians of the batches; ``share`` is the images of a micro-batch."""
    options = config.train
    seconds = {part: statistics.median(values) for part, values in rehearsal.seconds.items()}
    workers = Batches(parts.data, config, fabric).workers
    reading = seconds.pop("reading")
    work = sum(seconds.values())
    # loader processes read while the networks work
    step = options.accumulate * (max(work, reading / workers) if workers else work + reading)
    state = sum(p.numel() for p in parts.student.parameters()) * 4 * (1 if options.optimizer == "sgd" else 2) / 2**20
    return Forecast(
        device=torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else "cpu",
        precision=options.precision,
        seconds=seconds | {"reading": reading},
        workers=workers,
        step=step,
        iters=options.iters,
        hours=step * options.iters / 3600,
        memory_mib=estimate_memory(config, share, teacher.model, parts.method),
        peak_mib=None if rehearsal.peak_mib is None else rehearsal.peak_mib + state,
    )
