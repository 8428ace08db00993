"""Results of phases: kept in the run under a digest of what they depend on, and reused where that is equal."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from ..console import note
from ..errors import WeightsError, reading
from ..methods import Phase
from ..settings.config import Train
from .card import TeacherCard
from .checkpoint import size_of
from .files import replacing, sha256, write_json
from .folder import Run

#: the settings of a training that its phases depend on
RECIPE = {"batch", "accumulate", "crop", "scale", "flip", "jitter", "power", "precision", "seed"}


@dataclass(frozen=True)
class Lineage:
    """What the phases of a run depend on besides their own settings."""

    teacher: TeacherCard | None
    #: fingerprint of the data
    data: str | None
    train: Train
    processes: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON; of the teacher its file, or its start, and its network as it was built.

        Phases of earlier runs are found by a digest of these values.
        """
        card = self.teacher
        origin = {"spec": card.spec.to_dict(), "sha256": card.sha256, "start": card.start} if card else None
        recipe = self.train.model_dump(mode="json", include=RECIPE)
        return {"teacher": origin, "data": self.data, "train": recipe, "processes": self.processes}


class Artefacts:
    """The files of ``phases/``: safetensors, each with a card beside it that names its origin."""

    def __init__(self, run: Run, lineage: Lineage) -> None:
        """Hold the results of ``run``, whose phases all depend on ``lineage``."""
        self.run = run
        self.lineage = lineage.to_dict()  # as it is now: a phase may train the teacher, and changes its card

    def path(self, phase: Phase) -> Path:
        """Return the file of a phase's result in this run."""
        return self.run.path / "phases" / f"{phase.name}-{self.fingerprint(phase)}.safetensors"

    def fingerprint(self, phase: Phase) -> str:
        """Return the digest of everything that the result depends on."""
        return hashlib.sha256(json.dumps(self._origin(phase), sort_keys=True).encode()).hexdigest()[:16]

    def keep(self, phase: Phase) -> None:
        """Write the result of a phase that has just ended."""
        path = self.path(phase)
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in phase.module.state_dict().items()}
        with replacing(path, size_of(tensors)) as beside:
            save_file(tensors, str(beside))
        write_json(_card(path), {**self._origin(phase), "sha256": sha256(path)})

    def borrow(self, phase: Phase) -> bool:
        """Copy an equal result from a run beside this one, if there is any; return whether this run has one now."""
        path = self.path(phase)
        for other in sorted(self.run.path.parent.glob(f"*/phases/{path.name}")):
            if other != path and _is_whole(other):
                with replacing(path, other.stat().st_size) as beside:
                    shutil.copyfile(other, beside)
                write_json(_card(path), {**self._origin(phase), "sha256": sha256(path)})
                note(f"phase {phase.name}: taken from {other.parent.parent.name}, trained on the same teacher and data")
                break
        return path.exists()

    def load(self, phase: Phase) -> None:
        """Load the result in this run into the phase's module.

        Raises:
            WeightsError: it is gone, was changed, or does not fit.
        """
        path = self.path(phase)
        if not _is_whole(path):
            raise WeightsError(f"{path} is missing or was changed since it was written; start the run again")
        with reading(path, WeightsError, f"it does not fit the phase {phase.name}; start the run again"):
            phase.module.load_state_dict(load_file(str(path)))

    def _origin(self, phase: Phase) -> dict[str, Any]:
        recipe = {key: getattr(phase, key) for key in ("lr", "momentum", "weight_decay", "iters")}
        return {"phase": phase.name, "key": phase.key, "recipe": recipe, **self.lineage}


def _card(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _is_whole(path: Path) -> bool:
    try:
        return json.loads(_card(path).read_text())["sha256"] == sha256(path)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
