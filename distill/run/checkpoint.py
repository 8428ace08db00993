"""Weights on disk: the resumable state of a run and the student that a run is for."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ..errors import WeightsError
from ..models import SegmentationModel, rebuild
from .card import CheckpointCard
from .files import replacing, sha256, write_json
from .folder import Run, find_run


def save_state(folder: Path, state: dict[str, Any], step: int) -> None:
    """Keep a resumable state: tensors and plain values, loadable with ``weights_only=True``.

    The new file is on disk before ``last.json`` names it, and the old one goes only then, so that a kill at any moment
    leaves one complete checkpoint whose hash fits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name, n = f"last-{state['stage']}-{step:07d}", 2
    path = folder / f"{name}.pt"
    while path.exists():  # this step was saved before: what last.json names stays whole until the new file is there
        path, n = folder / f"{name}-{n}.pt", n + 1
    with replacing(path) as beside:
        torch.save(state, beside)
    write_json(folder / "last.json", {"file": path.name, "sha256": sha256(path), "stage": state["stage"], "step": step})
    for old in (*folder.glob("last-*.pt"), *folder.glob(".last-*")):  # the latter are left by a kill while writing
        if old != path:
            old.unlink()


def load_state(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Load what ``save_state`` kept.

    Raises:
        WeightsError: there is none, or its hash does not fit.
    """
    try:
        card = json.loads((folder / "last.json").read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder} holds no checkpoint to resume from ({error}); start the run again") from error
    path = folder / card["file"]
    if not path.exists() or sha256(path) != card["sha256"]:
        raise WeightsError(f"{path} is missing or was changed since it was written; start the run again")
    return torch.load(path, map_location=device, weights_only=True)


def save_student(path: Path, model: SegmentationModel, facts: Mapping[str, Any]) -> None:
    """Write weights as one safetensors file, with the network's spec and ``facts`` in its header and beside it."""
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    card = {"model": model.spec().to_dict(), **facts}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        save_file(tensors, str(beside), metadata={"kdc": json.dumps(card)})
    write_json(path.with_name(f"{path.name}.json"), {**card, "sha256": sha256(path)})


def read_card(path: Path) -> CheckpointCard | None:
    """Return the card in the header of a kdc safetensors file; None for weights of other origin."""
    with contextlib.suppress(OSError, SafetensorError, ValueError), safe_open(str(path), "pt") as file:
        header = (file.metadata() or {}).get("kdc")
        return CheckpointCard.from_dict(json.loads(header)) if header else None
    return None


def load_student(
    source: Run | str | Path | None, device: torch.device | str = "cpu", which: str = "best"
) -> SegmentationModel:
    """Rebuild the network of a run (its ``best`` or ``last`` weights) or of a kdc safetensors file, in eval mode.

    Raises:
        WeightsError: there are no weights, or they do not fit the network that the card describes.
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

    card = read_card(path)
    if card is None or not card.model.name:
        raise WeightsError(f"{path} {_flaw(path)}; give a run or its best.safetensors")
    model = rebuild(card.model)
    try:
        model.load_state_dict(load_file(str(path), device="cpu"))
    except (RuntimeError, SafetensorError, OSError) as error:
        raise WeightsError(f"{path} does not fit {card.model.name}: {str(error).splitlines()[0]}") from error
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
            return "is not a kdc checkpoint (no card in its header)"
    except (OSError, SafetensorError) as error:
        return f"is broken or cut off ({str(error).splitlines()[0]})"


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
