"""Throughput: how many images per second a backend can do, over batches and streams that work at the same time.

Never mixed with latency: a query of a large batch, or beside others, takes longer while more images get done.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from ...distill import console
from ...distill.errors import ExportError, UsageError
from ...distill.run.records import Record
from ...distill.units import number
from ..machine.gpu_meter import GpuUse, Meter, Readings, meter_flags, open_meter, summary
from ..machine.passport import Passport, cores, passport
from ..runtimes.options import CPU, RuntimeOptions
from .disturbances import NOISY, device_flags, listed
from .plan import NotMeasured, Plan, Size, Source, make_plans, nothing_left
from .process import Backend, open_one, started
from .protocol import Identity, Task
from .record import Effort, Protocol, check_place, conditions, keep, show_rest

EFFORT = Effort(seconds=3.0, rounds=5)


@dataclass(frozen=True)
class Rates(Record):
    """Images per second: median, least and most over the rounds, their coefficient of variation, and each round's."""

    images_per_s: float
    least: float
    most: float
    cv: float
    rounds: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Rates":
        """Sum up the rounds."""
        rates = np.asarray(values)
        return cls(
            images_per_s=round(float(np.median(rates)), 3),
            least=round(float(rates.min()), 3),
            most=round(float(rates.max()), 3),
            cv=round(float(rates.std() / rates.mean()), 4),
            rounds=[round(value, 3) for value in values],
        )


@dataclass(frozen=True)
class OnGpu(Record):
    """What the GPU did meanwhile; None is not known."""

    gpu: GpuUse | None


@dataclass(frozen=True)
class ThroughputRow(Record):
    """What one backend did with one batch and number of streams; ``on_gpu`` is of a measurement on the GPU."""

    MERGED: ClassVar = ("backend", "rates", "on_gpu")

    backend: Identity
    batch: int
    streams: int
    rates: Rates
    on_gpu: OnGpu | None

    @property
    def name(self) -> str:
        """The name of the backend."""
        return self.backend.name


@dataclass(frozen=True)
class Best(Record):
    """The setting with which a backend does most images per second."""

    images_per_s: float
    batch: int
    streams: int


@dataclass(frozen=True, kw_only=True)
class ThroughputRecord(Record):
    """Images per second by backend, batch and streams; the file ``record`` holds it.

    Attributes:
        threads: CPU threads of each backend, shared out among its streams.
        best: by backend.
        passport: of the machine, before it began.
        flags: what may have disturbed it.
    """

    OPTIONAL: ClassVar = ("record",)

    kind: str = "throughput"
    unit: str = "images per second"
    device: str
    size: Size
    threads: int
    protocol: Protocol
    rows: list[ThroughputRow]
    best: dict[str, Best]
    not_measured: list[NotMeasured]
    passport: Passport
    flags: list[str]
    record: str | None = None


@dataclass
class RateSamples:
    """The rounds of one backend at one setting so far."""

    backend: Backend
    rates: list[float] = field(default_factory=list)
    #: of the GPU, while it worked
    readings: Readings = field(default_factory=Readings)
    images: int = 0


def bench_throughput(
    sources: Sequence[Source] | None = None,
    effort: Effort = EFFORT,
    *,
    size: tuple[int, int] | None = None,
    batches: Sequence[int] = (1, 4),
    streams: Sequence[int] = (1, 2),
    options: RuntimeOptions = CPU,
    out: Path | None = None,
) -> ThroughputRecord:
    """Keep every backend busy with every number of images per query and of queries at a time.

    Args:
        sources: runs or files; None is the last run.
        effort: seconds and rounds are those of each setting; the streams of a backend share its threads.
        size: input height and width.
        batches: images per query; a file made for another batch is listed as not measured, and refused only where no
            file fits any.
        streams: how many instances of the network work at a time, each in a thread of its own, which is also a stream
            of its own on a GPU.
        options: what runs them, and on which device.
        out: folder of the record.

    Raises:
        KdcError: as ``bench_latency``.
    """
    if not streams or min(streams) < 1:
        raise UsageError("--streams must be above 0")
    plans = make_plans(sources, sizes=(size,), batches=batches, options=options)
    check_place(plans[0].home, out)
    threads = effort.threads or cores()
    before = passport()
    meter, no_meter = open_meter() if options.device == "cuda" else (None, "")

    turns = len(streams) * sum(len(plan.candidates) for plan in plans)
    console.say(
        f"{console.plural(turns, 'setting')}: about {number(turns * effort.seconds)} s of measuring, warm-up apart"
    )

    # every batch in processes of its own, every number of streams in the same
    rows: list[ThroughputRow] = []
    missing: list[NotMeasured] = []
    for plan in plans:
        with started(plan, threads, effort.in_process) as backends:
            for count in streams:
                task = Task("net", max(1, threads // count), effort.seed, count)
                # what cannot be opened once is not tried again
                backends = [backend for backend in backends if open_one(backend, plan, task)]
                if not backends:
                    break
                for samples in _measure(backends, plan, effort, meter):
                    on_gpu = OnGpu(summary(samples.readings, samples.images)) if options.device == "cuda" else None
                    rates = Rates.of(samples.rates)
                    rows.append(ThroughputRow(samples.backend.identity(), plan.batch, count, rates, on_gpu))
                    samples.backend.close()
        missing += [lack for lack in plan.missing if lack not in missing]
    if not rows:  # only opening tells which batches an engine takes
        raise ExportError(nothing_left(missing))

    flags = _flags(rows, before, passport(), options.device)  # the processes of this measurement have ended
    if no_meter:
        flags.append(f"power, energy and clocks of the GPU are not measured: {no_meter}")
    record = ThroughputRecord(
        device=options.device,
        size=plans[0].size,
        threads=threads,
        protocol=Protocol(effort.rounds, effort.seconds, seed=effort.seed, processes=not effort.in_process),
        rows=rows,
        best=_best(rows),
        not_measured=missing,
        passport=before,
        flags=flags,
    )
    return keep(record, plans[0].home, out)


def _measure(backends: Sequence[Backend], plan: Plan, effort: Effort, meter: Meter | None) -> list[RateSamples]:
    """Let the backends take turns."""
    seconds, rounds = effort.seconds, effort.rounds
    all_samples = [RateSamples(backend) for backend in backends]
    for backend in backends:
        backend.warm(min(5.0, 2 * seconds))

    for _ in console.progress(range(rounds), rounds, f"batch {plan.batch}"):
        for samples in all_samples:
            with meter.turn(samples.readings) if meter else contextlib.nullcontext():
                flow = samples.backend.flow(seconds / rounds)
            samples.rates.append(flow.images / flow.seconds)
            # every query costs energy, those that are too early to count in the rate too
            samples.images += plan.batch * flow.queries
    return all_samples


def _best(rows: Sequence[ThroughputRow]) -> dict[str, Best]:
    best: dict[str, Best] = {}
    for row in rows:
        rate = row.rates.images_per_s
        if row.name not in best or rate > best[row.name].images_per_s:
            best[row.name] = Best(rate, row.batch, row.streams)
    return best


def _flags(rows: Sequence[ThroughputRow], before: Passport, after: Passport, device: str) -> list[str]:
    noisy = listed(
        (f"{row.name} batch {row.batch} streams {row.streams}", f"{row.rates.cv:.0%}")
        for row in rows
        if row.rates.cv > NOISY
    )
    flags = [f"rounds vary by more than {NOISY:.0%} ({noisy})"] if noisy else []
    flags += device_flags([row.backend for row in rows], before, after, device)
    for row in rows:
        flags += meter_flags(row.name, row.on_gpu and row.on_gpu.gpu)
    return flags


def show_throughput(result: ThroughputRecord) -> None:
    """Print a measurement for people."""
    cells = []
    for row in result.rows:
        best, backend, rates = result.best[row.name], row.backend, row.rates
        mark = "best" if (best.batch, best.streams) == (row.batch, row.streams) else ""
        each = [number(rates.images_per_s), f"{number(rates.least)} to {number(rates.most)}", mark]
        cells.append([row.name, backend.precision, backend.ran_on, row.batch, row.streams, *each])

    columns = ["backend", "precision", "ran on", "batch", "streams", "images/s", "over the rounds", ""]
    setting = conditions(result.device, result.size, result.threads, result.passport)
    console.table(f"throughput, {setting}", columns, cells)
    show_rest(result.not_measured, result.flags, f"record: {result.record}")
