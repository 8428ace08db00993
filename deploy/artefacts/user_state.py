"""The user's state folder of kdc, and files in it that only the user can have written.

It lies below ``$XDG_STATE_HOME`` (``~/.local/state``), never in a run or beside an exported file, where a stranger
could put it.
"""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from ...distill.errors import KdcError


class ExposedError(KdcError):
    """A secret file that others can read or write."""

    exit_code = 4


@contextlib.contextmanager
def state_folder() -> Iterator[int]:
    """Open the folder, which is made if it is missing; OSError where there is none that only the user can write to."""
    path = state_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _refuse_foreign(os.fstat(folder))
        yield folder
    finally:
        os.close(folder)


def state_path() -> Path:
    """Return where the folder is; OSError for a user without a home."""
    named = os.environ.get("XDG_STATE_HOME", "")  # to be ignored where it is relative, says its standard
    base = Path(named) if os.path.isabs(named) else Path(os.path.expanduser("~/.local/state"))
    if not base.is_absolute():
        raise FileNotFoundError("the user has no home")
    return base / "kdc"


def read_own(folder: int, name: str, largest: int, *, secret: bool = False) -> bytes | None:
    """Read a file of ``state_folder``; None where it is missing, no file, too long, or may be written by others.

    Raises:
        ExposedError: of a ``secret``, others may read or write it, or it is theirs.
    """
    try:
        # without waiting for what is no file
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if secret:
            raise ExposedError(f"it is a link or cannot be opened ({error.strerror})") from error
        return None

    with open(file, "rb") as opened:
        state = os.fstat(file)
        if secret and (state.st_uid != os.geteuid() or state.st_mode & 0o077 or not stat.S_ISREG(state.st_mode)):
            raise ExposedError(f"its mode is {stat.S_IMODE(state.st_mode):04o}, so it is not the user's alone")
        try:
            _refuse_foreign(state)
        except PermissionError:
            return None
        content = opened.read(largest + 1) if stat.S_ISREG(state.st_mode) else None
    return None if content is None or len(content) > largest else content


def write_own(folder: int, name: str, content: bytes, *, replace: bool = True) -> None:
    """Put a file into ``state_folder``, whole; of several writers at once the last one wins.

    Raises:
        FileExistsError: it is there, and ``replace`` is off.
        OSError: it cannot be written.
    """
    beside = f".{name}.{secrets.token_hex(8)}"
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    try:
        with open(file, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(file)
        if replace:
            os.replace(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            os.link(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=folder)


def _refuse_foreign(state: os.stat_result) -> None:
    if state.st_uid != os.geteuid() or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("somebody else owns it or may write to it")
