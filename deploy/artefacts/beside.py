"""What belongs to an exported file: the files beside it, what its manifest says, and the run that it is in."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from google.protobuf.message import DecodeError

from ...distill.errors import KdcError
from ...distill.run.files import remove, sha256
from ...distill.run.folder import Run
from ...distill.run.records import Record
from ...distill.run.seal import check_sealed
from ...distill.typed import typed

#: Suffixes of files that hold a network's weights for torch.
TORCH_FILES = (".safetensors", ".pt", ".pth")
#: Suffixes of TensorRT engines.
ENGINES = (".engine", ".plan")
#: Suffixes of files that hold native code: they are signed, and run only where they are vouched for.
NATIVE = (*ENGINES, ".pt2")
#: Suffixes of exported files, and of all files that hold a network.
EXPORTED = (".onnx", *ENGINES, ".xml", ".pt2")
MODEL_FILES = (*EXPORTED, *TORCH_FILES)


@dataclass(frozen=True)
class Origin(Record):
    """A file that another was made from: the checkpoint of a run, or an exported file beside it."""

    OPTIONAL: ClassVar = ("run", "checkpoint", "file", "sha256")

    run: str | None = None
    checkpoint: str | None = None
    file: str | None = None
    sha256: str | None = None

    @classmethod
    def from_dict(cls, values: Any) -> "Origin | None":
        """Read what ``to_dict`` wrote; None for anything else."""
        if not isinstance(values, dict):
            return None
        origin = super().from_dict({name: value for name, value in values.items() if isinstance(value, str)})
        return origin if origin.name else None

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.file or self.checkpoint or ""


@dataclass(frozen=True)
class GateRow(Record):
    """A line of the ledger, or the gate in a manifest, of any age.

    ``values`` is the whole of it, so that it is written back as it was read.
    """

    MERGED: ClassVar = ("values",)

    values: dict[str, Any]

    @classmethod
    def read(cls, values: Any) -> "GateRow":
        """Take what stands in a file.

        Raises:
            ValueError: it is no gate, or a value of it is of another type.
        """
        row = typed(values, dict[str, Any], "gate")
        for name, kind in (("stage", str), ("agreement", float | None), ("left_high", list[str] | None)):
            typed(row.get(name), kind, name)
        for name in ("file", "sha256", "origin", "time"):
            typed(row.get(name), str | None, name)
        return cls(row)

    @property
    def stage(self) -> str:
        """What was gated: ``onnx model.fp16``."""
        return self.values["stage"]

    @property
    def file(self) -> str | None:
        """Name of the file that was gated."""
        return self.values.get("file")

    @property
    def passed(self) -> bool:
        """Whether it passed."""
        return bool(self.values.get("passed"))

    @property
    def agreement(self) -> float:
        """Share of pixels with the same class."""
        return self.values["agreement"]

    @property
    def left_high(self) -> list[str] | None:
        """Nodes and groups that were asked to keep a higher precision; None for a file that is not calibrated."""
        return self.values.get("left_high")

    @property
    def tolerances(self) -> Any:
        """What it was allowed to differ by, as it was read; see ``Tolerances.read``."""
        return self.values.get("tolerances")

    def fits(self, folder: Path) -> bool:
        """Whether it is about the file of its name in ``folder``; True if there is none, or no hash is known."""
        digest, path = self.values.get("sha256"), folder / str(self.file or "")
        return not digest or not path.is_file() or digest == sha256(path)


@dataclass(frozen=True)
class StoredManifest(Record):
    """A manifest as it was read, of any kind and age; ``values`` is the whole of it, empty where there is none."""

    MERGED: ClassVar = ("values",)

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
    def kind(self) -> str | None:
        """See ``Manifest``."""
        kind = self.values.get("kind")
        return kind if isinstance(kind, str) else None

    @property
    def torch(self) -> str | None:
        """The version of torch that made the file."""
        known = self.values.get("versions")
        version = known.get("torch") if isinstance(known, dict) else None
        return version if isinstance(version, str) else None

    @property
    def gate(self) -> GateRow | None:
        """The gate that the file went through."""
        gate = self.values.get("gate")
        return GateRow(gate) if isinstance(gate, dict) else None

    @property
    def gated(self) -> bool:
        """Whether the file passed its gate."""
        return self.gate is not None and self.gate.passed

    def describes(self, path: Path) -> bool:
        """Whether it was written for this very file, and for the weights beside it."""
        with contextlib.suppress(OSError):
            if self.sha256 == sha256(path):
                weights, known = weights_beside(path), Origin.from_dict(self.values.get("weights"))
                return weights is None or (known is not None and known.sha256 == sha256(weights))
        return False


def owner(path: str | Path) -> Run | None:
    """Return the run whose folder holds ``path``, if any."""
    path = Path(path).resolve()
    for folder in (path, *path.parents):
        if (folder / "run.json").exists():
            return Run(folder)
    return None


def weights_beside(path: Path) -> Path | None:
    """Return the file that holds the weights of an OpenVINO network, None for a file that holds its own."""
    return path.with_suffix(".bin") if path.suffix.lower() == ".xml" else None


def weights_of(path: Path) -> Origin | None:
    """Describe the weights beside an OpenVINO network; None for a file that holds its own."""
    weights = weights_beside(path)
    return None if weights is None else Origin(file=weights.name, sha256=sha256(weights))


def golden_path(artefact: Path) -> Path:
    """Return where the golden image of an exported file is."""
    return artefact.with_name(f"{artefact.name}.golden.npz")


def manifest_path(artefact: Path) -> Path:
    """Return where the manifest of an exported file is."""
    return artefact.with_name(f"{artefact.name}.json")


def remove_artefact(file: Path) -> None:
    """Remove an exported file with its weights, manifest and golden image; a missing one is no error."""
    for path in (file, manifest_path(file), golden_path(file), weights_beside(file)):
        if path is not None:
            remove(path)


def artefact_bytes(path: Path) -> int:
    """Return the size of a network on disk: the file, and the files beside it that hold its weights."""
    weights = weights_beside(path)
    files = {path, *([weights] if weights else [])}
    if path.suffix.lower() == ".onnx":
        import onnx

        from .onnx_rules import locations

        with contextlib.suppress(DecodeError, KdcError, OSError):
            files |= {path.with_name(name) for name in locations(onnx.load(path, load_external_data=False), path)}
    return sum(each.stat().st_size for each in files if each.is_file())


def load_manifest(artefact: Path) -> StoredManifest:
    """Read the manifest beside a file.

    Raises:
        OSError: there is none.
        ValueError: it is broken.
        WeightsError: it was changed since kdc wrote it.
    """
    check_sealed(manifest_path(artefact))
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
