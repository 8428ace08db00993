"""What a method's phases leave: kept in the run by what it depends on, and reused where that is equal."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..console import note
from ..errors import WeightsError
from ..methods import Phase
from .files import replacing, sha256, write_json
from .folder import Run


class Artefacts:
    """The files of ``phases/``: safetensors, each with a card beside it that says what it came from."""

    def __init__(self, run: Run, lineage: dict[str, Any]) -> None:
        """Remember what every phase of ``run`` depends on: teacher, data and recipe, as plain values."""
        self.run, self.lineage = run, lineage

    def path(self, phase: Phase) -> Path:
        """Return the file of a phase's result in this run."""
        return self.run.path / "phases" / f"{phase.name}-{self.fingerprint(phase)}.safetensors"

    def fingerprint(self, phase: Phase) -> str:
        """Return the digest of everything that the result depends on."""
        return hashlib.sha256(json.dumps(self._origin(phase), sort_keys=True).encode()).hexdigest()[:16]

    def keep(self, phase: Phase) -> None:
        """Write the result of a phase that has just ended."""
        path = self.path(phase)
        path.parent.mkdir(exist_ok=True)
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in phase.module.state_dict().items()}
        with replacing(path) as beside:
            save_file(tensors, str(beside))
        write_json(_card(path), {**self._origin(phase), "sha256": sha256(path)})

    def borrow(self, phase: Phase) -> bool:
        """Take an equal result from a run beside this one, if there is any: copy it here and say so."""
        path = self.path(phase)
        for other in sorted(self.run.path.parent.glob(f"*/phases/{path.name}")):
            if other != path and _whole(other):
                path.parent.mkdir(exist_ok=True)
                with replacing(path) as beside:
                    shutil.copyfile(other, beside)
                write_json(_card(path), {**self._origin(phase), "sha256": sha256(path)})
                note(f"phase {phase.name}: taken from {other.parent.parent.name}, trained on the same teacher and data")
                break
        return path.exists()

    def load(self, phase: Phase) -> None:
        """Give a phase's module the result that lies in this run.

        Raises:
            WeightsError: it is gone, was changed, or does not fit.
        """
        path = self.path(phase)
        if not _whole(path):
            raise WeightsError(f"{path} is missing or was changed since it was written; start the run again")
        try:
            phase.module.load_state_dict(load_file(str(path)))
        except (RuntimeError, SafetensorError) as error:
            raise WeightsError(f"{path} does not fit the phase {phase.name} ({str(error).splitlines()[0]})") from error

    def _origin(self, phase: Phase) -> dict[str, Any]:
        recipe = {key: getattr(phase, key) for key in ("lr", "momentum", "weight_decay", "iters")}
        return {"phase": phase.name, "key": phase.key, "recipe": recipe, **self.lineage}


def _card(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _whole(path: Path) -> bool:
    try:
        return json.loads(_card(path).read_text())["sha256"] == sha256(path)
    except (OSError, ValueError, KeyError):
        return False
