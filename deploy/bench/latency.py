"""Latency, measured side by side: one process per backend, interleaved rounds, ratios with their uncertainty.

The protocol follows trtexec and MLPerf single-stream where they agree (warm-up, percentiles, one query at a time) and
adds interleaving: on a machine that others use too, sequential measurements drift apart by more than backends differ.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...distill import console
from ..machine.gpu_meter import Meter, open_meter, summary
from ..machine.passport import cores, first_gpu, passport
from ..machine.roofline import share
from ..runtimes.options import CPU, RuntimeOptions
from .costs import deployed
from .plan import Plan, Source, make_plan
from .process import Backend, opened, started
from .record import MODES, ROUNDS, check, conditions, keep, ran_on, show_rest
from .statistics import flags, parts_summary, percentiles, ratio
from .worker import INPUTS

#: a backend that is too slow for the runs asked for may take so many times the seconds asked for
PATIENCE = 10


@dataclass
class Timing:
    """What one backend has shown so far."""

    backend: Backend
    samples: list[list[float]] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    #: of the GPU, while it worked
    read: dict[str, list[Any]] = field(default_factory=dict)
    queries: int = 0

    def turn(self, meter: Meter | None, **order: Any) -> None:
        """Measure for one round."""
        with meter.turn(self.read) if meter else contextlib.nullcontext():
            answer = self.backend.ask("round", **order)
        self.samples.append(answer["ms"])
        self.queries += answer["queries"]
        for name, values in answer["parts"].items():
            self.parts.setdefault(name, []).extend(values)


def bench_latency(
    sources: Sequence[Source] | None = None,
    *,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    threads: int | None = None,
    seconds: float = 6.0,
    runs: int = 1,
    rounds: int = ROUNDS,
    mode: str = "net",
    codec: str = "jpg",
    options: RuntimeOptions = CPU,
    out: Path | None = None,
    seed: int = 0,
    in_process: bool = False,
) -> dict[str, Any]:
    """Measure runs (torch and every exported file) or single files against each other.

    Args:
        sources: runs or files; None is the last run. The first backend is what the others are compared with.
        size: input height and width (default: what the files were exported for, else the run's image size).
        batch: images per query; a file made for another batch is listed as not measured.
        threads: CPU threads of every backend (default: the cores of this process).
        seconds: measuring time of each backend, warm-up (at most twice that, at most 10 s) apart.
        runs: how many runs each backend does at least, unless that takes ten times ``seconds``.
        rounds: how often the backends take turns.
        mode: "net" (the network alone) or "e2e" (compressed image in memory to mask, and what each stage takes).
        codec: of the images in mode "e2e": "jpg" or "png".
        options: what runs them, and on which device.
        out: folder of the record (default: ``bench/`` of the run, else ``bench/`` here).
        seed: of the input images.
        in_process: measure within this process: quicker to start, but backends disturb each other.

    Returns:
        The record without its raw samples: milliseconds per query in ``backends``, what was not measured and why,
        ``flags`` (what disturbs these numbers), the device passport, and the file that holds all of it.

    Raises:
        UsageError: nothing to measure, or flags that do not fit the files.
        WeightsError: a broken file.
        ExportError: a backend, device or provider that is not to be had; a fallback is refused, never measured.
    """
    check(mode=mode, seconds=seconds, rounds=rounds, batch=batch, threads=threads)
    plan = make_plan(sources, size=size, batch=batch, options=options)
    return time_plan(
        plan,
        threads=threads,
        seconds=seconds,
        runs=runs,
        rounds=rounds,
        mode=mode,
        codec=codec,
        out=out,
        seed=seed,
        in_process=in_process,
    )


def time_plan(
    plan: Plan,
    *,
    threads: int | None,
    seconds: float,
    runs: int,
    rounds: int,
    mode: str,
    codec: str,
    out: Path | None,
    seed: int,
    in_process: bool = False,
    before: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Do what ``bench_latency`` describes with sources that are chosen already; ``before`` is an earlier passport."""
    threads = threads or cores()
    before = before or passport()
    meter, no_meter = open_meter() if plan.options.device == "cuda" else (None, "")
    with started(plan, threads, in_process) as every:
        there = opened(every, plan, threads=threads, mode=mode, seed=seed, codec=codec)
        timings = [Timing(backend) for backend in there]
        for backend in there:
            backend.warmup = backend.ask("warm", cap_s=min(10.0, 2 * seconds))
        asked = rounds
        rounds = min(rounds, *(_rounds_of(backend.warmup["ms"] / 1e3, seconds, runs) for backend in there))
        cap = PATIENCE * seconds / rounds if runs > 1 else None
        for _ in console.progress(range(rounds), rounds, "measuring"):
            for timing in timings:
                timing.turn(meter, seconds=seconds / rounds, runs=math.ceil(runs / rounds), cap_s=cap)
        after = passport()  # while they are open: clocks and throttling are those of the work
    gpu = first_gpu(before["gpus"]) if plan.options.device == "cuda" else None
    rows = [_row(timing, timings[0], plan, (gpu or {}).get("name")) for timing in timings]
    result: dict[str, Any] = {
        "kind": "latency",
        "mode": mode,
        "unit": "ms per query",
        "device": plan.options.device,
        "size": list(plan.size),
        "batch": plan.batch,
        "threads": threads,
        "protocol": {
            "rounds": rounds,
            "seconds": seconds,
            "runs": runs,
            "inputs": INPUTS,
            "seed": seed,
            "processes": not in_process,
        },
        "backends": rows,
        "not_measured": plan.missing,
        "flags": flags(rows, before, after, plan.options.device, rounds, asked),
        "passport": before,
        "load_after": after["cpu"]["load"],
        "gpus_after": after["gpus"],
    }
    if mode == "e2e":
        result["protocol"]["codec"] = codec
    if no_meter:
        result["flags"].append(f"power, energy and clocks of the GPU are not measured: {no_meter}")
    samples = [[[round(ms, 4) for ms in turn] for turn in timing.samples] for timing in timings]
    parts = [{name: [round(ms, 4) for ms in all_] for name, all_ in timing.parts.items()} for timing in timings]
    return keep(result, plan.home, out, samples_ms=samples, parts_ms=parts)


def _rounds_of(typical: float, seconds: float, runs: int) -> int:
    """Return how many rounds a backend of ``typical`` seconds a run can be measured in.

    A turn must hold a few runs, or the run that opens it and is not counted costs too much.
    """
    budget = max(seconds, min(runs * typical, PATIENCE * seconds))
    return max(3, int(budget / (4 * typical)))


def _row(timing: Timing, first: Timing, plan: Plan, gpu: str | None) -> dict[str, Any]:
    backend = timing.backend
    row: dict[str, Any] = {**backend.identity(), **percentiles(timing.samples)}
    row["images_per_s"] = round(1e3 * plan.batch / row["p50"], 2)
    row["warmup"] = backend.warmup
    row["ratio"] = {"to": first.backend.label, **ratio(first.samples, timing.samples)}
    if timing.parts:
        row["parts"] = parts_summary(timing.parts)
    if plan.options.device == "cuda":
        row["gpu"] = summary(timing.read, plan.batch * timing.queries)
        macs = deployed(backend.source, plan.size)[1]
        ms = row["parts"]["compute"]["p50"] if "compute" in row.get("parts", {}) else row["p50"]
        row["roofline"] = share(gpu, row["precision"], row["tf32"], macs, plan.batch, ms)
    return row


def show(result: dict[str, Any]) -> None:
    """Print a measurement for people."""
    mixed = len({row["head"] for row in result["backends"]}) > 1
    rows = []
    for row in result["backends"]:
        r = row["ratio"]
        times = [f"{row[key]:.2f}" for key in ("p50", "p90", "p95", "p99")]
        speed = f"{r['value']:.2f}x [{r['low']:.2f}, {r['high']:.2f}]" if r["to"] != row["name"] else "1.00x"
        name = f"{row['name']} ({row['head']})" if mixed else row["name"]
        rows.append([name, row["precision"], ran_on(row), *times, speed, f"{row['size_mb']:.1f}"])
    columns = ["backend", "precision", "ran on", "p50 ms", "p90", "p95", "p99", "speed [95 % CI]", "MB"]
    console.table(f"latency, {MODES[result['mode']]}, {conditions(result)}", columns, rows)
    _show_parts(result["backends"])
    if result["device"] == "cuda":
        _show_gpu(result["backends"])
    show_rest(result, "record with raw samples")


def _show_parts(rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row.get("parts", {}) if name != "total"))
    if not names:
        return
    cells = []
    for row in rows:
        parts = row.get("parts", {})
        cells.append([row["name"], *(f"{parts[name]['p50']:.2f}" if name in parts else "-" for name in names)])
    console.table("parts of a query, p50 ms", ["backend", *names], cells)


def _show_gpu(rows: list[dict[str, Any]]) -> None:
    none = "not measured"
    cells = []
    for row in rows:
        read, roof = row.get("gpu") or {}, row.get("roofline")
        energy = read.get("energy_per_image_j")
        cells.append(
            [
                row["name"],
                f"{read['power_w']['median']:.0f}" if "power_w" in read else none,
                f"{read['sm_mhz']['median']:.0f}" if "sm_mhz" in read else none,
                f"{read['temperature_c']}" if "temperature_c" in read else none,
                none if energy is None else f"{energy:.3g}",
                f"{roof['share']:.1%} of {roof['peak_tflops']:g} ({roof['kind']})" if roof else none,
            ]
        )
    columns = ["backend", "power W", "SM MHz", "at most C", "J per image", "share of peak TFLOP/s"]
    console.table("the GPU meanwhile", columns, cells)
    if sources := sorted({row["roofline"]["source"] for row in rows if row.get("roofline")}):
        console.say(f"peak: {', '.join(sources)}; FLOPs = 2 x MACs of the convolutions")
