"""``kdc distill`` and ``kdc train``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import console
from ..errors import UsageError
from ..settings.layers import resolve_flags
from .flags import At, ConfigFile, Dry, Json, Method, Out, Preset, Resume, Sets, TrainingFlags, takes_training_flags

if TYPE_CHECKING:
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
    json: Json = False,
) -> None:
    """Distil a teacher into a student."""
    _train(Request(flags, sets or [], config, preset, method, at), out, resume, dry_run, json)


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
    json: Json = False,
) -> None:
    """Train a network without a teacher: a baseline, or a teacher to be."""
    _train(Request(flags, sets or [], config, preset, "none", None), out, resume, dry_run, json)


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


def _train(request: Request, out: Path | None, resume: str | None, dry_run: bool, json: bool) -> None:
    console.json_mode = json
    if resume is not None:
        _check_resume(request, out, dry_run)
        from ..job import resume_job

        run = resume_job(resume or None, workers=request.flags.workers)
    elif dry_run:
        from ..probe.dry_run import plan_run

        plan = plan_run(request.config())
        if json:
            console.emit(plan.to_dict())
        return
    else:
        config = request.config()
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


def _check_resume(request: Request, out: Path | None, dry_run: bool) -> None:
    """Refuse flags beside ``--resume`` that would change the run."""
    others = {"set": request.sets, "config": request.file, "preset": request.preset, "at": request.at}
    others |= {"out": out, "dry-run": dry_run}
    others |= {name.replace("_", "-"): True for name in request.flags.names() if name != "workers"}
    others |= {"method": request.method not in (None, "none")}
    if extra := [f"--{name}" for name, value in others.items() if value]:
        raise UsageError(
            f"--resume takes its settings from the run; only --workers may be given with it, not {', '.join(extra)}"
        )
