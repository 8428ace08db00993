"""The manifest of an exported file: what it is and what it was made from, bound to it by its hash."""

import contextlib
from pathlib import Path
from typing import Any

from ...distill.errors import UsageError, WeightsError
from ...distill.run.files import sha256, versions
from ...distill.run.folder import Run
from .beside import manifest_beside, owner, weights_beside


def manifest_of(path: Path) -> dict[str, Any]:
    """Return what the manifest beside a file says; empty where there is none or it is not of this very file."""
    values, weights = manifest_beside(path), weights_beside(path)
    with contextlib.suppress(OSError):
        if values.get("sha256") == sha256(path) and (
            weights is None or values.get("weights", {}).get("sha256") == sha256(weights)
        ):
            return values
    return {}


def run_of(path: Path) -> Run:
    """Return the run that a file belongs to.

    Raises:
        WeightsError: there is no such file.
        UsageError: it belongs to none, so that there are no images to prove anything on.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist")
    if (run := owner(path)) is None:
        raise UsageError(f"{path} lies in no run folder, so there are no images to prove the result on; name the run")
    return run


def describe(path: Path, kind: str, precision: str, **facts: Any) -> dict[str, Any]:
    """Return the beginning of a manifest: the file, its hash, its size and what made it."""
    values: dict[str, Any] = {"file": path.name, "sha256": sha256(path), "kind": kind, "precision": precision}
    size = path.stat().st_size
    if (weights := weights_beside(path)) is not None:
        values |= {"weights": {"file": weights.name, "sha256": sha256(weights)}}
        size += weights.stat().st_size
    return values | {"bytes": size, **facts, "versions": versions()}
