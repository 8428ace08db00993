"""From a run's float32 ONNX file to a smaller one for a target: calibrated, quantised or cast, and through its gate."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..deploy.ort_runtime import read_info
from ..deploy.parity import DEFAULTS, GateResult, gate, judge
from ..deploy.runtime import open_runtime
from ..distill import console
from ..distill.errors import ExportError, UsageError, closest
from ..distill.run import Run, sha256, versions, write_json
from .cast import cast_fp16
from .images import choose
from .int8 import quantise_int8

PRECISIONS = ("int8", "fp16")
IMAGES = 128
#: what helps a file that did not pass
CURES = {
    "int8": "more --images, --calibrator percentile or --keep-fp32 NODE may help; --agreement, --miou-drop allow more",
    "fp16": "--keep-fp32 NODE keeps layers in float32; --agreement allows more",
}


@dataclass(frozen=True)
class Calibrated:
    """A file that passed its gate, and the manifest beside it."""

    path: Path
    precision: str
    gate: GateResult
    manifest: dict[str, Any]


def calibrate_run(
    run: Run,
    *,
    to: str = "int8",
    target: str = "ort",
    source: Path | None = None,
    images: int = IMAGES,
    split: str = "train",
    calibrator: str = "minmax",
    keep: Sequence[str] = (),
    seed: int = 0,
    gate_images: int | None = 16,
    agreement: float | None = None,
    miou_drop: float | None = None,
) -> Calibrated:
    """Make the INT8 or FP16 twin of a run's exported network and compare it with the float32 file on validation images.

    Args:
        run: a run with a float32 ONNX file in its ``export`` folder.
        to: "int8" or "fp16".
        target: "ort": ONNX Runtime.
        source: which float32 file (default: ``model.onnx``).
        images: calibration images, chosen so that every class is in them.
        split: where they come from.
        calibrator: see ``quantise_int8``, as is ``keep`` (nodes left in float32; for FP16 likewise).
        seed: of the choice.
        gate_images: validation images of the gate; None for all.
        agreement: replaces the gate's least share of agreeing pixels.
        miou_drop: replaces the gate's largest loss of mIoU in points.

    Raises:
        UsageError: a flag that is not accepted.
        ExportError: the run has no float32 ONNX file yet.
        NumbersError: the gate failed; the new file is gone.
    """
    if to not in PRECISIONS:
        raise UsageError(f"--to {to} is not known; accepted: {', '.join(PRECISIONS)}{closest(to, PRECISIONS)}")
    if target != "ort":
        raise UsageError(f"--for {target} is not known; accepted: ort")
    full = source or float_file(run)
    suffix = f".int8.{target}.onnx" if to == "int8" else ".fp16.onnx"
    path = full.with_name(full.name.removesuffix(".onnx") + suffix)
    facts: dict[str, Any] = {}
    if to == "int8":
        dataset = run.open_data(split)
        chosen = choose(dataset, images, seed=seed)
        console.say(f"calibrating {full.name} on {len(chosen.indices)} images of {chosen.data}")
        pictures = (dataset.read(i)[0] for i in console.progress(chosen.indices, label="calibrating"))
        report = quantise_int8(full, path, pictures, target=target, calibrator=calibrator, keep=keep)
        facts = {"calibration": chosen.to_dict(), "int8": report.to_dict(), "target": target}
        write_json(run.calib / f"{path.name.removesuffix('.onnx')}.json", facts | {"versions": versions()})
        console.say(report.line())
    else:
        cast = cast_fp16(full, path, block_nodes=keep)
        facts = {"cast": cast.to_dict()}
        console.say(cast.line())
    manifest_path = path.with_name(f"{path.name}.json")
    manifest_path.unlink(missing_ok=True)
    tolerances = DEFAULTS[to]
    if agreement is not None:
        tolerances = replace(tolerances, agreement=agreement)
    if miou_drop is not None:
        tolerances = replace(tolerances, miou_drop=miou_drop)
    with open_runtime(full) as reference, open_runtime(path) as candidate:
        result = gate(reference, candidate, run.open_data("val"), tolerances, images=gate_images)
    judge(run, f"onnx {path.name.removesuffix('.onnx')}", path, result, CURES[to])
    manifest: dict[str, Any] = {"file": path.name, "sha256": sha256(path), "kind": "onnx", "precision": to}
    manifest |= {"source": {"file": full.name, "sha256": sha256(full)}, "gate": result.to_dict(), **facts}
    manifest |= {"bytes": path.stat().st_size, "versions": versions(), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    manifest |= {"contract": {**asdict(read_info(path)), "metadata": None}}
    write_json(manifest_path, manifest)
    run.remember_command()
    run.seal()
    return Calibrated(path, to, result, manifest)


def float_file(run: Run) -> Path:
    """Return the float32 ONNX file of a run: ``model.onnx``, else the one with the shortest name.

    Raises:
        ExportError: there is none.
    """
    files = [p for p in run.export.glob("*.onnx") if ".fp16" not in p.name and ".int8" not in p.name]
    if not files:
        raise ExportError(
            f"{run.path.name} has no float32 ONNX file yet; make it with: kdc export onnx {run.path.name}"
        )
    return min(files, key=lambda p: (len(p.name), p.name))
