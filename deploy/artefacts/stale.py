"""Remove exported files whose source has changed or is gone."""

from collections.abc import Sequence
from pathlib import Path

from ...distill import console
from ...distill.run.files import sha256
from ...distill.run.folder import Run
from .beside import manifest_beside, manifest_path
from .ledger import discard


def discard_stale(run: Run, weights: Sequence[Path]) -> None:
    """Remove what was made from other weights than these, or from a file that has changed, and say it.

    Args:
        run: whose ``export`` folder is looked at.
        weights: the checkpoints that count.
    """
    files = [path for path in run.export.iterdir() if manifest_path(path).exists()]
    origins = {path.name: _origins(path) for path in files}
    named = {run.export / name for each in origins.values() for name in each}
    hashes = {path.name: sha256(path) for path in {*files, *weights, *named} if path.is_file()}

    # an engine of a file that goes now goes too, so until no more go
    stale: list[str] = []
    while changed := [
        name for name in origins if name in hashes and any(hashes.get(k) != v for k, v in origins[name].items())
    ]:
        stale += changed
        hashes = {name: digest for name, digest in hashes.items() if name not in changed}

    if stale:
        discard(run, [run.export / name for name in stale])
        console.warn(f"removed, since made from an earlier network: {', '.join(sorted(stale))}; make them again")


def _origins(path: Path) -> dict[str, str]:
    """Return name and sha256 of the files that a file was made from, as its manifest says."""
    manifest = manifest_beside(path)
    return {each.name: each.sha256 for each in (manifest.source, manifest.onnx) if each and each.sha256}
