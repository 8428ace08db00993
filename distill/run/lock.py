"""One process at a time in a run folder."""

import fcntl
from pathlib import Path
from typing import Any
from weakref import WeakSet

from ..errors import BusyError


def lock_folder(path: Path) -> Any:
    """Return the open lock of a run folder; closing it, or the end of the process, frees the folder.

    Raises:
        BusyError: another process holds it.
    """
    file = (path / ".lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise BusyError(f"another process works in {path}; wait for it or name another --out") from error
    _locks.add(file)
    return file


#: the locks of this process
_locks: "WeakSet[Any]" = WeakSet()


def drop_locks() -> None:
    """Close every lock of this process, as a forked child must."""
    for file in _locks:
        file.close()
