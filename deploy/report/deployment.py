"""The report's part about a run's files: quantisation, precision of engines, throughput, memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...distill.run.folder import Run
from ...distill.run.records import Record
from ..artefacts.beside import artefact_bytes, manifest_beside
from ..bench.memory import MemoryRecord
from ..bench.record import newest
from ..bench.throughput import ThroughputRecord
from ..runtimes.trt.inspector import PrecisionShares

#: groups of nodes that the report names
_NAMED = 12
#: kinds of files that a run can hold, besides its checkpoints
_EXPORTED = ("*.onnx", "*.engine", "*.xml", "*.bin", "*.pt2", "*.zip")


@dataclass(frozen=True)
class Quantised:
    """How a file was calibrated; all but ``name`` and ``groups`` is as its manifest has it."""

    name: str
    images: Any
    report: Any
    cast: Any
    qat: Any
    calibrators: Any
    sensitivity: Any
    groups: list[Any]
    left_high: list[str]


@dataclass(frozen=True)
class EngineRow(Record):
    """What an engine is, and what its layers compute in, as its manifest has it."""

    name: str
    precision: str | None = None
    flavour: str | None = None
    version: str | None = None
    target: str | None = None
    bytes: int | None = None
    layers: int | None = None
    gpu: str | None = None
    proof: PrecisionShares | None = None


@dataclass(frozen=True)
class FileRow:
    """A file of the run and its size."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Deployment:
    """What ``deployment.html.jinja`` shows."""

    quantised: list[Quantised]
    engines: list[EngineRow]
    throughput: ThroughputRecord | None
    memory: MemoryRecord | None
    files: list[FileRow]


def deployment(run: Run) -> Deployment:
    """Collect what became of a run's network on its way to a target."""
    files = sorted(path for kind in ("*.onnx", "*.xml") for path in run.export.glob(kind))
    engines = [(path, manifest_beside(path).to_dict()) for path in sorted(run.export.glob("*.engine"))]
    return Deployment(
        quantised=[row for path in files if (row := _quantised(path))],
        engines=[EngineRow.from_dict(manifest | {"name": path.name}) for path, manifest in engines if manifest],
        throughput=newest(run, "throughput-*.json", ThroughputRecord),
        memory=newest(run, "memory-*.json", MemoryRecord),
        files=_files(run),
    )


def _quantised(path: Path) -> Quantised | None:
    """Return how a file was calibrated: on what, what was compared, what was left high; None where it was not."""
    manifest = manifest_beside(path).values
    if "calibration" not in manifest:
        return None

    report = manifest.get("int8") or manifest.get("fp8")
    sensitivity = manifest.get("sensitivity") or {}
    rescued, costs = sensitivity.get("rescued") or [], sensitivity.get("costs") or []
    return Quantised(
        name=path.stem,
        images=manifest["calibration"],
        report=report,
        cast=manifest.get("cast"),
        qat=manifest.get("qat"),
        calibrators=manifest.get("calibrators") or {},
        sensitivity=sensitivity,
        groups=[cost | {"high": cost.get("blocks", [cost["group"]])[0] in rescued} for cost in costs[:_NAMED]],
        left_high=(report or {}).get("left_high") or [],
    )


def _files(run: Run) -> list[FileRow]:
    paths = [*run.checkpoints.glob("*.safetensors"), *(p for kind in _EXPORTED for p in run.export.glob(kind))]
    return [FileRow(str(path.relative_to(run.path)), _bytes(path)) for path in sorted(paths)]


def _bytes(path: Path) -> int:
    """Return the size of a file; of an ONNX file with the weights that it keeps beside it."""
    return artefact_bytes(path) if path.suffix == ".onnx" else path.stat().st_size
