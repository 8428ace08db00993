"""One process at a time in a run folder."""

import fcntl
from pathlib import Path
from typing import Any
from weakref import WeakSet

from ..errors import BusyError


def _locked(path: Path) -> Any:
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


def _drop_locks() -> None:
    for file in _locks:
        file.close()
