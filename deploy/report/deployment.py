"""What the report says of a run's files: how they were quantised, what engines prove, throughput, memory."""

import json
from pathlib import Path
from typing import Any

from ...distill.run.folder import Run
from ..artefacts.beside import manifest_beside

#: groups of nodes that the report names
_NAMED = 12
#: kinds of files that a run can hold, besides its checkpoints
_EXPORTED = ("*.onnx", "*.engine", "*.xml", "*.bin", "*.pt2", "*.zip")


def read_json(path: Path) -> Any:
    """Return what a file holds; None where it is not there or broken."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def deployment(run: Run) -> dict[str, Any]:
    """Collect what ``deployment.html.jinja`` shows; plain values."""
    files = sorted(path for kind in ("*.onnx", "*.xml") for path in run.export.glob(kind))
    return {
        "quantised": [found for path in files if (found := _quantised(path))],
        "engines": [found for path in sorted(run.export.glob("*.engine")) if (found := _engine(path))],
        "throughput": _newest(run, "throughput"),
        "memory": _newest(run, "memory"),
        "files": _files(run),
    }


def _quantised(path: Path) -> dict[str, Any] | None:
    """Return how a file was calibrated: on what, what was compared, what was left high; None where it was not."""
    facts = manifest_beside(path).values
    if "calibration" not in facts:
        return None
    report = facts.get("int8") or facts.get("fp8")
    found = facts.get("sensitivity") or {}
    rescued = found.get("rescued") or []
    return {
        "name": path.stem,
        "images": facts["calibration"],
        "report": report,
        "cast": facts.get("cast"),
        "qat": facts.get("qat"),
        "calibrators": facts.get("calibrators") or {},
        "sensitivity": found,
        "groups": [each | {"high": each["group"] in rescued} for each in (found.get("costs") or [])[:_NAMED]],
        "left_high": (report or {}).get("left_high") or [],
    }


def _engine(path: Path) -> dict[str, Any] | None:
    if not (manifest := manifest_beside(path).values):
        return None
    asked = ("precision", "flavour", "version", "target", "bytes", "layers", "build_seconds", "gpu")
    return {key: manifest.get(key) for key in asked} | {"name": path.name, "proof": manifest.get("proof")}


def _newest(run: Run, kind: str) -> dict[str, Any] | None:
    for path in sorted(run.bench.glob(f"{kind}-*.json"), key=lambda p: p.stat().st_mtime_ns, reverse=True):
        found = read_json(path)
        if isinstance(found, dict) and found.get("rows"):
            return found | {"file": path.name}
    return None


def _files(run: Run) -> list[dict[str, Any]]:
    paths = [*run.checkpoints.glob("*.safetensors"), *(p for kind in _EXPORTED for p in run.export.glob(kind))]
    return [{"name": str(p.relative_to(run.path)), "bytes": p.stat().st_size} for p in sorted(paths)]
