"""What may have disturbed a measurement, in words."""

from collections.abc import Iterable, Sequence

from ...distill.units import milliseconds
from ..machine.gpu_meter import meter_flags
from ..machine.passport import Passport, gpu_flags
from .latency_record import LatencyRow
from .protocol import Identity

#: Fewer samples than this make a p99 of a single run.
ENOUGH = 100
#: A coefficient of variation above this is reported.
NOISY = 0.05
#: Fewer rounds than this cannot hold a median with 95 %: it lies outside all of n with a chance of 2^(1 - n).
ENOUGH_ROUNDS = 6


def latency_flags(
    rows: Sequence[LatencyRow],
    before: Passport,
    after: Passport,
    device: str,
    rounds: int,
    planned: int | None = None,
) -> list[str]:
    """List what may have disturbed a measurement of latency.

    Args:
        rows: the backends as measured.
        before: the device passport before the backends were opened.
        after: the one after the last round, when they were still open.
        device: "cpu" or "cuda".
        rounds: how often the backends took turns.
        planned: how many rounds were asked for, where the time was too short for them; None is ``rounds``.
    """
    flags = []
    if noisy := listed((row.name, f"{row.times.cv:.0%}") for row in rows if row.times.cv > NOISY):
        flags.append(f"runs vary by more than {NOISY:.0%} ({noisy}): trust the ratios more than the milliseconds")
    if few := listed((row.name, f"{row.times.n}") for row in rows if row.times.n < ENOUGH):
        flags.append(f"fewer than {ENOUGH} samples ({few}): p95 and p99 are rough; raise --seconds")
    if restless := listed((row.name, f"after {row.warmup.seconds:.1f} s") for row in rows if not row.warmup.stable):
        flags.append(f"not stable to 5% when warm-up ended ({restless})")

    if len(rows) > 1 and rounds < ENOUGH_ROUNDS:
        planned = rounds if planned is None else planned
        cures = (("--rounds", planned < ENOUGH_ROUNDS), ("--seconds", rounds < planned))
        cure = " and ".join(flag for flag, helps in cures if helps)
        flags.append(f"only {rounds} rounds: the interval of the ratio is too narrow for 95 %; raise {cure}")

    backends = [row.backend for row in rows]
    flags += device_flags(backends, before, after, device, own=len({backend.pid for backend in backends}))
    if device == "cuda":
        for row in rows:
            flags += meter_flags(row.name, row.on_gpu and row.on_gpu.gpu)
        for row in rows:
            flags += _part_flags(row)
    return flags


def device_flags(
    backends: Sequence[Identity], before: Passport, after: Passport, device: str, own: int = 0
) -> list[str]:
    """List what on this machine may have disturbed any measurement.

    Arguments as ``latency_flags``; ``own`` counts the processes of this measurement that were alive at ``after``.
    """
    flags = []
    if strays := listed((backend.name, f"{backend.nodes_on_cpu}") for backend in backends if backend.nodes_on_cpu > 0):
        flags.append(f"nodes that the GPU provider left to the CPU ({strays})")
    if tf32 := ", ".join(dict.fromkeys(backend.name for backend in backends if backend.tf32)):
        flags.append(f"float32 products may run as TF32 ({tf32})")
    heads = sorted({backend.head for backend in backends})
    if len(heads) > 1:
        flags.append(f"rows end in different heads ({', '.join(heads)}): compare those of one head")

    load, cores = before.cpu.load, before.cpu.cores
    if load > 0.5 * cores:
        flags.append(f"the machine was busy before it began: load average {load} on {cores} cores")
    if device == "cuda":
        flags += gpu_flags(after.gpus, own)
    return flags


def listed(pairs: Iterable[tuple[str, str]]) -> str:
    """Join names and values; a backend that has a row for each of its settings is named once for each value."""
    return ", ".join(dict.fromkeys(f"{name} {value}" for name, value in pairs))


def _part_flags(row: LatencyRow) -> list[str]:
    """Report a GPU that waits for its host, as trtexec does."""
    parts = {name: part.p50 for name, part in (row.parts or {}).items()}
    if "compute" not in parts:
        return []
    flags = []
    if parts["enqueue"] > 0.8 * parts["compute"]:
        flags.append(
            f"{row.name}: handing the network over takes the host {milliseconds(parts['enqueue'])} of its "
            f"{milliseconds(parts['compute'])}: the host, not the GPU, may be what is measured"
        )
    if parts["h2d"] + parts["d2h"] >= parts["compute"]:
        flags.append(f"{row.name}: transfers take as long as the network: a uint8 argmax head sends less")
    return flags
