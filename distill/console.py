"""Output for people: lines, tables and progress bars on stdout, or on stderr while stdout carries JSON."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, TextIO, TypeVar

from .errors import UsageError

T = TypeVar("T")

#: True while a command runs with ``--json``: stdout then holds one JSON object and nothing else.
json_mode = False
#: True on every process but the first of a distributed run: only rank 0 speaks.
muted = os.environ.get("LOCAL_RANK", "0") != "0"
#: while the Python door is used: whether nothing is printed, and the call
_silent = False
_call: str | None = None


@contextlib.contextmanager
def door(call: str, *, silent: bool) -> Iterator[None]:
    """Run a function of the Python door: ``call`` is recorded as the command, and notes begin anew.

    With ``silent`` nothing is printed; notes and warnings are still kept for the report.
    """
    global _silent, _call, json_mode
    state = _silent, _call, json_mode
    _silent, _call, json_mode = silent, call, False
    earlier, notes[:] = notes[:], []
    try:
        yield
    finally:
        _silent, _call, json_mode = state
        notes[:] = earlier


def command_line() -> list[str]:
    """Return the command that is running, as it was typed, or the call of the Python door."""
    return ["kdc", *sys.argv[1:]] if _call is None else [_call]


def confirmed(question: str) -> bool:
    """Ask a person.

    Raises:
        UsageError: the Python door is used, which asks nothing.
    """
    if _call is not None:
        raise UsageError(f"{_call} would {question}: yes=True says so")
    import typer

    return typer.confirm(question)


def _mute() -> bool:
    return muted or _silent


def _console() -> Any:
    return _console_of(sys.stderr if json_mode else sys.stdout)


@lru_cache(maxsize=2)
def _console_of(stream: TextIO) -> Any:
    """Return the one console of a stream, so that lines go above a bar that is running."""
    from rich.console import Console

    return Console(file=stream, highlight=False, soft_wrap=True)


#: the bars that are running
_bars: list[str] = []
#: lines that the report of the run repeats: choices, skips, downgrades
notes: list[str] = []


def say(text: str = "") -> None:
    """Print one line for people."""
    if not _mute():
        _console().print(text, markup=False)


def note(text: str) -> None:
    """Print one line that the report repeats."""
    notes.append(text)
    say(text)


def warn(text: str) -> None:
    """Print one line that must not be missed; the report repeats it."""
    notes.append(text)
    if not _mute():
        _console().print(f"! {text}", style="bold yellow", markup=False)


def plural(count: int, noun: str) -> str:
    """Return ``"1 run"``, ``"2 runs"``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; the first column is left-aligned, the others right-aligned unless they have no heading."""
    if _mute():
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(columns))
    for i, column in enumerate(columns):
        grid.add_column(column, justify="right" if i and column else "left")
    for row in rows:
        grid.add_row(*(str(cell) for cell in row))

    if title:
        say(title)  # as a separate line: the title of a table is wrapped to the table's width
    console = _console()
    # wider than the terminal if need be: a wide table may wrap there, but loses no digit
    Console(file=console.file, highlight=False, width=max(console.width, 160)).print(grid)


def progress(items: Iterable[T], total: int | None = None, label: str = "") -> Iterator[T]:
    """Yield ``items`` while a bar runs on a terminal; elsewhere, or within another bar, just yield them."""
    console = _console()
    if _mute() or _bars or not console.is_terminal:
        yield from items
        return
    from rich.progress import track

    yield from track(items, description=label, total=total, console=console, transient=True)


@contextlib.contextmanager
def bar(total: int, label: str, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """Give ``update(done, text)`` for long work: a bar on a terminal, about ten lines elsewhere."""
    console = _console()
    if _mute() or not console.is_terminal:
        every = max(total // 10, 1)
        tenth = done // every

        def line(done: int, text: str) -> None:
            nonlocal tenth
            if done // every > tenth or done == total:
                tenth = done // every
                say(f"{label} {done}/{total} {text}")

        yield line
        return

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[text]}"), console=console, transient=True) as progress:
        task = progress.add_task(label, total=total, completed=done, text="")
        _bars.append(label)
        try:
            yield lambda done, text: progress.update(task, completed=done, text=text)
        finally:
            _bars.pop()


def to_json(value: Any) -> str:
    """Return one line of strict JSON; paths become text, and a NaN is an error."""
    return json.dumps(value, allow_nan=False, default=str)


def emit(result: Any) -> None:
    """Print ``result`` as one line of JSON, the last line of stdout."""
    if not _mute():
        sys.stdout.write(to_json(result) + "\n")
        sys.stdout.flush()
