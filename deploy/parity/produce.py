"""The one road of every new file: write it beside, gate it there, then put it in place with all that belongs to it."""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from ...distill import console
from ...distill.errors import NumbersError, UsageError
from ...distill.run.files import flush, move, remove
from ...distill.run.folder import Run
from ...distill.run.lock import held
from ...distill.run.places import folder_beside
from ...distill.run.records import Record
from ...distill.run.room import needing
from ...distill.run.stale import refuse_stale
from ...distill.training.signals import held_back
from ..artefacts.beside import NATIVE, artefact_bytes, golden_path, manifest_path, weights_beside
from ..artefacts.drop import tell_stale
from ..artefacts.ledger import discard, read_gates, stage_of, strike, write_gate
from ..artefacts.manifest import Manifest, write_manifest
from ..artefacts.signature import signing_key
from ..runtimes.open import open_runtime
from .gate import gate
from .golden import write_golden
from .result import GateResult
from .tolerances import Tolerances

if TYPE_CHECKING:
    from ...distill.data import Dataset

M = TypeVar("M", bound=Manifest)


@dataclass(frozen=True)
class Trial:
    """How a new file is gated.

    Attributes:
        reference: what it is compared with: a checkpoint or an ONNX file.
        limits: what it may differ by.
        cure: what helps a file that fails, for the message.
        images: validation images; None for all.
        device: "cpu" or "cuda", which it runs on.
        left_high: of a calibrated file, for the ledger; see ``GateRow``.
        data: images of a file that belongs to no run; without them it is not gated.
    """

    reference: Path
    limits: Tolerances
    cure: str
    images: int | None = 16
    device: str = "cpu"
    left_high: Sequence[str] | None = None
    data: "Dataset | None" = None


@dataclass(frozen=True)
class Ran(Record):
    """What really ran at the gate; ``layers`` counts them by type, where the runtime tells."""

    OPTIONAL: ClassVar = ("layers",)

    provider: str
    precision: str
    layers: dict[str, int] | None


@dataclass(frozen=True)
class Product(Generic[M]):
    """A new file in its place; ``gate`` is None where this machine cannot run it, or where it belongs to no run."""

    path: Path
    manifest: M
    gate: GateResult | None


def images_of(file: Path, run: Run | None, data: str | None, split: str = "val") -> "Dataset":
    """Open the images that what is made of a file is gated on: of the named data, or of its run.

    Raises:
        UsageError: neither is known.
        DataError: as ``open_data``.
    """
    from ...distill.data import open_data

    if data is not None:
        return open_data(data, split)
    if run is None:
        raise UsageError(f"{file} is in no run, so its data are unknown; name them: --data NAME|DIR")
    return run.open_data(run.config.data.split)


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, before minutes of work (UsageError)."""
    there = next(each for each in (folder.resolve(), *folder.resolve().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UsageError(f"{folder} cannot be written to; name another folder: --out DIR")


def produce(
    run: Run | None,
    path: Path,
    write: Callable[[Path], M],
    trial: Trial | None = None,
    *,
    drop_stale: bool = False,
) -> Product[M]:
    """Write a file, gate it, and only then replace the one of that name, with manifest, golden image and ledger row.

    Until then the earlier file stays as it was: a failed gate, an error, Ctrl-C or a kill cost nothing.

    Args:
        run: whose file it is; None for a file outside of any run, whose gate has no ledger.
        path: where it goes.
        write: writes it where it is told to, under its final name, and returns its manifest.
        trial: how it is gated.
        drop_stale: remove what is stale then, see ``distill.run.stale``; else it is only said.

    Raises:
        NumbersError: the gate failed.
        WeightsError: the ledger is broken, or the user's signing key cannot be used.
        KdcError: whatever ``write`` raises.
    """
    with folder_beside(path) as folder:
        # what can be refused, before minutes of work
        if run:
            read_gates(run)
        if path.suffix.lower() in NATIVE:
            signing_key()
        if trial:
            refuse_stale(trial.reference)
        dataset = trial and (trial.data or (run and run.open_data(run.config.data.split)))

        new = folder / path.name
        with needing(folder, artefact_bytes(trial.reference) if trial else 0):
            manifest = write(new)
        write_manifest(new, manifest)  # native code is not opened without

        result: GateResult | None = None
        if trial and dataset is not None and manifest.runs_here:
            result, ran = _gate_file(new, trial, dataset)
            _refuse_failed(run, path, result, trial)
            console.say(f"gate {stage_of(path)}: passed, {result.line()}")
            manifest = manifest.with_gate(result, ran)
            write_manifest(new, manifest)
            if result.golden is not None:
                write_golden(new, result.golden, path.parent)

        _put_in_place(run, new, path, result, trial)

    if run:
        tell_stale(run, drop=drop_stale)
        run.remember_command()
        run.seal()
    return Product(path, manifest, result)


def gate_present(run: Run, path: Path, manifest: M, trial: Trial) -> Product[M]:
    """Gate a file of a run that is in its place already; give it what belongs to it, or remove it.

    Raises:
        NumbersError: the gate failed.
        WeightsError: the ledger is broken.
    """
    read_gates(run)
    result, ran = _gate_file(path, trial, run.open_data(run.config.data.split))
    if not result.passed:
        discard(run, [path])
    _refuse_failed(run, path, result, trial)
    console.say(f"gate {stage_of(path)}: passed, {result.line()}")

    manifest = manifest.with_gate(result, ran)
    with held_back():
        write_gate(run, stage_of(path), result, path.name, trial.left_high)
        if result.golden is not None:
            write_golden(path, result.golden)
        write_manifest(path, manifest)
    run.remember_command()
    run.seal()
    return Product(path, manifest, result)


def not_kept(path: Path) -> str:
    """Say what became of a file that failed, and of the one that it was to replace."""
    stays = f"; the earlier {path.name} stays" if path.is_file() else ""
    return f"was not kept{stays}"


def _gate_file(new: Path, trial: Trial, dataset: "Dataset") -> tuple[GateResult, Ran]:
    with open_runtime(new, device=trial.device) as candidate:
        with open_runtime(trial.reference, size=candidate.spec.size) as trusted:
            result = gate(trusted, candidate, dataset, trial.limits, images=trial.images)
        return result, Ran(candidate.provider, candidate.precision, getattr(candidate, "layers", None) or None)


def _refuse_failed(run: Run | None, path: Path, result: GateResult, trial: Trial) -> None:
    if result.passed:
        return
    failure = f"{path.name} did not pass its gate and {not_kept(path)}: {'; '.join(result.reasons)}"
    if run is None:
        pass
    elif path.is_file():  # its row of the ledger is about itself, and stays with it
        run.extend(notes=[failure])
    else:
        write_gate(run, stage_of(path), result, path.name, trial.left_high)
    raise NumbersError(f"{failure}; {trial.cure}")


def _put_in_place(run: Run | None, new: Path, path: Path, result: GateResult | None, trial: Trial | None) -> None:
    """Replace the earlier file with all that belongs to it: the ledger row first, the manifest last.

    Ctrl-C comes before or after. What can fail comes first: a full disk at the ledger leaves the earlier file and its
    row, and what follows are renames of files that are on the disk. A kill in between leaves nothing that claims too
    much, for what vouches for a file names its hash: the row is about the new file, the golden image and the manifest
    are about the earlier one until they are replaced. So a file that is there in part counts as not gated, its native
    code is not run, and the next export replaces it.
    """
    moves = [(new, path), (manifest_path(new), manifest_path(path))]
    weights, final = weights_beside(new), weights_beside(path)
    if weights is not None and final is not None:
        moves.insert(0, (weights, final))
    if golden_path(new).is_file():
        moves.insert(-1, (golden_path(new), golden_path(path)))
    for source, _ in moves:
        flush(source)

    # a run's folder is held by its export
    with nullcontext() if run else held(path.parent, wait=True), held_back():
        if run and result is not None:
            write_gate(run, stage_of(path), result, path.name, trial.left_high if trial else None)
        elif run:
            strike(run, [path])  # a row of that name is about the earlier file
        if not golden_path(new).is_file():
            remove(golden_path(path))
        for source, target in moves:
            move(source, target)
