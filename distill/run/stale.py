"""What was made from a file that has changed since: it stays, and is told apart, until it is made again or dropped."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .places import owner_of
from .seal import RunCheck, digest_of

#: the folders of a run with exported files and with checkpoints
EXPORT, CHECKPOINTS = "export", "checkpoints"


def stale_files(run: Path) -> dict[Path, str]:
    """Return the exported files of a run that are stale, and the name of what each was made from.

    Their manifests name the sha256 of what they were made from, which is compared with the file of that name as it is
    now. What was made from a stale file is stale, too. A file that is gone tells nothing.
    """
    origins = {path: dict(_origins(path, run)) for path in _described(run)}
    stale: dict[Path, str] = {}
    while found := {
        path: origin.name
        for path, known in origins.items()
        for origin, digest in known.items()
        if path not in stale and (origin in stale or digest_of(origin) not in (digest, None))
    }:
        stale |= found
    return dict(sorted(stale.items()))


def stale(path: Path) -> str:
    """Return the name of what a file was made from, if that has changed since; an empty text for any other file."""
    path = path.parent.resolve() / path.name
    run = owner_of(path)
    return stale_files(run).get(path, "") if run is not None and path.parent == run / EXPORT else ""


def is_stale(name: str, origin: str) -> str:
    """Say that a file is stale, and what can be done."""
    cure = "make it again, or remove what is stale: kdc export onnx --drop-stale"
    return f"{name} is stale: it was made from an earlier {origin}; {cure}"


def refuse_stale(path: Path) -> None:
    """Refuse to make something of a stale file.

    Raises:
        UsageError: it is one.
    """
    if origin := stale(path):
        raise UsageError(is_stale(str(path), origin))


def marked(check: RunCheck) -> RunCheck:
    """Add to a comparison of a run with its seal what is stale."""
    old = {str(path.relative_to(check.path)): origin for path, origin in stale_files(check.path).items()}
    return replace(check, files=[replace(file, stale=old.get(file.name)) for file in check.files])


def _described(run: Path) -> Iterator[Path]:
    """Return the exported files that have a manifest."""
    for manifest in sorted((run / EXPORT).glob("*.json")):
        if (path := manifest.with_suffix("")).is_file():
            yield path


def _origins(path: Path, run: Path) -> Iterator[tuple[Path, str]]:
    """Return the place and the sha256 of what a file was made from, as its manifest has it."""
    try:
        values: Any = json.loads(path.with_name(f"{path.name}.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return
    for key in ("source", "onnx"):
        origin = values.get(key) if isinstance(values, dict) else None
        for part, folder in (("file", EXPORT), ("checkpoint", CHECKPOINTS)):
            name, digest = (origin.get(part), origin.get("sha256")) if isinstance(origin, dict) else (None, None)
            if isinstance(name, str) and isinstance(digest, str) and name == Path(name).name:
                yield run / folder / name, digest
