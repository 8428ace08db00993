"""Latency, measured side by side: one process per backend, interleaved rounds, ratios with their uncertainty.

The protocol follows trtexec and MLPerf single-stream where they agree (warm-up, percentiles, one query at a time) and
adds interleaving: on a machine that others use too, sequential measurements drift apart by more than backends differ.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...distill import console
from ...distill.units import number
from ..machine.gpu_meter import Meter, Readings, open_meter, summary
from ..machine.passport import Passport, cores, first_gpu, passport
from ..machine.roofline import share
from ..runtimes.options import CPU, RuntimeOptions
from .costs import deployed
from .disturbances import latency_flags
from .latency_record import LatencyRecord, LatencyRow, OnGpu
from .plan import NotMeasured, Plan, Source, make_plan
from .process import Backend, open_all, started
from .protocol import Task, Warmup
from .record import EFFORT, Effort, Protocol, check_place, keep
from .statistics import parts_summary, percentiles, ratio
from .worker import INPUTS

#: a backend that is too slow for ``runs`` may take so many times ``seconds``
PATIENCE = 2


@dataclass
class Timing:
    """The samples of one backend so far."""

    backend: Backend
    warmup: Warmup
    samples: list[list[float]] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    #: of the GPU, while it worked
    readings: Readings = field(default_factory=Readings)
    queries: int = 0
    #: what the samples took on the clock
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Runs a second, one after another."""
        return sum(map(len, self.samples)) / self.seconds

    def turn(self, meter: Meter | None, seconds: float, runs: int, cap_s: float | None) -> None:
        """Measure for one round."""
        with meter.turn(self.readings) if meter else contextlib.nullcontext():
            turn = self.backend.round(seconds, runs, cap_s)
        self.samples.append(turn.ms)
        self.queries += turn.queries
        self.seconds += turn.seconds
        for name, values in turn.parts.items():
            self.parts.setdefault(name, []).extend(values)


def bench_latency(
    sources: Sequence[Source] | None = None,
    effort: Effort = EFFORT,
    *,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    options: RuntimeOptions = CPU,
    out: Path | None = None,
) -> LatencyRecord:
    """Measure runs (torch and every exported file) or single files against each other.

    Args:
        sources: runs or files; None is the last run. The first backend is what the others are compared with.
        effort: warm-up takes at most twice its ``seconds``, at most 10 s; ``runs`` ends at twice ``seconds``.
        size: input height and width (default: what the files were exported for, else the run's image size).
        batch: images per query; a file made for another batch is listed as not measured.
        options: what runs them, and on which device.
        out: folder of the record (default: ``bench/`` of the run, else ``bench/`` here).

    Returns:
        The record; the file that holds it has the raw samples too.

    Raises:
        UsageError: nothing to measure, or flags that do not fit the files.
        WeightsError: a broken file.
        ExportError: a backend, device or provider that is not available; a fallback is refused, never measured.
    """
    return time_plan(make_plan(sources, size=size, batch=batch, options=options), effort, out)


def time_plan(plan: Plan, effort: Effort, out: Path | None, before: Passport | None = None) -> LatencyRecord:
    """Measure a plan as ``bench_latency`` does; ``before`` is an earlier passport."""
    check_place(plan.home, out)
    threads, seconds, runs = effort.threads or cores(), effort.seconds, effort.runs
    before = before or passport()
    on_gpu = plan.options.device == "cuda"
    meter, no_meter = open_meter() if on_gpu else (None, "")

    task = Task(effort.mode, threads, effort.seed, codec=effort.codec)
    with started(plan, threads, effort.in_process) as backends:
        timings = _warmed(backends, plan, task, seconds)
        typical = [timing.warmup.ms / 1e3 for timing in timings]
        rounds = min(effort.rounds, *(_rounds_of(each, seconds, runs) for each in typical))
        cap = PATIENCE * seconds / rounds
        expected = sum(max(_budget(each, seconds, runs), 2 * rounds * each) for each in typical)
        console.say(f"measuring takes about {number(expected, 2)} s, in {console.plural(rounds, 'round')}")
        for _ in console.progress(range(rounds), rounds, "measuring"):
            for timing in timings:
                timing.turn(meter, seconds / rounds, math.ceil(runs / rounds), cap)

        after = passport()  # while they are open: clocks and throttling are those of the work

    gpu = first_gpu(before.gpus) if on_gpu else None
    rows = [_row(timing, timings[0], plan, gpu.name if gpu else None) for timing in timings]
    flags = latency_flags(rows, before, after, plan.options.device, rounds, effort.rounds)
    if no_meter:
        flags.append(f"power, energy and clocks of the GPU are not measured: {no_meter}")
    codec = effort.codec if effort.mode == "e2e" else None
    protocol = Protocol(rounds, seconds, runs, INPUTS, effort.seed, not effort.in_process, codec)

    record = LatencyRecord(
        mode=effort.mode,
        device=plan.options.device,
        size=plan.size,
        batch=plan.batch,
        threads=threads,
        protocol=protocol,
        backends=rows,
        not_measured=plan.missing,
        flags=flags,
        passport=before,
        load_after=after.cpu.load,
        gpus_after=after.gpus,
    )

    samples = [[[round(ms, 4) for ms in turn] for turn in timing.samples] for timing in timings]
    parts = [{name: [round(ms, 4) for ms in all_] for name, all_ in timing.parts.items()} for timing in timings]
    return keep(record, plan.home, out, samples_ms=samples, parts_ms=parts)


def _warmed(backends: list[Backend], plan: Plan, task: Task, seconds: float) -> list[Timing]:
    """Open every backend and warm it up, after a forecast of what is to come."""
    cap, count = min(10.0, 2 * seconds), len(backends)
    console.say(
        f"{console.plural(count, 'backend')}: opening and compiling first, then at most {number(count * cap)} s to "
        f"warm up and {number(count * seconds)} to {number(count * PATIENCE * seconds)} s of measuring"
    )
    available = open_all(backends, plan, task)
    timings = []
    for backend in console.progress(available, len(available), "warming up"):
        timings.append(Timing(backend, replace(backend.warm(cap), opened_s=backend.opened_s)))
    return timings


def _budget(typical: float, seconds: float, runs: int) -> float:
    """Return the seconds that a backend of ``typical`` seconds a run is measured."""
    return max(seconds, min(runs * typical, PATIENCE * seconds))


def _rounds_of(typical: float, seconds: float, runs: int) -> int:
    """Return how many rounds a backend of ``typical`` seconds a run can be measured in.

    A turn must hold a few runs, or the run that opens it and is not counted costs too much; of a slow backend there
    are three turns of one counted run, or as many as the time allows.
    """
    shortest = min(3, int(PATIENCE * seconds / (2 * typical)))
    return max(1, shortest, int(_budget(typical, seconds, runs) / (4 * typical)))


def _row(timing: Timing, first: Timing, plan: Plan, gpu: str | None) -> LatencyRow:
    backend = timing.backend.identity()
    times = percentiles(timing.samples)
    parts = parts_summary(timing.parts) if timing.parts else None

    on_gpu = None
    if plan.options.device == "cuda":
        cost = deployed(timing.backend.candidate.source, plan.size)
        ms = parts["compute"].p50 if parts and "compute" in parts else times.p50
        reached = share(gpu, backend.precision, backend.tf32, cost.macs, plan.batch, ms)
        if isinstance(reached, str):
            plan.missing.append(NotMeasured(backend.name, f"share of peak not measured: {cost.why or reached}"))
        roofline = None if isinstance(reached, str) else reached
        on_gpu = OnGpu(summary(timing.readings, plan.batch * timing.queries), roofline)

    return LatencyRow(
        backend=backend,
        times=times,
        images_per_s=round(plan.batch * timing.rate, 2),
        warmup=timing.warmup,
        ratio=ratio(first.backend.label, first.samples, timing.samples),
        parts=parts,
        on_gpu=on_gpu,
    )
