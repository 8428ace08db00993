"""What a new file makes stale: it is said, or removed where the user wants that."""

from ...distill import console
from ...distill.run.folder import Run
from ...distill.run.stale import stale_files
from .ledger import discard


def tell_stale(run: Run, *, drop: bool) -> None:
    """Say which exported files of a run are stale; with ``drop`` remove them."""
    names = {path: path.name for path in stale_files(run.path)}
    if not names:
        return
    listed = ", ".join(names.values())
    if drop:
        discard(run, list(names))
        console.warn(f"removed, since made from an earlier network: {listed}; make them again")
    else:
        console.warn(
            f"stale, since made from an earlier network: {listed}; they stay until they are made again, or until kdc "
            "export onnx --drop-stale"
        )
