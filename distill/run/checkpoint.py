"""Weights on disk: the resumable state of a run and the student that a run is for."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from .. import console
from ..errors import NumbersError, UsageError, WeightsError, one_line, reading
from ..finite import first_bad
from ..lfs import pointer_at
from ..models import SegmentationModel, rebuild
from .card import CheckpointCard
from .files import replacing, sha256, write_json
from .folder import Run, find_run
from .records import Record
from .seal import check_sealed

_CURE = "put it back from a copy, or begin a new run"


@dataclass(frozen=True)
class Saved(Record):
    """A resumable state that is on disk."""

    file: str
    sha256: str
    stage: str = ""
    step: int = 0


@dataclass(frozen=True)
class Newest(Saved):
    """What ``last.json`` says: the newest state, and the one before it."""

    OPTIONAL: ClassVar = ("before",)

    before: Saved | None = None


def save_state(folder: Path, state: dict[str, Any], step: int) -> None:
    """Keep a resumable state: tensors and plain values, loadable with ``weights_only=True``; the one before stays too.

    The new file is on disk before ``last.json`` names it, and the oldest one goes only then, so that a kill at any
    moment leaves two complete checkpoints whose hashes fit, and a disk that loses one leaves the other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name, n = f"last-{state['stage']}-{step:07d}", 2
    path = folder / f"{name}.pt"
    while path.exists():  # this step was saved before: what last.json names stays whole until the new file is there
        path, n = folder / f"{name}-{n}.pt", n + 1
    with replacing(path, size_of(state)) as beside:
        torch.save(state, beside)

    last = _newest(folder)
    before = Saved(last.file, last.sha256, last.stage, last.step) if last else None
    write_json(folder / "last.json", Newest(path.name, sha256(path), state["stage"], step, before).to_dict())
    kept = {path.name, before.file if before else ""}
    for old in (*folder.glob("last-*.pt"), *folder.glob(".last-*")):  # an older kdc left the latter where it was killed
        if old.name not in kept:
            old.unlink()


def size_of(value: Any) -> int:
    """Return the bytes of the tensors in a state, however deep."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(size_of, value.values()))
    return sum(map(size_of, value)) if isinstance(value, list | tuple) else 0


def was_saved(folder: Path) -> bool:
    """Tell whether a run ever had a checkpoint; its first is written before its first step."""
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def load_state(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Load the newest of what ``save_state`` kept, or the one before where that is lost, which is said.

    Raises:
        WeightsError: all are missing, broken, changed, or not finite.
    """
    newest = _newest(folder)
    if newest is None:
        raise WeightsError(f"{folder} holds no checkpoint to resume from: its last.json is missing or broken; {_CURE}")

    state, flaw = _read_state(folder, newest, device)
    if state is None and newest.before is not None:
        state, other = _read_state(folder, newest.before, device)
        if state is None:
            flaw += f", and {other}"
        else:
            console.warn(f"{flaw}; the checkpoint before it is taken, of step {newest.before.step}")
            with contextlib.suppress(OSError):  # from now on that one is the newest
                write_json(folder / "last.json", newest.before.to_dict())
    if state is None:
        raise WeightsError(f"{flaw}; {_CURE}")
    return state


def _newest(folder: Path) -> Newest | None:
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
        return Newest.from_dict(json.loads((folder / "last.json").read_bytes()))
    return None


def _read_state(folder: Path, saved: Saved, device: torch.device | str) -> tuple[dict[str, Any] | None, str]:
    """Return a state, or None and what is wrong with it."""
    path = folder / Path(saved.file).name
    if not path.is_file() or sha256(path) != saved.sha256:
        return None, f"{path} is missing or was changed since it was written"
    try:
        with reading(path, WeightsError, "take another"):
            state = torch.load(path, map_location=device, weights_only=True)
    except WeightsError as error:
        return None, str(error)
    if not isinstance(state, dict):
        return None, f"{path} holds no checkpoint"
    for part in ("student", "average", "method"):
        if bad := first_bad(state.get(part) or {}):
            return None, f"{path}: {bad} of its {part} is not finite"
    return state, ""


def save_student(path: Path, model: SegmentationModel, facts: Mapping[str, Any]) -> None:
    """Write weights as one safetensors file, with the network's spec and ``facts`` in its header and beside it.

    Raises:
        NumbersError: they are not finite.
    """
    if bad := first_bad(model.state_dict()):
        raise NumbersError(f"{path} was not written: {bad} is not finite")
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    card = {"model": model.spec().to_dict(), **facts}
    with replacing(path, size_of(tensors)) as beside:
        save_file(tensors, str(beside), metadata={"kdc": json.dumps(card)})
    write_json(path.with_name(f"{path.name}.json"), {**card, "sha256": sha256(path)})


def read_card(path: Path) -> CheckpointCard | None:
    """Return the card in the header of a kdc safetensors file; None for weights of other origin."""
    with contextlib.suppress(WeightsError), reading(path, WeightsError, ""), safe_open(str(path), "pt") as file:
        header = (file.metadata() or {}).get("kdc")
        return CheckpointCard.from_dict(json.loads(header)) if header else None
    return None


def load_student(
    source: Run | str | Path | None, device: torch.device | str = "cpu", which: str = "best"
) -> SegmentationModel:
    """Rebuild the network of a run (its ``best`` or ``last`` weights) or of a kdc safetensors file, in eval mode.

    Raises:
        WeightsError: there are no weights, they were changed, or do not fit the network that the card describes.
    """
    path = source if isinstance(source, Path) and source.suffix == ".safetensors" else None
    if isinstance(source, str) and source.endswith(".safetensors"):
        path = Path(source)
    if path is None:
        if not isinstance(source, Run) and source is not None and Path(source).suffix in (".pt", ".pth"):
            # else its run would be found, and its best weights loaded instead
            raise WeightsError(
                f"{source} is not a safetensors file of kdc; give a run, its best or its last.safetensors"
            )
        run = source if isinstance(source, Run) else find_run(source)
        path = student_file(run, which)

    check_sealed(path)
    card = read_card(path)
    if card is None or not card.model.name:
        raise WeightsError(f"{path} {_flaw(path)}; give a run or its best.safetensors")
    try:
        model = rebuild(card.model)
    except UsageError as error:
        raise WeightsError(f"{path} describes no network of kdc: {error}") from error
    with reading(path, WeightsError, f"it does not fit {card.model.name}"):
        model.load_state_dict(load_file(str(path), device="cpu"))
    if bad := first_bad(model.state_dict()):
        raise WeightsError(f"{path}: {bad} is not finite, so its numbers went bad in training; take other weights")
    return model.to(device).eval()


def load_deployable(source: Run | str | Path | None) -> SegmentationModel:
    """Load as ``load_student`` a network that works on images alone.

    Raises:
        WeightsError: it is a label-assisted teacher, which must be shown the label.
    """
    model = load_student(source)
    if model.in_channels == 4:
        raise WeightsError(
            f"{model.name} of {source} is a label-assisted teacher: it must be shown the label, so it can teach "
            "(--method label-assisted --teacher RUN) but not predict, be exported or timed"
        )
    return model


def _flaw(path: Path) -> str:
    """Return why a file has no card."""
    if not path.is_file():
        return "does not exist"
    try:
        with safe_open(str(path), "pt"):
            return "is not a kdc checkpoint (no card in its header that can be read)"
    except (OSError, SafetensorError) as error:
        return pointer_at(path) or f"is broken or cut off ({one_line(error)})"


def student_file(run: Run, which: str = "best") -> Path:
    """Return the file of a run's student.

    Raises:
        WeightsError: the run has not written one yet.
    """
    path = run.checkpoints / f"{which}.safetensors"
    if not path.exists():
        raise WeightsError(
            f"{run.path} has no {path.name} yet (status: {run.card.status}); resume it: kdc distill --resume {run.spec}"
        )
    return path
