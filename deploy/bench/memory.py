"""Memory: what a network adds to an idle process, opened and at its peak, and what it takes on disk and on a GPU."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...distill import console
from ...distill.errors import ExportError
from ..machine.gpu_meter import open_meter
from ..machine.passport import cores, passport
from ..runtimes.options import CPU, RuntimeOptions
from .plan import Source, make_plans, nothing_left
from .process import open_one, started
from .record import check, conditions, keep, ran_on, show_rest
from .statistics import device_flags

RUNS = 3


def bench_memory(
    sources: Sequence[Source] | None = None,
    *,
    size: tuple[int, int] | None = None,
    batches: Sequence[int] = (1,),
    threads: int | None = None,
    runs: int = RUNS,
    options: RuntimeOptions = CPU,
    out: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Open every backend in a process of its own, one after the other, and see how far that process grows.

    Args:
        sources: runs or files; None is the last run.
        size: input height and width.
        batches: images per query, each in new processes.
        threads: CPU threads of every backend: some runtimes keep buffers for each.
        runs: queries until the peak is read.
        options: what runs them, and on which device.
        out: folder of the record.
        seed: of the input image.

    Returns:
        ``rows`` in MiB above the idle process (Python with NumPy): ``opened_mib`` with the runtime's library and the
        network, ``peak_mib`` at most, input and output of a query included; ``gpu_peak_mib`` of the device above what
        was in use before (NVML), ``cuda_peak_mib`` of torch's allocator; None is not measured.

    Raises:
        KdcError: as ``bench_latency``.
    """
    for batch in batches:
        check(mode="net", seconds=1, rounds=1, batch=batch, threads=threads)
    plans = make_plans(sources, sizes=(size,), batches=batches, options=options)
    threads = threads or cores()
    before = passport()
    meter, no_meter = open_meter() if options.device == "cuda" else (None, "")
    rows: list[dict[str, Any]] = []
    missing: list[dict[str, str]] = []
    for plan in plans:
        with started(plan, threads) as every:
            for backend in console.progress(every, len(every), f"batch {plan.batch}"):
                idle = backend.ask("idle")["mib"]
                used = meter.memory_mib() if meter else None
                read: dict[str, list[Any]] = {}
                with meter.turn(read) if meter else contextlib.nullcontext():
                    there = open_one(backend, plan, threads=threads, mode="memory", seed=seed)
                    held = backend.ask("memory", runs=runs) if there else {}
                backend.close()
                if not there:
                    continue
                on_gpu = (
                    round(max(read["memory_mib"]) - used, 1) if used is not None and read.get("memory_mib") else None
                )
                rows.append(
                    {
                        **backend.identity(),
                        "batch": plan.batch,
                        "idle_mib": idle,
                        "opened_mib": round(held["held"] - idle, 1),
                        "peak_mib": round(held["peak"] - idle, 1),
                        "gpu_peak_mib": on_gpu,
                        "cuda_peak_mib": held["cuda_peak"],
                    }
                )
        missing += [m for m in plan.missing if m not in missing]
    if not rows:
        raise ExportError(nothing_left(missing))
    flags = device_flags(rows, before, passport(), options.device)
    if no_meter:
        flags.append(f"the memory of the GPU is that of torch's allocator alone: {no_meter}")
    result: dict[str, Any] = {
        "kind": "memory",
        "unit": "MiB above the idle process",
        "device": options.device,
        "size": list(plans[0].size),
        "threads": threads,
        "protocol": {"runs": runs, "seed": seed, "processes": True},
        "rows": rows,
        "not_measured": missing,
        "flags": flags,
        "passport": before,
    }
    return keep(result, plans[0].home, out)


def show(result: dict[str, Any]) -> None:
    """Print a measurement for people."""
    on_gpu = result["device"] == "cuda"
    columns = ["backend", "precision", "ran on", "batch", "opened MiB", "peak MiB", "file MB"]
    cells = []
    for row in result["rows"]:
        line = [row["name"], row["precision"], ran_on(row), row["batch"], f"{row['opened_mib']:.0f}"]
        line += [f"{row['peak_mib']:.0f}", f"{row['size_mb']:.1f}"]
        for key in ("gpu_peak_mib", "cuda_peak_mib") if on_gpu else ():
            line.append("not measured" if row[key] is None else f"{row[key]:.0f}")
        cells.append(line)
    columns += ["GPU peak MiB", "of it torch's"] if on_gpu else []
    console.table(f"memory above the idle process, {conditions(result)}", columns, cells)
    console.say("opened: the runtime's library and the network; peak: with the queries' inputs, scratch and outputs")
    show_rest(result)
