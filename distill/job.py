"""One training job from its configuration to a finished run: data, networks, teacher, method, loop, final scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from . import console, methods, models
from .console import note, say, warn
from .data import Dataset
from .errors import DataError, KdcError, NumbersError, UsageError, WeightsError
from .methods import Composite, Sizes
from .models import SegmentationModel
from .run.baseline import find_baseline
from .run.card import DataCard, TeacherCard
from .run.checkpoint import student_file, was_saved
from .run.folder import Run, check_vacant, find_run, point_last
from .run.listing import unfinished_run
from .run.phase_results import Artefacts, Lineage
from .settings.changes import changes, described, resumed
from .settings.config import Config
from .train import train
from .training.batches import Batches
from .training.dataset import open_checked
from .training.devices import launch, lost_process
from .training.state import Stopped
from .training.student import build_student
from .training.teacher import Teacher, check_teacher, find_teacher, reopen_teacher, teacher_name


@dataclass
class Parts:
    """The data, networks and method of a configuration, opened and built before anything is written."""

    config: Config
    data: Dataset
    val: Dataset | None
    data_card: DataCard
    student: SegmentationModel
    teacher: Teacher | None
    method: Composite


def run_job(
    config: Config,
    *,
    out: Path | None = None,
    root: Path | None = None,
    fabric: Fabric | None = None,
    kind: str | None = None,
    tuned_from: str | None = None,
) -> Run:
    """Train what ``config`` describes and return the finished run.

    Args:
        config: every setting; ``method.name == "none"`` is plain training without a teacher.
        out: the run folder; by default a new one below ``root`` (``runs/``).
        root: the folder of runs.
        fabric: the launched Fabric, where the caller has one already.
        kind: what run.json calls it; by default ``distill`` or ``train``.
        tuned_from: the run that this one goes on from.

    Raises:
        KdcError: of the kind that fits: data 3, weights 4, numbers 6, resources 7, folder in use 8.
        Stopped: SIGINT or SIGTERM came; the run can be resumed.
    """
    first_note = len(console.notes)
    fabric = fabric or launch(config)
    kind = kind or ("train" if config.method.name == "none" else "distill")
    if out and fabric.is_global_zero:
        check_vacant(out)  # now, not after a teacher was fitted
    parts = prepare(config, fabric, root)

    run = None
    if fabric.is_global_zero:
        teacher = [_short(parts.teacher.model.name)] if parts.teacher else []
        first = config.method.name if parts.teacher else "train"
        name = "_".join((first, *teacher, _short(parts.student.name), parts.data.name))
        origin = {"tuned_from": tuned_from} if tuned_from else {}
        run = Run.create(name, config, root=root, out=out, **_card(parts, kind, fabric), **origin)
        say(f"run {run.path}")
        for line in parts.method.notes():
            note(f"method: {line}")
        for line in parts.method.warnings():
            warn(f"method: {line}")
        run.record(notes=console.notes_since(first_note))
    run = _shared(fabric, run)
    return _train(parts, run, fabric, root, first_note, resume=False)


def resume_job(
    spec: str | None, *, root: Path | None = None, workers: int | None = None, sets: Sequence[str] = ()
) -> Run:
    """Resume an unfinished run exactly where its checkpoint was taken.

    Args:
        spec: the run; None for the newest unfinished one.
        root: the folder of runs.
        workers: loader processes, on which no number depends.
        sets: ``KEY=VALUE``: settings with which it goes on otherwise than it began.

    Raises:
        UsageError: no such run, it is finished, or settings that cannot be changed, as ``changes.resumed``.
        WeightsError: its checkpoint or its teacher is gone.
    """
    first_note = len(console.notes)
    run = find_run(spec, root) if spec else unfinished_run(root)
    if run.card.status == "finished":
        raise UsageError(f"{run.path.name} is finished (step {run.card.config_iters}); nothing to resume")

    began = run.recorded_config
    config = resumed(began, run.edited_config(), sets)
    fabric = launch(config.changed(train__threads=run.card.threads))
    if fabric.is_global_zero:
        run.lock()
        if differing := changes(began, config):
            note(f"resumed with other settings: {described(differing)}")
            run.change_config(config)
    if workers is not None:
        config = config.changed(train__workers=workers)

    # the same data and networks as before
    data, val, data_card = open_checked(config)
    if data_card.fingerprint != run.card.data.fingerprint:
        raise DataError(f"the data of {run.path.name} has changed since it began; resume needs the same files")
    teacher = reopen_teacher(run.card.teacher) if run.card.teacher else None
    if was_saved(run.checkpoints):
        student = models.rebuild(run.card.student)
    else:  # it starts again as it began
        student = build_student(config, data_card.num_classes)
    parts = Parts(config, data, val, data_card, student, teacher, _method(config, student, teacher, len(data)))

    say(f"run {run.path} resumed")
    if (device := _device(fabric)) != run.card.device:
        warn(f"it began on {run.card.device} and continues on {device}: the numbers will differ")
    if fabric.is_global_zero:
        run.record(status="running")
    return _train(parts, run, fabric, root, first_note, resume=True)


def prepare(config: Config, fabric: Fabric, root: Path | None = None, *, dry: bool = False) -> Parts:
    """Open the data, build the student, find the teacher, compose the method; write nothing but a teacher's run."""
    if config.method.name == "none" and not config.task.weight:
        raise UsageError("task.weight = 0 leaves nothing to learn without a teacher; distil with: kdc distill")
    data, val, data_card = open_checked(config, decode=not dry)
    student = build_student(config, data_card.num_classes, data.bits)
    teacher = None
    if config.method.name != "none":
        teacher = find_teacher(config, data_card, root, methods.assisted(config.method.name))
        if teacher is None:
            plain = _teacher_fit(config, data_card)
            teacher = _untrained_teacher(plain, data_card)
            _method(config, student, teacher, len(data))  # a fault of the method shows before the fit, not after
            if not dry:
                teacher = _fit_teacher(config, plain, data_card, fabric, root)
        note(f"teacher: {teacher.model.name} from {teacher.card.source}")
        if config.model.teacher_check and val is not None and not dry and teacher.trained:
            check_teacher(teacher, val, fabric.device)
    return Parts(config, data, val, data_card, student, teacher, _method(config, student, teacher, len(data)))


def _train(parts: Parts, run: Run, fabric: Fabric, root: Path | None, first_note: int, resume: bool) -> Run:
    """Train, and leave in run.json how it ended and every note since ``first_note``."""
    batches = Batches(parts.data, parts.config, fabric)
    artefacts = Artefacts(run, lineage(parts, fabric))
    try:
        scores = train(
            parts.config, run, fabric, parts.student, parts.method, parts.teacher, batches, parts.val, artefacts, resume
        )
    except (Stopped, NumbersError) as error:  # every process raises these together
        if isinstance(error, Stopped):
            _record(run, fabric, first_note, status="stopped")
        else:
            _record(run, fabric, first_note, status="failed", error=str(error))
        if fabric.global_rank:  # rank 0 says it; Fabric kills rank 0 when another ends with a code, even while it saves
            raise SystemExit(0) from None
        raise
    except BaseException as error:
        lost = lost_process(fabric, error) if isinstance(error, Exception) else None
        _record(run, fabric, first_note, status="failed", error=str(lost or error) or type(error).__name__)
        if lost:
            raise lost from error
        raise

    if fabric.is_global_zero:
        run.record(status="finished", final=scores.to_dict() if scores else None)
        if parts.teacher and not parts.teacher.trained:
            run.record(teacher=parts.teacher.card.to_dict())
        if run.card.kind == "distill":
            baseline = find_baseline(run)
            run.record(baseline=str(baseline.path) if baseline else None)
        run.extend(notes=console.notes[first_note:])
        run.seal(everything=True)
        if run.card.kind != "teacher":
            point_last(run, root)
        run.unlock()

        privileged = ", privileged: it is shown the label" if parts.student.in_channels == 4 else ""
        result = f": val mIoU {100 * scores.miou:.2f} % on all {scores.images} images{privileged}" if scores else ""
        say(f"{run.path.name} finished{result}; the best weights are {student_file(run)}")
    fabric.barrier()
    return run


def _record(run: Run, fabric: Fabric, first_note: int, **values: Any) -> None:
    if fabric.is_global_zero:
        run.extend(notes=console.notes[first_note:])
        run.record(**values)
        run.unlock()


def lineage(parts: Parts, fabric: Fabric) -> Lineage:
    """Return what the phases of a run depend on besides their own settings."""
    card = parts.teacher.card if parts.teacher else None
    return Lineage(card, parts.data_card.fingerprint, parts.config.train, fabric.world_size)


def _method(config: Config, student: SegmentationModel, teacher: Teacher | None, images: int) -> Composite:
    sizes = Sizes(
        num_classes=student.num_classes,
        student=student.taps,
        teacher=teacher.model.taps if teacher else {},
        iters=config.before or config.train.iters,
        seed=config.train.seed,
        epoch=-(-images // config.train.batch),
        teacher_trained=teacher.trained if teacher else True,
    )
    return methods.compose(
        config.method.name if teacher else "none", sizes, config.method.settings() if teacher else {}
    )


def _teacher_fit(config: Config, data_card: DataCard) -> Config:
    """Return the configuration that trains the named architecture on the built-in data.

    Raises:
        WeightsError: the data are others; the message says how to train a teacher on them.
    """
    name = models.expand(teacher_name(config), config.model.arch)
    if data_card.name != "builtin":
        raise WeightsError(
            f"no finished run of {name} on {data_card.name} to teach; make one with: kdc train --student {name} "
            f"--data {config.data.source}, or give --teacher-weights FILE"
        )
    return config.changed(
        model__student=name,
        model__output_stride=config.model.teacher_stride,
        model__student_weights=None,
        model__init=None,
        model__teacher=None,
        method={"name": "none"},
        train__iters=config.train.iters if config.train.teacher_iters is None else config.train.teacher_iters,
        train__ema=None,
    )


def _untrained_teacher(plain: Config, data_card: DataCard) -> Teacher:
    """Return the shapes of the teacher that ``plain`` is going to train."""
    with torch.device("meta"):
        network = models.build(plain.model.student, data_card.num_classes, output_stride=plain.model.output_stride)
    card = TeacherCard(network.name, source=f"a fit of {plain.train.iters} steps that comes first")
    return Teacher(network.requires_grad_(False).eval(), card)


def _fit_teacher(config: Config, plain: Config, data_card: DataCard, fabric: Fabric, root: Path | None) -> Teacher:
    """Train a teacher by ``plain``, as a run of its own, and return it."""
    name = plain.model.student
    note(
        f"no teacher weights named: {name} is fitted first, {plain.train.iters} steps on the built-in data, as a "
        "run of its own"
    )
    try:
        run_job(plain, root=root, fabric=fabric, kind="teacher")
    except Stopped as stopped:
        raise Stopped(stopped.number, stopped.run, "that is the teacher; then give the distil command again") from None
    teacher = find_teacher(config, data_card, root)
    if teacher is None:
        raise KdcError(f"the teacher run of {name} was finished but is not found")
    return teacher


def _card(parts: Parts, kind: str, fabric: Fabric) -> dict[str, Any]:
    config = parts.config
    return {
        "kind": kind,
        "method": config.method.name if parts.teacher else None,
        "terms": {name: str(value) for name, value in parts.method.schedules.items()},
        "teacher": parts.teacher.card.to_dict() if parts.teacher else None,
        "student": parts.student.spec().to_dict(),
        "privileged": parts.student.in_channels == 4,
        "data": parts.data_card.to_dict(),
        "seed": config.train.seed,
        "config_iters": config.train.iters,
        "threads": torch.get_num_threads(),
        "device": _device(fabric),
        "world": fabric.world_size,
        "parents": [parts.teacher.card.run] if parts.teacher and parts.teacher.card.run else [],
    }


def _device(fabric: Fabric) -> str:
    return torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else "cpu"


def _shared(fabric: Fabric, run: Run | None) -> Run:
    """Give every rank the folder that rank 0 made."""
    if fabric.world_size == 1:
        assert run
        return run
    path = fabric.broadcast(str(run.path) if run else "")
    return run or Run(Path(path))


def _short(name: str) -> str:
    return name.removeprefix("deeplabv3-")
