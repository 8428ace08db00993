"""The manifest of an exported file: what it is and what it was made from, bound to it by its hash."""

import contextlib
import json
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from ...distill.errors import UsageError, WeightsError
from ...distill.run.files import sha256
from ...distill.run.folder import Run
from .beside import manifest_path, owner, weights_beside


class Record(Protocol):
    """What gives plain values, ready for JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Return them."""
        ...


@dataclass(frozen=True)
class Origin:
    """A file that another was made from: the checkpoint of a run, or an exported file beside it."""

    run: str | None = None
    checkpoint: str | None = None
    file: str | None = None
    sha256: str | None = None

    @classmethod
    def of(cls, path: Path) -> "Origin":
        """Describe an exported file."""
        return cls(file=path.name, sha256=sha256(path))

    @classmethod
    def of_checkpoint(cls, run: Run, path: Path) -> "Origin":
        """Describe the weights of a run."""
        return cls(run.path.name, path.name, sha256=sha256(path))

    @classmethod
    def from_dict(cls, values: Any) -> "Origin | None":
        """Read what ``to_dict`` wrote; None for anything else."""
        if not isinstance(values, dict):
            return None
        known = {each.name: values.get(each.name) for each in fields(cls)}
        origin = cls(**{name: value for name, value in known.items() if isinstance(value, str)})
        return origin if origin.name else None

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.file or self.checkpoint or ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A new manifest; every kind of file adds its own facts, and fields are written in the order of the class.

    Attributes:
        file: name of the file.
        sha256: of the file.
        kind: "onnx", "openvino", "aoti", "engine" or "bundle".
    """

    #: fields whose keys are written as the manifest's own, and fields that are left out while they have no value
    spread: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ("weights", "ran", "gate")

    file: str
    sha256: str
    kind: str

    @property
    def runs_here(self) -> bool:
        """Whether this machine can run the file, so that it can be gated."""
        return True

    def with_gate(self, gate: Record, ran: Record) -> Self:
        """Add the result of the gate, and what really ran there where manifests of the kind say it."""
        known = {each.name for each in fields(self)}
        return replace(self, **{name: value for name, value in (("gate", gate), ("ran", ran)) if name in known})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        values: dict[str, Any] = {}
        for name in (each.name for each in fields(self)):
            value = getattr(self, name)
            if name in self.spread:
                values |= value
            elif value is not None or name not in self.optional:
                values[name] = _plain(value)
        return values


@dataclass(frozen=True)
class StoredManifest:
    """A manifest as it was read, of any kind and age; ``values`` is the whole of it, empty where there is none."""

    values: dict[str, Any]

    @property
    def sha256(self) -> str | None:
        """Hash of the file that it was written for."""
        digest = self.values.get("sha256")
        return digest if isinstance(digest, str) else None

    @property
    def source(self) -> Origin | None:
        """The checkpoint or float32 file that the file was made from."""
        return Origin.from_dict(self.values.get("source"))

    @property
    def onnx(self) -> Origin | None:
        """The ONNX file that an engine or OpenVINO file was made from."""
        return Origin.from_dict(self.values.get("onnx"))

    @property
    def gated(self) -> bool:
        """Whether the file passed its gate."""
        gate = self.values.get("gate")
        return isinstance(gate, dict) and bool(gate.get("passed"))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return self.values

    def describes(self, path: Path) -> bool:
        """Whether it was written for this very file, and for the weights beside it."""
        with contextlib.suppress(OSError):
            if self.sha256 == sha256(path):
                weights, known = weights_beside(path), Origin.from_dict(self.values.get("weights"))
                return weights is None or (known is not None and known.sha256 == sha256(weights))
        return False


def load_manifest(artefact: Path) -> StoredManifest:
    """Read the manifest beside a file.

    Raises:
        OSError: there is none.
        ValueError: it is broken.
    """
    try:
        values = json.loads(manifest_path(artefact).read_text())
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    return StoredManifest(values)


def manifest_beside(artefact: Path) -> StoredManifest:
    """Return the manifest beside a file; an empty one where there is none or kdc did not write it."""
    try:
        return load_manifest(artefact)
    except (OSError, ValueError):
        return StoredManifest({})


def manifest_of(path: Path) -> StoredManifest:
    """Return the manifest beside a file; an empty one where there is none or it was written for another file."""
    manifest = manifest_beside(path)
    return manifest if manifest.describes(path) else StoredManifest({})


def weights_of(path: Path) -> Origin | None:
    """Describe the weights beside an OpenVINO network; None for a file that holds its own."""
    weights = weights_beside(path)
    return None if weights is None else Origin.of(weights)


def run_of(path: Path) -> Run:
    """Return the run that a file belongs to.

    Raises:
        WeightsError: there is no such file.
        UsageError: it belongs to none, so that there are no images to gate it on.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist")
    if (run := owner(path)) is None:
        raise UsageError(f"{path} lies in no run folder, so there are no images to prove the result on; name the run")
    return run


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
