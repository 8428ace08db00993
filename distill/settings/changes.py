"""Settings that were changed after a run began: what they are, and which of them a resumed run takes."""

from collections.abc import Iterable
from typing import Any

from ..errors import UsageError
from .config import Config, resolve
from .yaml_files import flatten

#: keys that change nothing of what is trained
HARMLESS = ("train.worker", "train.save_every", "train.log_every", "model.teacher_check", "gates.")
#: keys that a run may go on with otherwise than it began, where that is asked for
POSSIBLE = (*HARMLESS, "train.", "task.", "method.")
#: and the one among them that it may not
FIXED = "method.name"

Changes = dict[str, tuple[Any, Any]]


def changes(before: Config, after: Config) -> Changes:
    """Return the dotted keys in which two configurations differ, each with its value before and after."""
    old, new = (dict(flatten(config.model_dump(mode="json"))) for config in (before, after))
    return {key: (old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)}


def described(differing: Changes) -> str:
    """Return changes as one line: ``train.lr (0.02, now 0.01)``."""
    return ", ".join(f"{key} ({old}, now {new})" for key, (old, new) in differing.items())


def resumed(recorded: Config, edited: Config, sets: Iterable[str]) -> Config:
    """Return the settings that a run goes on with.

    Args:
        recorded: those that it began with.
        edited: those that its config.yaml holds now; of these the harmless ones are taken.
        sets: ``KEY=VALUE`` of the command line, which are taken if a run can go on with them.

    Raises:
        UsageError: the file differs in a setting that is not harmless and not repeated in ``sets``, or one of ``sets``
            cannot be changed.
    """
    sets = list(sets)
    asked = resolve({}, sets, layers=[dict(flatten(recorded.model_dump()))])
    fixed = [key for key in changes(recorded, asked) if not key.startswith(POSSIBLE) or key == FIXED]
    if fixed:
        raise UsageError(f"{', '.join(fixed)} cannot change within a run; begin a new one")

    edits = {key: pair for key, pair in changes(recorded, edited).items() if not key.startswith(HARMLESS)}
    wanted = changes(edited, asked)
    if refused := {key: pair for key, pair in edits.items() if key in wanted}:
        repeated = " ".join(f"--set {key}={new}" for key, (_, new) in refused.items())
        raise UsageError(
            f"config.yaml was edited since the run began: {described(refused)}; change it back, or repeat what you "
            f"want: {repeated}"
        )
    harmless = {key: new for key, (_, new) in changes(recorded, edited).items() if key.startswith(HARMLESS)}
    return resolve({}, sets, layers=[dict(flatten(recorded.model_dump())), harmless])
