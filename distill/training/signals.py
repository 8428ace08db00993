"""SIGINT and SIGTERM end long work between two steps, not within one."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..errors import KdcError


class SignalledError(KdcError):
    """A signal ended the command."""

    def __init__(self, number: int, then: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}{then}")
        self.exit_code = 128 + number


class Terminated(KeyboardInterrupt):
    """SIGTERM, where nothing waits for it: it ends a command as Ctrl-C does."""


def _terminate(number: int, frame: Any) -> None:
    raise Terminated


def end_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does, so that no child outlives it and open work is put away."""
    with suppress(ValueError):  # not the main thread: signals go elsewhere
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _terminate)


class Signals:
    """SIGINT and SIGTERM, remembered until the step is done."""

    def __enter__(self) -> "Signals":
        self.number = 0
        self._old = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._old[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: signals go elsewhere
                break
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self.number:  # a second one: the user does not want to wait
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        self.number = number

    def __exit__(self, *error: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back while files change their places, for milliseconds; what came is delivered then.

    A blocked signal would not do: threads of native code do not block it, and Python then handles it in this one.
    """
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    old = {number: handler for number, handler in handlers.items() if handler is not None}  # None: not Python's
    try:
        for number in old:
            signal.signal(number, lambda number, _: came.append(number))
    except ValueError:  # not the main thread: signals go elsewhere
        old.clear()
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)
