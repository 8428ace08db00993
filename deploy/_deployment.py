"""What the report says of a run's files: how they were quantised, what engines prove, throughput, memory."""

import json
from pathlib import Path
from typing import Any

from ..distill.run import Run

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
    return {
        "quantised": [_quantised(path) for path in sorted(run.calib.glob("model*.json")) if _there(run, path.stem)],
        "engines": [found for path in sorted(run.export.glob("*.engine")) if (found := _engine(path))],
        "throughput": _newest(run, "throughput"),
        "memory": _newest(run, "memory"),
        "files": _files(run),
    }


def _there(run: Run, stem: str) -> bool:
    """Tell whether a calibrated file is there still: one that failed its gate is not."""
    return any((run.export / f"{stem}{suffix}").is_file() for suffix in (".onnx", ".xml"))


def _quantised(path: Path) -> dict[str, Any]:
    """Return one calibration: what it was made on, what was compared, what was left high."""
    facts = read_json(path) or {}
    report = facts.get("int8") or facts.get("fp8")
    found = facts.get("sensitivity") or {}
    rescued = found.get("rescued") or []
    return {
        "name": path.stem,
        "images": facts.get("calibration") or {},
        "report": report,
        "cast": facts.get("cast"),
        "qat": facts.get("qat"),
        "calibrators": facts.get("calibrators") or {},
        "sensitivity": found,
        "groups": [each | {"high": each["group"] in rescued} for each in (found.get("costs") or [])[:_NAMED]],
        "left_high": (report or {}).get("left_high") or [],
    }


def _engine(path: Path) -> dict[str, Any] | None:
    manifest = read_json(path.with_name(f"{path.name}.json"))
    if not isinstance(manifest, dict):
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
