"""Work that overlaps: frames decoded ahead of the network and written behind it, in threads with bounded queues."""

import contextlib
import queue
import threading
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
#: frames that may wait on each side of the network
DEPTH = 4
_END: Any = object()
#: seconds between two looks of a waiting thread at whether it has to end
_TURN = 0.2


class Ahead(Generic[T]):
    """Items produced in a thread of their own, up to ``DEPTH`` ahead of the consumer.

    Attributes:
        dropped: how many were thrown away, the oldest first, because they were not taken in time.
    """

    def __init__(self, items: Generator[T], hurried: Callable[[T], bool], stopped: Callable[[], bool]) -> None:
        """Take ``items``, which are closed in the end.

        Args:
            items: where the items come from.
            hurried: whether an item replaces the oldest one instead of waiting for a place in the queue.
            stopped: asked while no item comes; True ends the iteration.
        """
        self._items, self._hurried, self._stopped = items, hurried, stopped
        self._queue: queue.Queue[T] = queue.Queue(DEPTH)
        self._left = threading.Event()
        self._error: BaseException | None = None
        self.dropped = 0

    def __iter__(self) -> Generator[T]:
        thread = threading.Thread(target=self._make, name="decode", daemon=True)
        thread.start()
        try:
            while not self._stopped():
                try:
                    item = self._queue.get(timeout=_TURN)
                except queue.Empty:
                    continue
                if item is _END:
                    break
                yield item
            if self._error is not None:
                raise self._error
        finally:
            self._left.set()
            thread.join(timeout=5)  # a camera that hangs must not keep the program from ending

    def _make(self) -> None:
        try:
            with contextlib.closing(self._items):
                for item in self._items:
                    if self._hurried(item):
                        self._make_room()
                    if not self._put(item):
                        return
        except BaseException as error:  # noqa: BLE001 - it is raised again where the items are taken
            self._error = error
        self._put(_END)

    def _make_room(self) -> None:
        if self._queue.full():
            with contextlib.suppress(queue.Empty):
                self._queue.get_nowait()
                self.dropped += 1

    def _put(self, item: T) -> bool:
        while not self._left.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=_TURN)
                return True
        return False


class Behind(Generic[T]):
    """A function called in a thread of its own, up to ``DEPTH`` items behind the caller, who gets its error later."""

    def __init__(self, work: Callable[[T], None]) -> None:
        self._work = work
        self._queue: queue.Queue[T] = queue.Queue(DEPTH)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="write", daemon=True)
        self._thread.start()

    def __call__(self, item: T) -> None:
        """Hand over an item; wait where ``DEPTH`` of them wait already."""
        if self._error is not None:
            raise self._error
        self._queue.put(item)

    def close(self) -> None:
        """Wait until all is done."""
        self._queue.put(_END)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (item := self._queue.get()) is not _END:
            if self._error is None:  # after an error the rest is taken without work, so that no caller waits for ever
                try:
                    self._work(item)
                except BaseException as error:  # noqa: BLE001 - it is raised again where the items come from
                    self._error = error
