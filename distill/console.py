"""Output for people: lines, tables and progress bars on stdout, or on stderr while stdout carries JSON."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, TextIO, TypeVar

from . import text_table
from .errors import UsageError
from .text_table import visible
from .units import duration

T = TypeVar("T")

#: True while a command runs with ``--json``: stdout then holds one JSON object and nothing else.
json_mode = False
#: True on every process but the first of a distributed run: only rank 0 speaks.
muted = os.environ.get("LOCAL_RANK", "0") != "0"
#: gives the time in seconds
clock: Callable[[], float] = time.monotonic
#: work of so many seconds says its forecast, which takes the time of the first ones
LONG, FIRST = 20.0, 2.0
#: while the Python door is used: whether nothing is printed, and the call
_silent = False
_call: str | None = None


@contextlib.contextmanager
def door(call: str, *, silent: bool) -> Iterator[None]:
    """Run a function of the Python door: ``call`` is recorded as the command, and notes begin anew.

    With ``silent`` nothing is printed; notes and warnings are still kept for the report.
    """
    global _silent, _call, json_mode, _said
    state = _silent, _call, json_mode, _said
    _silent, _call, json_mode, _said = silent, call, False, set()
    earlier, notes[:] = notes[:], []
    try:
        yield
    finally:
        _silent, _call, json_mode, _said = state
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

    return typer.confirm(visible(question))


def _mute() -> bool:
    return muted or _silent


def _console() -> Any:
    stream = sys.stderr if json_mode else sys.stdout
    return _console_of(getattr(stream, "rich_proxied_file", stream))  # a running bar puts itself in its place


@lru_cache(maxsize=2)
def _console_of(stream: TextIO) -> Any:
    """Return the one console of a stream, so that lines go above a bar that is running."""
    from rich.console import Console

    return Console(file=stream, highlight=False, soft_wrap=True, emoji=False)


#: the bars that are running
_bars: list[str] = []
#: lines that the report of the run repeats: choices, skips, downgrades
notes: list[str] = []
#: those that were printed: a second run, file or step that meets the same is told nothing new
_said: set[str] = set()


def say(text: str = "") -> None:
    """Print one line for people."""
    if not _mute():
        _print(text)


def note(text: str) -> None:
    """Print one line that the report repeats; once, however often it holds."""
    _keep(text, text)


def warn(text: str) -> None:
    """Print one line that must not be missed, as ``note``."""
    _keep(text, f"! {text}", style="bold yellow")


def notes_since(first: int) -> list[str]:
    """Return the notes and warnings from the ``first`` on, each once."""
    return list(dict.fromkeys(notes[first:]))


def _keep(text: str, line: str, style: str | None = None) -> None:
    notes.append(text)
    if not _mute() and line not in _said:
        _said.add(line)
        _print(line, style)


def _print(line: str, style: str | None = None, screen: Any = None) -> None:
    """Print one line, which may hold a stranger's words: they are no markup, and no codes for the terminal."""
    (screen or _console()).print(visible(line), style=style, markup=False)


def plural(count: int, noun: str) -> str:
    """Return ``"1 run"``, ``"2 runs"``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table that fits the screen, and after it an empty line; a file gets every row on one line."""
    if _mute():
        return
    console = _console()
    width = console.width if console.is_terminal or "COLUMNS" in os.environ else None
    for line in [*text_table.wrap(visible(title), width), *text_table.lines(columns, rows, width), ""]:
        say(line)


def progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield ``items`` with the bar and the forecast of ``steps``."""
    with steps(total, label) as step:
        for item in items:
            step()
            yield item


@contextlib.contextmanager
def steps(total: int, label: str) -> Iterator[Callable[[], None]]:
    """Give a function to be called before each of ``total`` steps, while a bar runs.

    Where all of them take ``LONG`` or more, as the first ones show, a line says for how long. Elsewhere than on a
    terminal shorter work is not mentioned. Within another bar nothing is shown.
    """
    if _mute() or _bars:
        yield lambda: None
        return

    screen, started, done = _console(), clock(), -1
    long, forecast = screen.is_terminal, False
    with bar(total, label) as show:

        def step() -> None:
            nonlocal long, forecast, done
            done += 1
            if done and not forecast and (passed := clock() - started) >= FIRST:
                forecast = True
                if (seconds := passed / done * total) >= LONG:
                    long = True
                    _print(f"{label}: about {duration(seconds)} for {total}", screen=screen)
            if long and 0 < done < total:
                show(done, "")

        yield step


@contextlib.contextmanager
def bar(total: int, label: str, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """Give ``update(done, text)`` for long work: a bar on a terminal, about ten lines elsewhere."""
    shown = _lines if _mute() or not _console().is_terminal else _drawn
    _bars.append(label)
    try:
        with shown(total, label, done) as show:
            yield show
    finally:
        _bars.pop()


@contextlib.contextmanager
def _lines(total: int, label: str, done: int) -> Iterator[Callable[[int, str], None]]:
    every = max(total // 10, 1)
    tenth, screen = done // every, _console()

    def line(done: int, text: str) -> None:
        nonlocal tenth
        if done // every > tenth or done == total:
            tenth = done // every
            if not _mute():
                _print(f"{label} {done}/{total} {text}".rstrip(), screen=screen)

    yield line


@contextlib.contextmanager
def _drawn(total: int, label: str, done: int) -> Iterator[Callable[[int, str], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    words = [TextColumn(f"{{task.{part}}}", markup=False) for part in ("description", "fields[text]")]
    with Progress(words[0], *columns, words[1], console=_console(), transient=True) as progress:
        task = progress.add_task(visible(label), total=total, completed=done, text="")
        yield lambda done, text: progress.update(task, completed=done, text=visible(text))


def to_json(value: Any) -> str:
    """Return one line of strict JSON; paths become text, and a NaN is an error."""
    return json.dumps(value, allow_nan=False, default=str)


def emit(result: Any) -> None:
    """Print ``result`` as one line of JSON, the last line of stdout."""
    if not _mute():
        sys.stdout.write(to_json(result) + "\n")
        sys.stdout.flush()
