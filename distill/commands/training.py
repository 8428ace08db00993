"""``kdc distill`` and ``kdc train``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ResourceError, UsageError, lacks_memory, one_line
from ..run.records import Record
from ..settings.layers import resolve_flags
from .flags import At, ConfigFile, Dry, Method, Out, Preset, Resume, Sets, TrainingFlags, takes_training_flags

if TYPE_CHECKING:
    from ..probe.records import RunPlan
    from ..run.card import TeacherCard
    from ..run.folder import Run
    from ..settings.config import Config


@takes_training_flags(before="out")
def distill(
    flags: TrainingFlags,
    method: Method = None,
    preset: Preset = None,
    at: At = None,
    out: Out = None,
    resume: Resume = None,
    sets: Sets = None,
    config: ConfigFile = None,
    dry_run: Dry = False,
) -> "TrainingResult | RunPlan":
    """Distil a teacher into a student."""
    return _train(Request(flags, sets or [], config, preset, method, at), out, resume, dry_run)


@takes_training_flags(before="out", without=("teacher", "teacher_weights"))
def train(
    flags: TrainingFlags,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="A published recipe; its method is left out.")
    ] = None,
    out: Out = None,
    resume: Resume = None,
    sets: Sets = None,
    config: ConfigFile = None,
    dry_run: Dry = False,
) -> "TrainingResult | RunPlan":
    """Train a network without a teacher: a baseline, or a teacher to be."""
    return _train(Request(flags, sets or [], config, preset, "none", None), out, resume, dry_run)


@dataclass(frozen=True)
class Request:
    """The settings that a command line asks for, before they are layered."""

    flags: TrainingFlags
    sets: list[str]
    file: Path | None
    preset: str | None
    method: str | None
    at: str | None

    def config(self) -> "Config":
        """Return every setting of the run."""
        return resolve_flags(self.flags.settings(), self.sets, self.file, self.preset, self.method, self.at)


@dataclass(frozen=True)
class TrainingResult(Record):
    """A run that was trained; ``best`` is the mIoU of its best weights on the validation split, 0 to 1."""

    run: Path
    status: str | None
    best: float | None
    teacher: "TeacherCard | None"
    baseline: str | None


def _train(request: Request, out: Path | None, resume: str | None, dry_run: bool) -> "TrainingResult | RunPlan":
    if resume is not None:
        _check_resume(request, out, dry_run)
        from ..job import resume_job

        run = resume_job(resume or None, workers=request.flags.workers, sets=request.sets)
    elif dry_run:
        from ..probe.dry_run import plan_run

        return plan_run(request.config())
    else:
        run = _run(request.config(), out)

    return TrainingResult(run.path, run.card.status, run.card.miou, run.card.teacher, run.card.baseline)


def _run(config: "Config", out: Path | None) -> "Run":
    """Train; where memory runs out, say what fits."""
    from ..job import run_job
    from ..probe.fitting import free_memory, what_fits

    free = free_memory(config)
    try:
        return run_job(config, out=out)
    except Exception as error:
        if not lacks_memory(error):
            raise
        height, width = config.train.crop
        at = f"--batch {config.train.batch} --crop {height}x{width}"
        raise ResourceError(f"out of memory at {at} ({one_line(error)}); {what_fits(config, free)}") from error


def _check_resume(request: Request, out: Path | None, dry_run: bool) -> None:
    """Refuse flags beside ``--resume`` that would make another run."""
    others = {"config": request.file, "preset": request.preset, "at": request.at}
    others |= {"out": out, "dry-run": dry_run}
    others |= {name.replace("_", "-"): True for name in request.flags.names() if name != "workers"}
    others |= {"method": request.method not in (None, "none")}
    if extra := [f"--{name}" for name, value in others.items() if value]:
        raise UsageError(
            f"--resume takes its settings from the run; only --workers and --set may be given with it, not "
            f"{', '.join(extra)}"
        )
