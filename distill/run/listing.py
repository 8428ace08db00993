"""The runs of a folder, and those of its folders that cannot be opened as one."""

from pathlib import Path

from .. import console
from ..errors import UsageError, WeightsError
from .files import CARD
from .folder import RUNS, Run


def all_runs(root: Path | None = None) -> list[Run]:
    """Return the runs of a folder, oldest first; folders without a whole run.json are skipped."""
    return runs_and_refused(root)[0]


def runs_and_refused(root: Path | None = None) -> tuple[list[Run], dict[Path, WeightsError]]:
    """Return the runs of a folder, oldest first, and why which of its folders cannot be opened as one."""
    runs, refused = [], {}
    for path in sorted((root or RUNS).glob(f"*/{CARD}")):
        if not path.parent.is_symlink():
            try:
                runs.append(Run(path.parent))
            except WeightsError as error:
                refused[path.parent] = error
    return sorted(runs, key=lambda run: (run.card.created, run.path.name)), refused


def unfinished_run(root: Path | None = None) -> Run:
    """Return the newest run that is not finished; those that cannot be opened are said and passed over.

    Raises:
        UsageError: there is none.
    """
    runs, refused = runs_and_refused(root)
    for error in refused.values():
        console.warn(f"passed over: {error}")
    for run in reversed(runs):
        if run.card.status != "finished":
            return run
    raise UsageError("no unfinished run to resume; kdc runs ls lists the runs")
