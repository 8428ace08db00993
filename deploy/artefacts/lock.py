"""One command at a time writes into a run's ``export`` folder: two would take each other's files for their own."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from ...distill.errors import BusyError
from ...distill.run.folder import Run
from ...distill.run.lock import held
from .beside import owner

Work = TypeVar("Work", bound=Callable[..., Any])


@contextlib.contextmanager
def exporting(run: Run) -> Iterator[None]:
    """Hold the folder; within, the same process may hold it again.

    Raises:
        BusyError: another process holds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(run.export, wait=False))
        except BlockingIOError as error:
            raise BusyError(f"another process writes into {run.export}; wait for it and try again") from error
        yield


def alone(work: Work) -> Work:
    """Let a function, whose first argument is a run or a file, hold the export folder of that run.

    Raises:
        BusyError: another process holds it.
    """

    @functools.wraps(work)
    def working(source: Run | Path, /, *arguments: Any, **settings: Any) -> Any:
        run = source if isinstance(source, Run) else owner(source)
        with exporting(run) if run is not None else contextlib.nullcontext():
            return work(source, *arguments, **settings)

    return cast(Work, working)
