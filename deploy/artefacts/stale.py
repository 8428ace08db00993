"""Files that were made from others which are there no more, or no longer as they were."""

from collections.abc import Sequence
from pathlib import Path

from ...distill import console
from ...distill.run.files import sha256
from ...distill.run.folder import Run
from .beside import manifest_beside, manifest_path
from .ledger import discard


def discard_stale(run: Run, weights: Sequence[Path]) -> None:
    """Remove what was made from other weights than these or from a file that is no longer what it was, and say it.

    Args:
        run: whose ``export`` folder is looked at.
        weights: the checkpoints that count.
    """
    files = [path for path in run.export.iterdir() if manifest_path(path).exists()]
    made_from = {path.name: _origins(path) for path in files}
    named = {run.export / name for origins in made_from.values() for name in origins}
    there = {path.name: sha256(path) for path in {*files, *weights, *named} if path.is_file()}
    stale: list[str] = []
    # an engine of a file that goes now goes too, so until nothing more is found
    while found := [
        name for name in made_from if name in there and any(there.get(k) != v for k, v in made_from[name].items())
    ]:
        stale += found
        there = {name: digest for name, digest in there.items() if name not in found}
    if stale:
        discard(run, [run.export / name for name in stale])
        console.warn(f"removed, since made from an earlier network: {', '.join(sorted(stale))}; make them again")


def _origins(path: Path) -> dict[str, str]:
    """Return name and sha256 of the files that a file's manifest says it was made from."""
    try:
        values = manifest_beside(path)
        named = [values.get("source") or {}, values.get("onnx") or {}]
        return {each.get("file") or each["checkpoint"]: each["sha256"] for each in named if each}
    except (AttributeError, KeyError):
        return {}  # kdc did not write it
