"""The ledger of a run: one line for every file that went through a gate."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...distill.errors import WeightsError, one_line
from ...distill.run.files import write_json
from ...distill.run.folder import Run
from ..parity.result import GateResult
from .beside import ENGINES, remove
from .lock import held

LEDGER = "gates.json"
LEDGER_CURE = "delete it, and kdc parity RUN measures every file anew"


def write_gate(run: "Run | Path", stage: str, result: GateResult, **facts: Any) -> Path:
    """Enter a result into the ledger of a run (or folder), in place of an older one of the same stage."""
    folder = run if isinstance(run, Path) else run.path
    entry = {"stage": stage, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **result.to_dict(), **facts}
    with held(folder, wait=True):  # for milliseconds, so that two commands keep each other's lines
        write_json(folder / LEDGER, [*(old for old in read_gates(folder) if old["stage"] != stage), entry])
    return folder / LEDGER


def read_gates(run: "Run | Path") -> list[dict[str, Any]]:
    """Return the ledger, oldest entry first; empty where there is none.

    Raises:
        WeightsError: it is broken.
    """
    path = (run if isinstance(run, Path) else run.path) / LEDGER
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text())
        if not isinstance(entries, list) or not all(isinstance(each, dict) and "stage" in each for each in entries):
            raise ValueError("it is no list of gates")
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read ({one_line(error)}); {LEDGER_CURE}") from error
    return entries


def discard(run: "Run | Path", files: Sequence[Path]) -> None:
    """Remove files of a run with what lies beside them and their lines of the ledger; a missing one is no error."""
    read_gates(run)  # before a file goes: it may be broken
    for file in files:
        remove(file)
    strike(run, files)


def strike(run: "Run | Path", files: Sequence[Path]) -> None:
    """Take the lines of some files out of the ledger."""
    folder, names = run if isinstance(run, Path) else run.path, {file.name for file in files}
    if any(entry.get("file") in names for entry in read_gates(folder)):
        with held(folder, wait=True):
            write_json(folder / LEDGER, [entry for entry in read_gates(folder) if entry.get("file") not in names])


def stage_of(path: Path) -> str:
    """Name the line of the ledger that a file has: ``onnx model.fp16``, ``engine model.fp32``."""
    kinds = {".onnx": "onnx", ".xml": "openvino", ".pt2": "aoti"} | dict.fromkeys(ENGINES, "engine")
    return f"{kinds[path.suffix.lower()]} {path.name.removesuffix(path.suffix)}"
