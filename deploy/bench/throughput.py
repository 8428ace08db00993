"""Throughput: how many images per second a backend can do, over batches and streams that work at the same time.

Never mixed with latency: a query of a large batch, or beside others, takes longer while more images get done.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...distill import console
from ...distill.errors import ExportError, UsageError
from ..machine.gpu_meter import meter_flags, open_meter, summary
from ..machine.passport import cores, passport
from ..runtimes.options import CPU, RuntimeOptions
from .plan import Plan, Source, make_plans, nothing_left
from .process import Backend, open_one, started
from .record import check, conditions, keep, ran_on, show_rest
from .statistics import NOISY, device_flags

ROUNDS = 5


def bench_throughput(
    sources: Sequence[Source] | None = None,
    *,
    size: tuple[int, int] | None = None,
    batches: Sequence[int] = (1, 4),
    streams: Sequence[int] = (1, 2),
    threads: int | None = None,
    seconds: float = 3.0,
    rounds: int = ROUNDS,
    options: RuntimeOptions = CPU,
    out: Path | None = None,
    seed: int = 0,
    in_process: bool = False,
) -> dict[str, Any]:
    """Keep every backend busy with every number of images per query and of queries at a time.

    Args:
        sources: runs or files; None is the last run.
        size: input height and width.
        batches: images per query; a file made for another batch is listed as not measured, and refused only where no
            file fits any.
        streams: how many instances of the network work at a time, each in a thread of its own, which is also a stream
            of its own on a GPU.
        threads: CPU threads of every backend, shared out among its streams.
        seconds: measuring time of each backend at each setting, warm-up apart.
        rounds: how often the backends take turns at each setting.
        options: what runs them, and on which device.
        out: folder of the record.
        seed: of the input images.
        in_process: measure within this process.

    Returns:
        ``rows`` with images per second (median, least and most over the rounds) by backend, batch and streams;
        ``best`` by backend; what was not measured; flags and the device passport.

    Raises:
        KdcError: as ``bench_latency``.
    """
    if not streams or min(streams) < 1:
        raise UsageError("--streams must be above 0")
    for batch in batches:
        check(mode="net", seconds=seconds, rounds=rounds, batch=batch, threads=threads)
    plans = make_plans(sources, sizes=(size,), batches=batches, options=options)
    threads = threads or cores()
    before = passport()
    meter, no_meter = open_meter() if options.device == "cuda" else (None, "")
    rows: list[dict[str, Any]] = []
    missing: list[dict[str, str]] = []
    for plan in plans:
        with started(plan, threads, in_process) as every:
            for count in streams:
                each = max(1, threads // count)
                order = {"threads": each, "mode": "net", "seed": seed, "streams": count}
                there = [backend for backend in every if open_one(backend, plan, **order)]
                every = there  # what cannot be opened once is not tried again
                if not there:
                    break
                rates, reads = _measure(there, plan, seconds, rounds, meter)
                for backend in there:
                    row = {**backend.identity(), "batch": plan.batch, "streams": count}
                    row |= _rates(rates[backend.label])
                    if options.device == "cuda":
                        read, images = reads[backend.label]
                        row["gpu"] = summary(read, images)
                    rows.append(row)
                    backend.ask("close")
        missing += [m for m in plan.missing if m not in missing]
    if not rows:  # only opening tells which batches an engine takes
        raise ExportError(nothing_left(missing))
    result: dict[str, Any] = {
        "kind": "throughput",
        "unit": "images per second",
        "device": options.device,
        "size": list(plans[0].size),
        "threads": threads,
        "protocol": {"rounds": rounds, "seconds": seconds, "seed": seed, "processes": not in_process},
        "rows": rows,
        "best": _best(rows),
        "not_measured": missing,
        "passport": before,
    }
    result["flags"] = _flags(rows, before, passport(), options.device)  # the processes of this measurement have ended
    if no_meter:
        result["flags"].append(f"power, energy and clocks of the GPU are not measured: {no_meter}")
    return keep(result, plans[0].home, out)


def _measure(
    backends: list[Backend], plan: Plan, seconds: float, rounds: int, meter: Any
) -> tuple[dict[str, list[float]], dict[str, tuple[dict[str, list[Any]], int]]]:
    """Let the backends take turns; images per second of each round, and what the GPU did meanwhile."""
    rates: dict[str, list[float]] = {backend.label: [] for backend in backends}
    reads: dict[str, tuple[dict[str, list[Any]], int]] = {backend.label: ({}, 0) for backend in backends}
    for backend in backends:
        backend.ask("warm", cap_s=min(5.0, 2 * seconds))
    label = f"batch {plan.batch}"
    for _ in console.progress(range(rounds), rounds, label):
        for backend in backends:
            read, images = reads[backend.label]
            if meter is None:
                answer = backend.ask("flow", seconds=seconds / rounds)
            else:
                with meter.turn(read):
                    answer = backend.ask("flow", seconds=seconds / rounds)
            rates[backend.label].append(answer["images"] / answer["seconds"])
            # every query has cost energy, those that are too early to count in the rate too
            reads[backend.label] = read, images + plan.batch * answer["queries"]
    return rates, reads


def _rates(values: list[float]) -> dict[str, Any]:
    rates = np.asarray(values)
    return {
        "images_per_s": round(float(np.median(rates)), 3),
        "least": round(float(rates.min()), 3),
        "most": round(float(rates.max()), 3),
        "cv": round(float(rates.std() / rates.mean()), 4),
        "rounds": [round(value, 3) for value in values],
    }


def _best(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["images_per_s"] > best.get(row["name"], {"images_per_s": 0.0})["images_per_s"]:
            best[row["name"]] = {key: row[key] for key in ("images_per_s", "batch", "streams")}
    return best


def _flags(rows: list[dict[str, Any]], before: dict[str, Any], after: dict[str, Any], device: str) -> list[str]:
    noisy = ", ".join(
        f"{row['name']} batch {row['batch']} streams {row['streams']} {row['cv']:.0%}"
        for row in rows
        if row["cv"] > NOISY
    )
    said = [f"rounds vary by more than {NOISY:.0%} ({noisy})"] if noisy else []
    return said + device_flags(rows, before, after, device) + meter_flags(rows)


def show(result: dict[str, Any]) -> None:
    """Print a measurement for people."""
    cells = []
    for row in result["rows"]:
        best = result["best"][row["name"]]
        top = (best["batch"], best["streams"]) == (row["batch"], row["streams"])
        rate, least, most = (f"{row[key]:.2f}" for key in ("images_per_s", "least", "most"))
        cells.append(
            [
                row["name"],
                row["precision"],
                ran_on(row),
                row["batch"],
                row["streams"],
                rate,
                f"{least} to {most}",
                "best" if top else "",
            ]
        )
    columns = ["backend", "precision", "ran on", "batch", "streams", "images/s", "over the rounds", ""]
    console.table(f"throughput, {conditions(result)}", columns, cells)
    show_rest(result)
