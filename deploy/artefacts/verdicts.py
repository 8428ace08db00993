"""Which ONNX files were found good, by the sha256 of their bytes: kept in this process and in a file of the user's.

The file lies below the user's state folder, never in a run or beside the ONNX file, where a stranger could put it. It
counts for nothing where somebody else owns it or may write to it.
"""

import contextlib
import re

from .user_state import read_own, state_folder, write_own

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
        with contextlib.suppress(OSError), state_folder() as folder:
            _here.update(_read(folder, rules))
    return _here.get(key)


def remember(key: str, beside: str, rules: str) -> None:
    """Keep a good verdict in this process and in the user's file; where that cannot be written, in this process only.

    Args:
        key: see ``recall``, as is ``rules``.
        beside: digest of what the file needs beside it, or ``NONE``.
    """
    remember_here(key, beside)
    with contextlib.suppress(OSError), state_folder() as folder:
        known = _read(folder, rules)
        known.pop(key, None)  # the newest stands last
        known[key] = beside
        lines = [f"{key} {beside}" for key, beside in known.items()][-MOST:]
        write_own(folder, _NAME, "\n".join([rules, *lines, ""]).encode())  # what another writer loses is asked again


def remember_here(key: str, beside: str = NONE) -> None:
    """Keep a good verdict in this process only."""
    _here[key] = beside


def _read(folder: int, rules: str) -> dict[str, str]:
    """Return all verdicts of the file; none where it is missing, foreign, too long, cut off or by other rules."""
    content = read_own(folder, _NAME, LARGEST)
    if content is None:
        return {}
    first, *lines = content.decode("ascii", errors="replace").split("\n")
    matches = [_LINE.fullmatch(line) for line in lines[:-1]]
    if first != rules or lines[-1:] != [""] or not all(matches):
        return {}
    return {match[1]: match[2] for match in matches if match}
