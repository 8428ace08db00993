"""Memory: what a network adds to an idle process, opened and at its peak, and what it takes on disk and on a GPU."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ...distill import console
from ...distill.errors import ExportError
from ...distill.run.records import Record
from ...distill.units import file_size, mebibytes
from ..machine.gpu_meter import Meter, Readings, open_meter
from ..machine.passport import Passport, cores, passport
from ..runtimes.options import CPU, RuntimeOptions
from .disturbances import device_flags
from .plan import NotMeasured, Plan, Size, Source, make_plans, nothing_left
from .process import Backend, open_one, started
from .protocol import Identity, Task
from .record import Effort, Protocol, check_place, conditions, keep, show_rest

EFFORT = Effort(runs=3)


@dataclass(frozen=True)
class MemoryRow(Record):
    """The memory of one backend, in MiB; all but ``idle_mib`` is above the idle process. None is not measured.

    Attributes:
        idle_mib: of Python with NumPy.
        opened_mib: with the runtime's library and the network.
        peak_mib: at most, input and output of a query included.
        gpu_peak_mib: of the GPU at most, above what was in use before (NVML).
        cuda_peak_mib: of torch's allocator at most.
    """

    MERGED: ClassVar = ("backend",)

    backend: Identity
    batch: int
    idle_mib: float
    opened_mib: float
    peak_mib: float
    gpu_peak_mib: float | None
    cuda_peak_mib: float | None


@dataclass(frozen=True, kw_only=True)
class MemoryRecord(Record):
    """Memory by backend and batch; the file ``record`` holds it.

    Attributes:
        flags: what may have disturbed it.
        passport: of the machine, before it began.
    """

    OPTIONAL: ClassVar = ("record",)

    kind: str = "memory"
    unit: str = "MiB above the idle process"
    device: str
    size: Size
    threads: int
    protocol: Protocol
    rows: list[MemoryRow]
    not_measured: list[NotMeasured]
    flags: list[str]
    passport: Passport
    record: str | None = None


def bench_memory(
    sources: Sequence[Source] | None = None,
    effort: Effort = EFFORT,
    *,
    size: tuple[int, int] | None = None,
    batches: Sequence[int] = (1,),
    options: RuntimeOptions = CPU,
    out: Path | None = None,
) -> MemoryRecord:
    """Open every backend in a process of its own, one after the other, and see how far that process grows.

    Args:
        sources: runs or files; None is the last run.
        effort: the queries until the peak is read (``runs``), and the threads: some runtimes keep buffers for each.
        size: input height and width.
        batches: images per query, each in new processes.
        options: what runs them, and on which device.
        out: folder of the record.

    Raises:
        KdcError: as ``bench_latency``.
    """
    plans = make_plans(sources, sizes=(size,), batches=batches, options=options)
    check_place(plans[0].home, out)
    threads = effort.threads or cores()
    before = passport()
    meter, no_meter = open_meter() if options.device == "cuda" else (None, "")

    rows: list[MemoryRow] = []
    missing: list[NotMeasured] = []
    task = Task("memory", threads, effort.seed)
    for plan in plans:
        with started(plan, threads) as backends:
            for backend in console.progress(backends, len(backends), f"batch {plan.batch}"):
                if row := _measure(backend, plan, task, effort.runs, meter):
                    rows.append(row)
        missing += [lack for lack in plan.missing if lack not in missing]
    if not rows:
        raise ExportError(nothing_left(missing))

    flags = device_flags([row.backend for row in rows], before, passport(), options.device)
    if no_meter:
        flags.append(f"the memory of the GPU is that of torch's allocator alone: {no_meter}")
    record = MemoryRecord(
        device=options.device,
        size=plans[0].size,
        threads=threads,
        protocol=Protocol(runs=effort.runs, seed=effort.seed),
        rows=rows,
        not_measured=missing,
        flags=flags,
        passport=before,
    )
    return keep(record, plans[0].home, out)


def _measure(backend: Backend, plan: Plan, task: Task, runs: int, meter: Meter | None) -> MemoryRow | None:
    """Open one network in its idle process, run it and end the process; None where it is not available."""
    idle = backend.idle().held
    in_use = meter.memory_mib() if meter else None
    readings = Readings()
    with meter.turn(readings) if meter else contextlib.nullcontext():
        use = backend.memory(runs) if open_one(backend, plan, task) else None
    backend.end()

    if use is None:
        return None

    on_gpu = None
    if in_use is not None and readings.memory_mib:
        on_gpu = round(max(readings.memory_mib) - in_use, 1)
    return MemoryRow(
        backend=backend.identity(),
        batch=plan.batch,
        idle_mib=idle,
        opened_mib=round(use.held - idle, 1),
        peak_mib=round(use.peak - idle, 1),
        gpu_peak_mib=on_gpu,
        cuda_peak_mib=use.cuda_peak,
    )


def show_memory(result: MemoryRecord) -> None:
    """Print a measurement for people."""
    on_gpu = result.device == "cuda"
    columns = ["backend", "precision", "ran on", "batch", "opened", "peak", "file"]
    columns += ["GPU peak", "of it torch's"] if on_gpu else []
    cells = []
    for row in result.rows:
        backend = row.backend
        line = [backend.name, backend.precision, backend.ran_on, row.batch]
        line += [mebibytes(row.opened_mib), mebibytes(row.peak_mib), file_size(1e6 * backend.size_mb)]
        if on_gpu:  # the flags say why the first is not known; only torch has the second
            line.append("not measured" if row.gpu_peak_mib is None else mebibytes(row.gpu_peak_mib))
            line.append("-" if row.cuda_peak_mib is None else mebibytes(row.cuda_peak_mib))
        cells.append(line)

    setting = conditions(result.device, result.size, result.threads, result.passport)
    console.table(f"memory above the idle process, {setting}", columns, cells)
    console.say("opened: the runtime's library and the network; peak: with the queries' inputs, scratch and outputs")
    show_rest(result.not_measured, result.flags, f"record: {result.record}")
