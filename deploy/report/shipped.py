"""The files of a run that can be deployed, in three numbers each: size, speed, and change of the accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...distill.run.files import sha256
from ...distill.run.folder import Run
from ..artefacts.beside import ENGINES, EXPORTED, artefact_bytes
from ..bench.latency_record import LatencyRecord
from ..bench.record import is_quick
from .records import Gate

#: as files and the parts of their manifests are named
_LOW = ("int8", "fp8")


@dataclass(frozen=True)
class Shipped:
    """An exported file that passed its gate; None is not measured."""

    file: str
    bytes: int
    #: how many times as fast as the run's checkpoint in torch, beside which it was measured
    speed: float | None
    #: whether that measurement was shorter than usual
    quick: bool
    #: of mIoU, against what the gate compared it with, and on how many images
    change: float | None
    images: int | None


def shipped(run: Run, gates: Sequence[Gate], measured: Sequence[LatencyRecord]) -> list[Shipped]:
    """Return the fastest of a run's gated files, and the smallest where that is another; none without a file."""
    standing = [gate for gate in gates if gate.result.passed and gate.fits and not gate.stale]
    paths = [(run.export / str(gate.row.file), gate) for gate in standing]
    files = [_shipped(path, gate, measured) for path, gate in paths if path.is_file()]
    if not files:
        return []
    smallest = min(files, key=lambda each: each.bytes)
    fastest = max(files, key=lambda each: (each.speed or 0.0, -each.bytes))
    return list(dict.fromkeys([fastest, smallest]))


def _shipped(path: Path, gate: Gate, measured: Sequence[LatencyRecord]) -> Shipped:
    before, after = gate.result.miou_reference, gate.result.miou_candidate
    change = None if before is None or after is None else after - before
    speed, quick = _speed(path, measured)
    return Shipped(path.name, artefact_bytes(path), speed, quick, change, gate.result.images)


def _speed(path: Path, measured: Sequence[LatencyRecord]) -> tuple[float | None, bool]:
    """Return the ratio to the first row of torch, as its table has it, and whether it was measured quickly.

    Of several measurements that of the network alone counts; where the table compares with another row, the medians do.
    """
    digest = sha256(path)
    for record in sorted(measured, key=lambda each: (each.mode != "net", each.batch)):
        torch = next((row for row in record.backends if row.backend.runtime == "torch"), None)
        own = next((row for row in record.backends if row.backend.sha256 == digest), None)
        if torch and own:
            shown = own.ratio.to == torch.name and own is not torch
            ratio = own.ratio.value if shown else torch.times.p50 / own.times.p50
            return ratio, is_quick(record.protocol.seconds)
    return None, False


def low_precision_files(run: Run) -> list[Path]:
    """Return the run's INT8 and FP8 files: what a CPU computes as written, what it simulates, then engines."""
    files = [path for path in sorted(run.export.glob("*")) if path.suffix in EXPORTED]
    low = [path for path in files if any(f".{kind}." in path.name for kind in _LOW)]
    return sorted(low, key=lambda path: (path.suffix in ENGINES, ".trt." in path.name, path.suffix != ".onnx"))
