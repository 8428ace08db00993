"""One process at a time in a run folder."""

import contextlib
import errno
import fcntl
import io
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakSet

from ..errors import BusyError, UsageError


def lock_folder(path: Path) -> Any:
    """Return the open lock of a run folder; closing it, or the end of the process, frees the folder.

    Raises:
        BusyError: another process holds it.
        UsageError: its lock is a link.
    """
    file = _lock_file(path / ".lock")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise BusyError(
            f"another process works in {path} ({holder(path / '.lock')}); wait for it or name another --out"
        ) from error

    _sign(file)
    _locks.add(file)
    return file


def _sign(file: io.TextIOWrapper) -> None:
    file.truncate(0)
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}\n")
    file.flush()


def sign_lock(path: Path) -> None:
    """Write down in a file who holds a folder, where that can be written."""
    with contextlib.suppress(OSError, UsageError), _lock_file(path) as file:
        _sign(file)


def holder(path: Path) -> str:
    """Return who wrote into a file that they hold a folder: process, host, since when."""
    with contextlib.suppress(OSError, UsageError), _lock_file(path) as file:
        return file.read(200).strip() or "unknown"
    return "unknown"


def _lock_file(path: Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(open_file(path), "utf-8", errors="replace")


def open_file(path: Path) -> BinaryIO:
    """Open a file to read and write, which is made if it is missing.

    Raises:
        UsageError: it is a link, which might lead anywhere.
    """
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b")
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UsageError(f"{path} is a link, and kdc writes nothing through links in a run: remove it") from error


#: the folders that each thread holds
_own = threading.local()
#: the locks of this process
_locks: "WeakSet[Any]" = WeakSet()


def drop_locks() -> None:
    """Close every lock of this process, as a forked child must."""
    for file in _locks:
        file.close()


@contextlib.contextmanager
def held(folder: Path, *, wait: bool, shared: bool = False) -> Iterator[None]:
    """Hold a folder, which is created if it is missing; within, the same thread may hold it again.

    With ``shared`` others may hold it so, too, and none alone.

    Raises:
        BlockingIOError: another process holds it, and ``wait`` is off.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    mine: set[Path] = vars(_own).setdefault("folders", set())
    if folder in mine:
        yield
        return

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:  # some network file systems lock no folder
            pass
        mine.add(folder)
        yield
    finally:
        mine.discard(folder)
        os.close(descriptor)


@contextlib.contextmanager
def free(folder: Path) -> Iterator[None]:
    """Hold a folder that nobody holds; it is neither made nor waited for.

    Raises:
        OSError: it is held, a link, no folder, not to be opened, or on a file system that locks no folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
