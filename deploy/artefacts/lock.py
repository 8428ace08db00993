"""One command at a time writes into a run's ``export`` folder: two would take each other's files for their own.

Commands that open several files of it one after another read it together, and no command writes meanwhile.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from ...distill import console
from ...distill.errors import BusyError, KdcError
from ...distill.run.folder import Run, find_run
from ...distill.run.lock import held, holder, sign_lock
from .beside import MODEL_FILES, owner

#: the file of a run that says who works in its ``export`` folder
HOLDER = ".export.lock"
Work = TypeVar("Work", bound=Callable[..., Any])


@contextlib.contextmanager
def exporting(run: Run) -> Iterator[None]:
    """Hold the folder; within, the same process may hold it again.

    Raises:
        BusyError: another process holds it, or reads it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(run.export, wait=False))
        except BlockingIOError as error:
            raise BusyError(
                f"another process works in {run.export} ({holder(run.path / HOLDER)}); wait for it and try again"
            ) from error
        sign_lock(run.path / HOLDER)
        yield


@contextlib.contextmanager
def reading(sources: Sequence[str | Path | Run | None]) -> Iterator[None]:
    """Keep the exported files of runs as they are while they are read; an export that is at work is waited for.

    Args:
        sources: runs, files of runs, or others, which are left alone; None is the last run.
    """
    with contextlib.ExitStack() as stack:
        runs = {run.path: run for source in sources if (run := _run_of(source)) and run.export.is_dir()}
        for run in runs.values():
            folder = run.export
            try:
                stack.enter_context(held(folder, wait=False, shared=True))
            except BlockingIOError:
                console.say(f"waiting for another process, which writes into {folder} ({holder(run.path / HOLDER)})")
                stack.enter_context(held(folder, wait=True, shared=True))
            sign_lock(run.path / HOLDER)
        yield


def _run_of(source: str | Path | Run | None) -> Run | None:
    if isinstance(source, Run):
        return source
    with contextlib.suppress(KdcError, OSError):  # the command itself says what is wrong
        is_file = source is not None and Path(source).suffix.lower() in MODEL_FILES
        return owner(cast(Path, source)) if is_file else find_run(source)
    return None


def alone(work: Work) -> Work:
    """Let a function, whose first argument is a run or a file, hold the export folder of that run.

    Raises:
        BusyError: another process holds it, or reads it.
    """

    @functools.wraps(work)
    def working(source: Run | Path, /, *arguments: Any, **settings: Any) -> Any:
        run = source if isinstance(source, Run) else owner(source)
        with exporting(run) if run is not None else contextlib.nullcontext():
            return work(source, *arguments, **settings)

    return cast(Work, working)
