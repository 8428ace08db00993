"""Which ONNX files were found good, by the sha256 of their bytes: kept in this process and in a file of the user's.

The file lies below the user's state folder, never in a run or beside the ONNX file, where a stranger could put it. It
counts for nothing where somebody else owns it or may write to it.
"""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

#: what stands for the files beside a file where it needs none
NONE = "-"
#: verdicts that the file keeps, the newest; and the bytes up to which it is read
MOST, LARGEST = 1000, 2**18

_NAME = "onnx-verdicts"
_LINE = re.compile(r"([0-9a-f]{64}) ([0-9a-f]{64}|-)")
_here: dict[str, str] = {}


def recall(key: str, rules: str) -> str | None:
    """Return the digest of what a good file had beside it; None where no good verdict is known.

    Args:
        key: sha256 of the file.
        rules: what a verdict depends on besides the file; one by other rules is not used.
    """
    if key not in _here:
        with contextlib.suppress(OSError), _folder() as folder:
            _here.update(_read(folder, rules))
    return _here.get(key)


def remember(key: str, beside: str, rules: str) -> None:
    """Keep a good verdict in this process and in the user's file; where that cannot be written, in this process only.

    Args:
        key: see ``recall``, as is ``rules``.
        beside: digest of what the file needs beside it, or ``NONE``.
    """
    remember_here(key, beside)
    with contextlib.suppress(OSError), _folder() as folder:
        known = _read(folder, rules)
        known.pop(key, None)  # the newest stands last
        known[key] = beside
        lines = [f"{key} {beside}" for key, beside in known.items()][-MOST:]
        _write(folder, "\n".join([rules, *lines, ""]).encode())


def remember_here(key: str, beside: str = NONE) -> None:
    """Keep a good verdict in this process only."""
    _here[key] = beside


@contextlib.contextmanager
def _folder() -> Iterator[int]:
    """Open the user's state folder of kdc; OSError where there is none that only the user can write to."""
    named = os.environ.get("XDG_STATE_HOME", "")  # to be ignored where it is relative, says its standard
    base = Path(named) if os.path.isabs(named) else Path(os.path.expanduser("~/.local/state"))
    if not base.is_absolute():
        raise FileNotFoundError("the user has no home")
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    (base / "kdc").mkdir(mode=0o700, exist_ok=True)
    folder = os.open(base / "kdc", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _refuse_foreign(os.fstat(folder))
        yield folder
    finally:
        os.close(folder)


def _read(folder: int, rules: str) -> dict[str, str]:
    """Return all verdicts of the file; none where it is missing, foreign, too long, cut off or by other rules."""
    try:
        # without waiting for what is no file
        file = os.open(_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        with open(file, "rb") as opened:
            state = os.fstat(file)
            _refuse_foreign(state)
            if not stat.S_ISREG(state.st_mode):
                return {}
            content = opened.read(LARGEST + 1)
    except OSError:
        return {}
    first, *lines = content.decode("ascii", errors="replace").split("\n")
    matches = [_LINE.fullmatch(line) for line in lines[:-1]]
    if first != rules or len(content) > LARGEST or lines[-1:] != [""] or not all(matches):
        return {}
    return {match[1]: match[2] for match in matches if match}


def _write(folder: int, content: bytes) -> None:
    """Replace the file; of several writers at once the last one wins, and what the others lose is asked again."""
    beside = f".{_NAME}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside, dir_fd=folder)
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    with open(file, "wb") as opened:
        opened.write(content)
    os.replace(beside, _NAME, src_dir_fd=folder, dst_dir_fd=folder)


def _refuse_foreign(state: os.stat_result) -> None:
    if state.st_uid != os.geteuid() or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("somebody else owns it or may write to it")
