"""The ledger of a run: one line for every file that went through a gate."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from ...distill.errors import WeightsError, one_line
from ...distill.run.files import write_json
from ...distill.run.folder import Run
from ...distill.run.lock import held
from ...distill.run.records import Record
from ...distill.run.seal import check_sealed
from .beside import ENGINES, GateRow, remove_artefact

LEDGER = "gates.json"
LEDGER_CURE = "delete it, and kdc parity RUN measures every file anew"


def write_gate(
    run: "Run | Path",
    stage: str,
    result: Record,
    file: str | None = None,
    left_high: Sequence[str] | None = None,
    origin: str | None = None,
) -> Path:
    """Enter a result into the ledger of a run (or folder), in place of an older one of the same stage.

    Args:
        run: whose ledger it is.
        stage: see ``stage_of``.
        result: of the gate.
        file: name of the file that was gated.
        left_high: see ``GateRow``.
        origin: name of what the file was compared with.
    """
    folder = run if isinstance(run, Path) else run.path
    facts = {"file": file, "left_high": left_high, "origin": origin}
    row = {"stage": stage, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **result.to_dict()}
    row |= {key: value for key, value in facts.items() if value is not None}
    with held(folder, wait=True):  # for milliseconds, so that two commands keep each other's lines
        _write(folder, [*(old for old in read_gates(folder) if old.stage != stage), GateRow(row)])
    return folder / LEDGER


def read_gates(run: "Run | Path") -> list[GateRow]:
    """Return the ledger, oldest row first; empty where there is none.

    Raises:
        WeightsError: it is broken, or was changed since kdc wrote it.
    """
    path = (run if isinstance(run, Path) else run.path) / LEDGER
    if not path.exists():
        return []
    check_sealed(path)
    try:
        rows = json.loads(path.read_text())
        if not isinstance(rows, list):
            raise ValueError("it is no list of gates")
        return [GateRow.read(row) for row in rows]
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read ({one_line(error)}); {LEDGER_CURE}") from error


def discard(run: "Run | Path", files: Sequence[Path]) -> None:
    """Remove files of a run, the files beside them and their rows of the ledger; a missing one is no error."""
    read_gates(run)  # before a file goes: it may be broken
    for file in files:
        remove_artefact(file)
    strike(run, files)


def strike(run: "Run | Path", files: Sequence[Path]) -> None:
    """Take the lines of some files out of the ledger."""
    folder, names = run if isinstance(run, Path) else run.path, {file.name for file in files}
    if any(row.file in names for row in read_gates(folder)):
        with held(folder, wait=True):
            _write(folder, [row for row in read_gates(folder) if row.file not in names])


def stage_of(path: Path) -> str:
    """Name the line of the ledger that a file has: ``onnx model.fp16``, ``engine model.fp32``."""
    kinds = {".onnx": "onnx", ".xml": "openvino", ".pt2": "aoti"} | dict.fromkeys(ENGINES, "engine")
    return f"{kinds[path.suffix.lower()]} {path.name.removesuffix(path.suffix)}"


def _write(folder: Path, rows: Sequence[GateRow]) -> None:
    write_json(folder / LEDGER, [row.to_dict() for row in rows])
