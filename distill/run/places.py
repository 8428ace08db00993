"""Where files are written: first in a new folder of a random name beside their place, and through no link in a run.

A run folder may be anybody's: a link in it would lead what is written elsewhere. Links to the run's folder itself, and
all outside of runs, are the user's own.
"""

import contextlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import UsageError
from .lock import free, held, open_file

#: the file that makes a folder a run; it names the sha256 of the other files, and its own
CARD = "run.json"
#: start of the name of a folder, beside the final file, in which a new file is written
BESIDE = ".kdc-new-"
#: the file in it that says so, and has the mode that the umask gives: a folder without is somebody else's
MARK = ".kdc-new"
#: how older versions named a file that was being written, which ends with the process
_OLD = re.compile(r"\..+\.(\d+)")


def owner_of(path: Path) -> Path | None:
    """Return the folder of the run that a path lies in, if any."""
    return next((folder for folder in path.parents if (folder / CARD).is_file()), None)


def refuse_links(path: Path) -> None:
    """Refuse a place in a run that a link leads out of: a folder on the way to it is one.

    Raises:
        UsageError: with the link, and where it leads.
    """
    for folder in path.absolute().parents:
        if folder.is_symlink() and owner_of(folder):
            raise UsageError(
                f"{folder} is a link to {folder.readlink()}, and kdc writes nothing through links in a run: remove it"
            )


@contextlib.contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Make a folder for a new file on the file system of its place, and remove what killed processes left there.

    Raises:
        UsageError: as ``refuse_links``.
    """
    refuse_links(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    with tempfile.TemporaryDirectory(prefix=BESIDE, dir=path.parent) as name, held(Path(name), wait=True):
        Path(name, MARK).touch()  # once it is held: without a mark nobody removes it
        yield Path(name)


def put(new: Path, path: Path) -> None:
    """Move a file out of ``folder_beside`` to its place; who may read it is as the umask says, whoever wrote it."""
    with contextlib.suppress(FileNotFoundError):
        new.chmod(stat.S_IMODE((new.parent / MARK).stat().st_mode))
    new.replace(path)


def open_in_place(path: Path) -> BinaryIO:
    """Open a file that is written where it is, such as a log, to read and write; it is made if it is missing.

    Raises:
        UsageError: it is a link, or as ``refuse_links``.
    """
    refuse_links(path)
    return open_file(path)


def sweep(folder: Path) -> None:
    """Remove what dead processes left half written in a folder; what a living one writes, and all else, stays.

    Older versions' names end in the number of a process, as files of the user's own may outside of runs.
    """
    in_run = owner_of(folder.absolute() / CARD) is not None
    for path in [Path(entry) for entry in os.scandir(folder) if entry.name.startswith(".")]:
        old = _OLD.fullmatch(path.name)
        with contextlib.suppress(OSError):  # held by a living process, or not ours to open
            if path.name.startswith(BESIDE):
                _remove_abandoned(path)
            elif in_run and old and path.is_file() and not path.is_symlink() and not _lives(int(old[1])):
                path.unlink()


def _remove_abandoned(folder: Path) -> None:
    """Remove a marked folder that no process holds.

    Raises:
        OSError: it is held, a link, no folder, not to be opened, or on a file system that locks no folder.
    """
    with free(folder):
        if (folder / MARK).is_file():
            shutil.rmtree(folder)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's, or no number of a process
        return True
    return True
