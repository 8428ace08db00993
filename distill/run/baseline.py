"""The run that a distillation is compared with: the same student, data, start and recipe, without a teacher."""

from pathlib import Path
from typing import Any

from .folder import Run
from .listing import all_runs

#: settings that change the speed of a run, or how often it reports, but not its result
INDIFFERENT = {"teacher_iters", "workers", "worker_timeout", "threads", "save_every", "log_every"}


def find_baseline(run: Run, root: Path | None = None) -> Run | None:
    """Return the newest finished plain training with the student, data, recipe and seed of ``run``."""
    mine = _recipe(run)
    for other in reversed(all_runs(root or run.path.parent)):
        plain = (other.card.kind, other.card.status) == ("train", "finished")
        if plain and _recipe(other) == mine:
            return other
    return None


def _recipe(run: Run) -> tuple[Any, ...]:
    """Return everything that a run and its baseline must have in common."""
    config = run.config
    start = config.model.model_dump(include={"student_weights", "init", "dropout", "preprocess"})
    train = config.train.model_dump(exclude=INDIFFERENT)
    return run.card.data.fingerprint, run.card.student, start, train, config.task
