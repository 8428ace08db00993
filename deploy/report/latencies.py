"""Which measurements of latency the report shows: of each kind the most careful one, not merely the newest."""

from dataclasses import dataclass
from typing import Any

from ...distill.run.files import sha256
from ...distill.run.folder import Run
from ..artefacts.beside import EXPORTED
from ..bench.disturbances import NOISY
from ..bench.latency_record import LatencyRecord
from ..bench.record import records


@dataclass(frozen=True)
class Bench:
    """The measurement of one mode, device, size and batch, and the newer ones that were passed over for it."""

    shown: LatencyRecord
    passed_over: list[LatencyRecord]


def benches(run: Run) -> list[Bench]:
    """Choose of each mode, device, size and batch one record.

    The best is the one with the most of the run's files as they are now; of equals that which measured longest; of
    those one without noise; of those the newest.
    """
    kinds: dict[tuple[Any, ...], list[LatencyRecord]] = {}
    for record in records(run, "latency-*.json", LatencyRecord):
        kinds.setdefault((record.mode, record.device, record.size, record.batch), []).append(record)

    files = [*run.checkpoints.glob("*"), *run.export.glob("*")] if kinds else []
    digests = {sha256(path) for path in files if path.suffix in (*EXPORTED, ".safetensors") and path.is_file()}
    return [_best(measured, digests) for measured in kinds.values()]


def _best(measured: list[LatencyRecord], digests: set[str]) -> Bench:
    def rank(i: int) -> tuple[int, float, bool, int]:
        rows = measured[i].backends
        present = len({row.backend.sha256 for row in rows} & digests)
        quiet = all(row.times.cv <= NOISY for row in rows)
        return present, measured[i].protocol.seconds or 0.0, quiet, i

    best = max(range(len(measured)), key=rank)
    return Bench(measured[best], measured[best + 1 :])
