"""Files that are whole or absent: written under another name, flushed, renamed; and run.json, which seals them."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from ... import __version__
from ..errors import WeightsError, one_line
from .lock import held
from .places import CARD, folder_beside, owner_of, put
from .room import needing

#: what this process wrote, or removed, in runs
changed: set[Path] = set()


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file so that a kill at any moment leaves the old one or the new one, whole."""
    with replacing(path, len(content)) as beside:
        beside.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file as ``write_bytes`` does."""
    write_bytes(path, (json.dumps(value, indent=1, default=str) + "\n").encode())


@contextlib.contextmanager
def replacing(path: Path, size: int = 0) -> Iterator[Path]:
    """Give a file to write to in a new folder beside ``path``; then flush it to disk and rename it over ``path``.

    A link that is there is replaced, not followed; a link to the folder that it is in, within a run, is refused.

    Args:
        path: the file.
        size: bytes that it needs, about.

    Raises:
        ResourceError: there is no room for them.
    """
    with folder_beside(path) as folder, needing(folder, size):
        new = folder / path.name
        yield new
        flush(new)
        move(new, path)


def move(source: Path, path: Path) -> None:
    """Put a file of ``folder_beside`` in its place, which no seal vouches for any more; it is on the disk then."""
    unseal(path)
    put(source, path)
    flush(path.parent)


def remove(path: Path) -> None:
    """Remove a file, and its place in the seal of its run; a missing one is no error."""
    unseal(path)
    path.unlink(missing_ok=True)


def unseal(path: Path) -> None:
    """Take a file that is about to change out of the seal of its run, so that a kill leaves no seal that is wrong."""
    path = path.parent.resolve() / path.name
    folder = owner_of(path)
    if folder is None or path.name == CARD:
        return
    changed.add(path)
    with held(folder, wait=True):
        card, name = read_card_file(folder), str(path.relative_to(folder))
        if name in (card.get("files") or {}):
            write_card(folder, card | {"files": {key: value for key, value in card["files"].items() if key != name}})


def read_card_file(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """Return run.json as it is on disk.

    Raises:
        WeightsError: it cannot be read; or, with ``verify``, it was changed since kdc wrote it.
    """
    try:
        card = json.loads((folder / CARD).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{folder} is not a run folder: its {CARD} cannot be read ({one_line(error)})") from error
    if not isinstance(card, dict):
        raise WeightsError(f"{folder} is not a run folder: its {CARD} holds no JSON object")
    sealed = card.get("files") or {}
    if not isinstance(sealed, dict) or not all(isinstance(value, str) for value in sealed.values()):
        raise WeightsError(f"{folder / CARD}: its files are no names with their hashes; put it back from a copy")
    if verify and card.get("sha256", card_digest(card)) != card_digest(card):
        raise WeightsError(
            f"{folder / CARD} was changed since kdc wrote it: undo that, or accept it: kdc runs check {folder} --accept"
        )
    return card


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Replace run.json; ``sha256`` in it is its own digest."""
    write_json(folder / CARD, card | {"sha256": card_digest(json.loads(json.dumps(card, default=str)))})


def card_digest(card: dict[str, Any]) -> str:
    """Return the sha256 of the canonical form of run.json: sorted keys, no spaces, without ``sha256`` itself."""
    rest = {key: value for key, value in card.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def flush(path: Path) -> None:
    """See that the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of the packages that the numbers of a run depend on."""
    names = (
        "torch",
        "torchvision",
        "timm",
        "lightning-fabric",
        "numpy",
        "opencv-python-headless",
        "opencv-python",
        "onnx",
        "onnxruntime",
    )
    installed = {"kdc": __version__, "python": sys.version.split()[0]}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def commit() -> str | None:
    """Return the commit of kdc's own sources; None where it is installed without, or git is not."""
    describe = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError):
        return subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip() or None
    return None
