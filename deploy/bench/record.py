"""The record of a measurement: where it is kept, and the conditions it was taken under."""

import math
import platform
import time
from pathlib import Path
from typing import Any

from ...distill import console
from ...distill.errors import UsageError
from ...distill.run.files import write_json
from ...distill.run.folder import Run
from ..machine.passport import first_gpu

ROUNDS = 10
MODES = {"net": "network alone", "e2e": "compressed image to mask"}


def check(*, mode: str, seconds: float, rounds: int, batch: int, threads: int | None) -> None:
    """Refuse settings that cannot be measured with (UsageError)."""
    if mode not in MODES:
        raise UsageError(f"mode '{mode}' is not known; accepted: {', '.join(MODES)}")
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"--seconds {seconds}: it must be above 0 and end, such as 6")
    for flag, value in (("--rounds", rounds), ("--batch", batch), ("--threads", threads)):
        if value is not None and value < 1:
            raise UsageError(f"{flag} {value}: it must be above 0")


def keep(result: dict[str, Any], home: Run | None, out: Path | None, **raw: Any) -> dict[str, Any]:
    """Write a record, and ``raw`` with it, and return it with the file that holds it."""
    if home:
        home.remember_command()
    record = record_path(home, out, result["kind"])
    write_json(record, result | raw)
    return result | {"record": str(record)}


def record_path(run: Run | None, out: Path | None, kind: str) -> Path:
    """Name a new record: in ``out``, else in the run's ``bench/``, else in ``bench/`` here."""
    folder = out or (run.bench if run else Path("bench"))
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path, n = folder / f"{kind}-{stamp}.json", 2
    while path.exists():
        path, n = folder / f"{kind}-{stamp}-{n}.json", n + 1
    return path


def conditions(result: dict[str, Any]) -> str:
    """Say in a few words what a record was measured with and on."""
    h, w = result["size"]
    gpu = (first_gpu(result["passport"]["gpus"]) or {}).get("name", "GPU")
    where = result["passport"]["cpu"]["model"] or platform.machine() if result["device"] == "cpu" else gpu
    threads = f"{result['threads']} thread{'s' if result['threads'] > 1 else ''}"
    batch = f"batch {result['batch']}, " if "batch" in result else ""
    return f"{batch}{h}x{w}, {threads}, {where}"


def show_rest(result: dict[str, Any], record: str = "record") -> None:
    """Print what was not measured, what disturbed the rest, and where the record lies."""
    for m in result["not_measured"]:
        console.say(f"{m['file']}: {m['why']}")
    for flag in result["flags"]:
        console.warn(flag)
    console.say(f"{record}: {result['record']}")


def ran_on(row: dict[str, Any]) -> str:
    """Name runtime and provider that really ran, shortly: "torch cpu", "ort CPU", "ort CUDA", "OpenVINO CPU"."""
    if row["runtime"] == "onnxruntime":
        return f"ort {row['provider'].removesuffix('ExecutionProvider')}"
    return row["provider"]
