"""The seal of a run: the sha256 of every file that kdc wrote into it, looked at where such a file is opened.

A hash beside a file shows that the file changed. It does not show who wrote either of them.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..errors import KdcError, WeightsError, one_line
from .files import card_digest, changed, read_card_file, sha256, write_card
from .lock import held
from .places import CARD, owner_of
from .records import Record

#: files that were found whole by this process, and when they had been written
_checked: dict[Path, tuple[int, int, int]] = {}
#: the sha256 of files that no seal names, and when they had been written
_unsealed: dict[Path, tuple[tuple[int, int, int], str]] = {}
#: a file that was written so many seconds ago may be written again without its time telling
_RECENT = 1.0


def check_sealed(path: Path) -> None:
    """Check a file against the seal of the run that it is in; what no seal names passes.

    A file is read once per process, as long as it stays as it was.

    Raises:
        WeightsError: it was changed since kdc wrote it.
    """
    path = Path(path).resolve()
    folder = owner_of(path)
    if folder is None or not path.is_file():
        return
    digest = read_card_file(folder).get("files", {}).get(str(path.relative_to(folder)))
    if digest is None:
        return

    state = path.stat()
    signature = (state.st_ino, state.st_size, state.st_mtime_ns)
    if _checked.get(path) == signature:
        return
    if sha256(path) != digest:
        raise WeightsError(
            f"{path} was changed since kdc wrote it (its sha256 is not the one in run.json): put it back from a copy "
            f"or make it again; kdc runs check {folder} lists what changed, and with --accept takes it as it is"
        )
    if time.time() - state.st_mtime > _RECENT:
        _checked[path] = signature


def digest_of(path: Path) -> str | None:
    """Return the sha256 of a file: as its run has sealed it, else as it is; None where it is gone."""
    path = Path(path).resolve()
    if not path.is_file():
        return None
    folder = owner_of(path)
    sealed = read_card_file(folder, verify=False).get("files") if folder else None
    digest = sealed.get(str(path.relative_to(folder))) if folder and isinstance(sealed, dict) else None
    if digest is None:
        state = path.stat()
        signature = (state.st_ino, state.st_size, state.st_mtime_ns)
        known = _unsealed.get(path)
        digest = known[1] if known and known[0] == signature else sha256(path)
        _unsealed[path] = signature, digest
    return digest


def seal(folder: Path, *, everything: bool = False) -> None:
    """Record the sha256 of the files that this process wrote into a run, or of all that are in it.

    Raises:
        WeightsError: run.json was changed or cannot be read.
    """
    with held(folder, wait=True):
        card = read_card_file(folder)
        sealed = dict(card.get("files") or {})
        for path in _files(folder) if everything else {path for path in changed if folder in path.parents}:
            name = str(path.relative_to(folder))
            try:
                sealed[name] = sha256(path)
            except FileNotFoundError:  # removed since
                sealed.pop(name, None)
        write_card(folder, card | {"files": dict(sorted(sealed.items()))})


@contextlib.contextmanager
def sealing() -> Iterator[None]:
    """Seal, at the end of a command, what it wrote into any run; a file that cannot be sealed is just not known."""
    try:
        yield
    finally:
        for folder in {folder for path in changed if (folder := owner_of(path))}:
            with contextlib.suppress(WeightsError, OSError):
                seal(folder)
        changed.clear()


@dataclass(frozen=True)
class FileState(Record):
    """A file of a run: ``whole``, ``changed``, ``missing``, or ``unknown`` to the seal.

    ``stale`` names what it was made from, where that has changed since.
    """

    OPTIONAL: ClassVar = ("stale",)

    name: str
    state: str
    stale: str | None = None


@dataclass(frozen=True)
class RunCheck(Record):
    """A run compared with its seal; run.json, which holds the seal, comes first."""

    path: Path
    files: list[FileState]

    #: of the states that are no fault
    FINE: ClassVar = ("whole", "unknown")

    @property
    def faults(self) -> list[FileState]:
        """The files that are missing or were changed."""
        return [file for file in self.files if file.state not in self.FINE]


def check_run(folder: Path) -> RunCheck:
    """Compare every file of a run with its seal.

    Raises:
        WeightsError: there is no run.json that can be read.
    """
    card = read_card_file(folder, verify=False)
    sealed: dict[str, str] = card.get("files") or {}
    own = "unknown" if "sha256" not in card else "whole" if card["sha256"] == card_digest(card) else "changed"

    present = {str(path.relative_to(folder)): path for path in _files(folder)}
    states = dict.fromkeys(present, "unknown") | {name: "missing" for name in sealed if name not in present}
    for name in sealed.keys() & present.keys():
        states[name] = "whole" if sha256(present[name]) == sealed[name] else "changed"
    return RunCheck(folder, [FileState(CARD, own), *(FileState(name, states[name]) for name in sorted(states))])


@contextlib.contextmanager
def blaming(folder: Path) -> Iterator[None]:
    """Put what goes wrong within on the records of a run that are not as kdc wrote them, where there are any.

    Raises:
        WeightsError: names them.
    """
    try:
        yield
    except (KdcError, OSError, MemoryError):
        raise
    except Exception as error:
        states = check_run(folder).files
        odd = [file.name for file in states if file.state != "whole" and file.name.endswith((".json", ".jsonl"))]
        if not odd:
            raise
        raise WeightsError(
            f"{folder} holds what cannot be read ({one_line(error)}), and these are not as kdc wrote them: "
            f"{', '.join(odd)}; put them back from a copy, or make them again"
        ) from error


def accept(folder: Path) -> None:
    """Seal a run as it is."""
    card = read_card_file(folder, verify=False)
    write_card(folder, card | {"files": {}})
    seal(folder, everything=True)


def _files(folder: Path) -> list[Path]:
    """Return the files of a run but run.json; what begins with a dot is a lock, or being written."""
    files = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path != folder / CARD:
            files.append(path)
    return files
