"""SIGINT and SIGTERM end long work between two steps, not within one."""

import signal
from typing import Any


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
            raise KeyboardInterrupt
        self.number = number

    def __exit__(self, *error: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
