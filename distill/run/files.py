"""Files that are either whole or absent: written under another name, flushed, renamed."""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from ... import __version__


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file so that a kill at any moment leaves the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file as ``write_bytes`` does."""
    write_bytes(path, (json.dumps(value, indent=1, default=str) + "\n").encode())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside ``path`` to write to; then flush it to disk and rename it over ``path``."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        flush(beside)
        beside.replace(path)
        flush(path.parent)
    finally:
        beside.unlink(missing_ok=True)


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
