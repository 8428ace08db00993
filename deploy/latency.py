"""Latency, measured side by side: one process per backend, interleaved rounds, ratios with their uncertainty.

The protocol follows trtexec and MLPerf single-stream where they agree (warm-up, percentiles, one query at a time) and
adds interleaving: on a machine that others use too, sequential measurements drift apart by more than backends differ.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..distill import console, errors
from ..distill.errors import ExportError, KdcError, UsageError
from ..distill.run import Run, sha256, write_json
from .latency_worker import INPUTS, Worker
from .passport import cores, passport
from .sampling import flags, percentiles, ratio
from .sources import Source, agree, expand, is_onnx, of_batch, row_names

ROUNDS = 10


class Backend:
    """A worker process and what it has answered so far."""

    def __init__(self, source: Path | Run, label: str, threads: int, in_process: bool = False) -> None:
        """Start the process; it is idle until it gets an order."""
        self.source, self.label = source, label
        self.samples: list[list[float]] = []
        self.facts: dict[str, Any] = {}
        self.warmup: dict[str, Any] = {}
        self._worker = Worker() if in_process else None
        self._process: subprocess.Popen[str] | None = None
        if in_process:
            return
        count = str(threads)
        env = os.environ | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count}
        env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in sys.path if path))
        module = f"{__package__}.latency_worker"
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=env,
        )

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """Give an order and wait for the answer; a user's mistake is raised here as it was there.

        Raises:
            ExportError: the process died.
        """
        if self._worker is not None:
            answer = self._worker.answer({"do": do, **order})
        else:
            answer = self._send({"do": do, **order})
        if "error" in answer:
            raise getattr(errors, answer["kind"], KdcError)(answer["error"])
        return answer

    def _send(self, order: dict[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        with contextlib.suppress(OSError):  # a dead process shows as an empty answer
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if line:
            return json.loads(line)
        code = process.wait()
        self._stderr.seek(0)
        told = self._stderr.read().strip().splitlines()
        why = told[-1] if told else "it said nothing"
        raise ExportError(f"the process that measures {self.label} died (exit {code}): {why}")

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._stderr.close()


def bench_latency(
    sources: Sequence[Source] | None = None,
    *,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    threads: int | None = None,
    seconds: float = 6.0,
    rounds: int = ROUNDS,
    mode: str = "net",
    device: str = "cpu",
    provider: str | None = None,
    out: Path | None = None,
    seed: int = 0,
    in_process: bool = False,
) -> dict[str, Any]:
    """Measure runs (torch and every exported ONNX file) or single files against each other.

    Args:
        sources: runs or files; None is the last run. The first backend is what the others are compared with.
        size: input height and width (default: what the files were exported for, else the run's image size).
        batch: images per query; a file made for another batch is listed as not measured.
        threads: CPU threads of every backend (default: the cores of this process).
        seconds: measuring time of each backend, warm-up (at most twice that, at most 10 s) apart.
        rounds: how often the backends take turns.
        mode: "net" (the network alone) or "e2e" (uint8 image in, mask out).
        device: "cpu" or "cuda".
        provider: an ONNX Runtime provider for the ONNX files.
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
    if mode not in ("net", "e2e"):
        raise UsageError(f"mode '{mode}' is not known; accepted: net, e2e")
    if seconds <= 0 or rounds < 1 or batch < 1 or (threads is not None and threads < 1):
        raise UsageError("--seconds, --rounds, --batch and --threads must be above 0")
    chosen, missing, run = expand(sources, device)
    chosen, misfits = of_batch(chosen, batch)
    missing += misfits
    if not chosen:
        raise UsageError("nothing to measure here: " + "; ".join(f"{m['file']}: {m['why']}" for m in missing))
    if provider is not None and not any(is_onnx(source) for source in chosen):
        raise UsageError(f"--provider {provider} is for ONNX files, and none is measured here")
    threads = threads or cores()
    size, head = agree(chosen, size)
    before = passport()
    backends = [Backend(*pair, threads, in_process) for pair in zip(chosen, row_names(chosen), strict=True)]
    try:
        for backend in backends:
            backend.facts = backend.ask(
                "open",
                source=str(backend.source.path if isinstance(backend.source, Run) else backend.source),
                device=device,
                provider=provider if is_onnx(backend.source) else None,
                size=size,
                batch=batch,
                threads=threads,
                head=head,
                mode=mode,
                seed=seed,
            )
        for backend in backends:
            backend.warmup = backend.ask("warm", cap_s=min(10.0, 2 * seconds))
        slowest = max(backend.warmup["ms"] for backend in backends) / 1e3
        # a turn must hold a few runs, or the run that opens it and is not counted costs too much
        rounds = max(1, min(rounds, max(3, int(seconds / (4 * slowest)))))
        for _ in console.progress(range(rounds), rounds, "measuring"):
            for backend in backends:
                backend.samples.append(backend.ask("round", seconds=seconds / rounds)["ms"])
        after = passport()  # while they are open: clocks and throttling are those of the work
    finally:
        for backend in backends:
            backend.close()
    rows = [_row(backend, backends[0], batch) for backend in backends]
    result: dict[str, Any] = {
        "kind": "latency",
        "mode": mode,
        "unit": "ms per query",
        "device": device,
        "size": list(size),
        "batch": batch,
        "threads": threads,
        "protocol": {"rounds": rounds, "seconds": seconds, "inputs": INPUTS, "seed": seed, "processes": not in_process},
        "backends": rows,
        "not_measured": missing,
        "flags": flags(rows, before, after, device, rounds),
        "passport": before,
        "load_after": after["cpu"]["load"],
        "gpus_after": after["gpus"],
    }
    if run:
        run.remember_command()
    folder = out or (run.bench if run else Path("bench"))
    record = _fresh(folder)
    samples = [[[round(ms, 4) for ms in turn] for turn in backend.samples] for backend in backends]
    write_json(record, result | {"samples_ms": samples})
    return result | {"record": str(record)}


def _row(backend: Backend, first: Backend, batch: int) -> dict[str, Any]:
    file = Path(backend.facts["file"])
    row: dict[str, Any] = {"name": backend.label, **backend.facts}
    row |= {"sha256": sha256(file), "size_mb": round(file.stat().st_size / 1e6, 2)}
    row |= percentiles(backend.samples)
    row["images_per_s"] = round(1e3 * batch / row["p50"], 2)
    row["warmup"] = backend.warmup
    row["ratio"] = {"to": first.label, **ratio(first.samples, backend.samples)}
    return row


def _fresh(folder: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path, n = folder / f"latency-{stamp}.json", 2
    while path.exists():
        path, n = folder / f"latency-{stamp}-{n}.json", n + 1
    return path


def show(result: dict[str, Any]) -> None:
    """Print a measurement for people."""
    h, w = result["size"]
    what = "network alone" if result["mode"] == "net" else "image to mask"
    gpu = next((g["name"] for g in result["passport"]["gpus"]), "GPU")
    where = result["passport"]["cpu"]["model"] or platform.machine() if result["device"] == "cpu" else gpu
    threads = f"{result['threads']} thread{'s' if result['threads'] > 1 else ''}"
    title = f"latency, {what}, batch {result['batch']}, {h}x{w}, {threads}, {where}"
    mixed = len({row["head"] for row in result["backends"]}) > 1
    rows = []
    for row in result["backends"]:
        r = row["ratio"]
        times = [f"{row[key]:.2f}" for key in ("p50", "p90", "p95", "p99")]
        speed = f"{r['value']:.2f}x [{r['low']:.2f}, {r['high']:.2f}]" if r["to"] != row["name"] else "1.00x"
        name = f"{row['name']} ({row['head']})" if mixed else row["name"]
        rows.append([name, row["precision"], _ran_on(row), *times, speed, f"{row['size_mb']:.1f}"])
    columns = ["backend", "precision", "ran on", "p50 ms", "p90", "p95", "p99", "speed [95 % CI]", "MB"]
    console.table(title, columns, rows)
    for m in result["not_measured"]:
        console.say(f"{m['file']}: {m['why']}")
    for flag in result["flags"]:
        console.warn(flag)
    console.say(f"record with raw samples: {result['record']}")


def _ran_on(row: dict[str, Any]) -> str:
    """Name runtime and provider that really ran, shortly: "torch cpu", "ort CPU", "ort CUDA"."""
    return row["provider"] if row["runtime"] == "torch" else f"ort {row['provider'].removesuffix('ExecutionProvider')}"
