"""``kdc distill`` and ``kdc train``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import console
from ..errors import UsageError
from ..settings.layers import resolve_flags
from .flags import (
    _KEYS,
    Arch,
    At,
    BatchSize,
    Classes,
    Compile,
    ConfigFile,
    Crop,
    Data,
    Device,
    Devices,
    Dry,
    Ignore,
    Init,
    Iters,
    Json,
    Lr,
    Method,
    Nodes,
    Out,
    Precision,
    Preset,
    Resume,
    Seed,
    Sets,
    SizeOption,
    Split,
    Student,
    StudentWeights,
    Teacher,
    TeacherWeights,
    Workers,
    flags_of,
)

if TYPE_CHECKING:
    pass


def distill(
    teacher: Teacher = None,
    student: Student = None,
    method: Method = None,
    preset: Preset = None,
    at: At = None,
    data: Data = None,
    classes: Classes = None,
    ignore_index: Ignore = None,
    split: Split = None,
    size: SizeOption = None,
    iters: Iters = None,
    batch: BatchSize = None,
    crop: Crop = None,
    lr: Lr = None,
    seed: Seed = None,
    arch: Arch = None,
    teacher_weights: TeacherWeights = None,
    student_weights: StudentWeights = None,
    init: Init = None,
    workers: Workers = None,
    device: Device = None,
    devices: Devices = None,
    nodes: Nodes = None,
    precision: Precision = None,
    compile: Compile = None,
    out: Out = None,
    resume: Resume = None,
    sets: Sets = None,
    config: ConfigFile = None,
    dry_run: Dry = False,
    json: Json = False,
) -> None:
    """Distil a teacher into a student."""
    flags = flags_of(locals())
    _train(flags, sets, config, preset, method, at, out, resume, workers, dry_run, json)


def train(
    student: Student = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="A published recipe; its method is left out.")
    ] = None,
    data: Data = None,
    classes: Classes = None,
    ignore_index: Ignore = None,
    split: Split = None,
    size: SizeOption = None,
    iters: Iters = None,
    batch: BatchSize = None,
    crop: Crop = None,
    lr: Lr = None,
    seed: Seed = None,
    arch: Arch = None,
    student_weights: StudentWeights = None,
    init: Init = None,
    workers: Workers = None,
    device: Device = None,
    devices: Devices = None,
    nodes: Nodes = None,
    precision: Precision = None,
    compile: Compile = None,
    out: Out = None,
    resume: Resume = None,
    sets: Sets = None,
    config: ConfigFile = None,
    dry_run: Dry = False,
    json: Json = False,
) -> None:
    """Train a network without a teacher: a baseline, or a teacher to be."""
    flags = flags_of(locals())
    _train(flags, sets, config, preset, "none", None, out, resume, workers, dry_run, json)


def _train(
    flags: dict[str, Any], sets: list[str] | None, file: Path | None, preset: str | None, method: str | None,
    at: str | None, out: Path | None, resume: str | None, workers: int | None, dry_run: bool, json: bool,
) -> None:  # fmt: skip
    console.json_mode = json
    if resume is not None:
        others = {"set": sets, "config": file, "preset": preset, "at": at, "out": out, "dry-run": dry_run}
        others |= {name: key in flags and name != "workers" for name, key in _KEYS.items()}
        others["method"] = method not in (None, "none")
        if extra := [f"--{name.replace('_', '-')}" for name, given in others.items() if given]:
            raise UsageError(
                f"--resume takes its settings from the run; only --workers may be given with it, not {', '.join(extra)}"
            )
        from ..job import resume_job

        run = resume_job(None if resume == "" else resume, workers=workers)
    else:
        config = resolve_flags(flags, sets or [], file, preset, method, at)
        if dry_run:
            from ..probe.dry_run import plan

            result = plan(config)
            if json:
                console.emit(result)
            return
        from ..job import run_job

        run = run_job(config, out=out)
    if json:
        console.emit(
            {
                "run": str(run.path),
                "status": run.card.status,
                "best": run.card.miou,
                "teacher": run.card.teacher.to_dict() if run.card.teacher else None,
                "baseline": run.card.baseline,
            }
        )
