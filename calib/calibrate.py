"""From a run's float32 ONNX file to a smaller one for a target: calibrated, quantised or cast, and through its gate."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..deploy.artefacts.beside import manifest_path
from ..deploy.artefacts.ledger import discard
from ..deploy.artefacts.lock import alone
from ..deploy.artefacts.stale import discard_stale
from ..deploy.machine.passport import has_vnni
from ..deploy.parity.gate import GateResult
from ..deploy.parity.produce import proved
from ..deploy.parity.tolerances import tolerances
from ..deploy.runtimes.open import open_runtime
from ..deploy.runtimes.openvino_runtime import read_ir
from ..deploy.runtimes.ort_runtime import read_info
from ..distill import console
from ..distill.data import Dataset, open_data
from ..distill.errors import DataError, ExportError, UsageError, WeightsError
from ..distill.run.files import sha256, versions, write_json
from ..distill.run.folder import Run
from ..distill.settings.config import Quantise
from .cast import CastReport
from .heldout import HeldOut, held_out
from .histograms import Statistics, cache_path, collect, fingerprint
from .images import CalibrationSet, choose
from .low_precision import CALIBRATOR, Form, Maker
from .onnx_graph import resolve
from .openvino_int8 import tools
from .sensitivity import Sensitivity, best, compare, rescue

#: what helps a file that did not pass
CURES = {
    "quantised": "--sensitivity leaves the groups high that cost most, --compare takes the best calibrator, more "
    "--images may help; --agreement and --max-drop allow more",
    "trained": "--sensitivity leaves the groups high that cost most, more --qat-iters from the first run may help; "
    "--agreement and --max-drop allow more",
    "cast": "--keep NODE (of kdc export: --keep-fp32) keeps layers in float32; --agreement allows more",
}
#: marks of files that are not float32
_TYPED = (".fp16", ".bf16", ".int8", ".fp8")


@dataclass(frozen=True)
class Calibrated:
    """A file that passed its gate, and the manifest beside it."""

    path: Path
    precision: str
    gate: GateResult
    manifest: dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What is made of a run's exported network, and how.

    Attributes:
        to: "int8", "fp8", "fp16" or "bf16".
        target: "trt", "ort" or "openvino" (default: the first of ``TARGETS`` for ``to``).
        source: which float32 file (default: ``model.onnx``).
        images: calibration images, chosen so that every class is in them (default 128).
        data: name or folder that they come from (default: the run's own data).
        split: of these data.
        calibrator: see ``ranges`` (default: ``CALIBRATOR``, or the best of the comparison).
        compared: compare all calibrators on images held out of ``split``.
        sensitivity: measure what each group costs and leave groups high until the limits hold.
        keep: names of nodes or groups left high.
        high: what the rest of a quantised file for trt computes in, "fp32" or "fp16" (the default there).
        seed: of the choice.
        gate_images: validation images of the gate; None for all.
        agreement: replaces the gate's least share of agreeing pixels.
        max_drop: replaces the gate's largest loss of mIoU in points.
    """

    to: str = "int8"
    target: str | None = None
    source: Path | None = None
    images: int | None = None
    data: str | None = None
    split: str = "train"
    calibrator: str | None = None
    compared: bool = False
    sensitivity: bool = False
    keep: Sequence[str] = ()
    high: str | None = None
    seed: int = 0
    gate_images: int | None = 16
    agreement: float | None = None
    max_drop: float | None = None


@alone
def calibrate_run(run: Run, **settings: Any) -> Calibrated:
    """Make the typed twin of a run's exported network and compare it with the float32 file on validation images.

    Args:
        run: a run with a float32 ONNX file in its ``export`` folder.
        settings: see ``Settings``.

    Raises:
        UsageError: a flag that is not accepted, an image larger than the network's input.
        DataError: too few images, or data of other classes.
        ExportError: the run has no float32 ONNX file yet, or an extra is missing.
        NumbersError: the gate failed; the new file is gone.
    """
    asked = Settings(**settings)
    form, full = checked(run, asked)
    keep, calibrator = list(asked.keep), calibrator_of(run, form, asked)
    limits = tolerances(form.precision, run, agreement=asked.agreement, miou_drop=asked.max_drop)
    dataset, chosen, maker = prepared(run, form, full, asked)
    facts: dict[str, Any] = {"calibration": chosen.to_dict() | {"statistics": maker.fingerprint}}
    if aware := _aware(run, form):
        keep = list(dict.fromkeys([*keep, *aware.left_high]))
        facts["qat"] = {"from": run.card.tuned_from, "layers": len(aware.layers), "grid": aware.grid}
        if aware.grid == "u8" and not aware.narrow and has_vnni() is False:
            console.warn(
                f"{run.path.name} was trained with weights of 8 bits; their products may saturate on this CPU, which "
                "has no VNNI: --qat here trains with 7"
            )
    names = resolve(maker.model.graph, keep)
    found: Sensitivity | None = None
    if asked.compared or asked.sensitivity:
        with open_runtime(full) as reference:
            others = HeldOut(reference, dataset, held_out(dataset, chosen.indices, seed=asked.seed))
        if asked.compared:
            outcomes = compare(maker, others)
            calibrator = asked.calibrator or best(outcomes)
            facts["calibrators"] = {name: each.to_dict() for name, each in outcomes.items()}
        if asked.sensitivity:
            bars = {"agreement": limits.agreement, "drop": limits.miou_drop}
            found = rescue(maker, others, **bars, calibrator=calibrator, keep=names)
            facts["sensitivity"] = found.to_dict()
            names = resolve(maker.model.graph, [*keep, *found.rescued])
    path, judged = form.path(full), run.open_data(run.config.data.split)
    if form.target != "openvino":
        maker.statistics  # noqa: B018 - what refuses an image or an activation does so before a good file goes
    discard(run, [path])  # a file without a manifest is unproven
    report = maker.make(path, calibrator=calibrator, keep=names)
    console.say(report.line())
    facts["cast" if isinstance(report, CastReport) else form.to] = report.to_dict()
    left: dict[str, Any] = {"left_high": [*keep, *(found.rescued if found else ())]}
    cure = CURES["cast" if isinstance(report, CastReport) else "trained" if aware else "quantised"]
    result, _ = proved(run, path, full, judged, limits, cure, images=asked.gate_images, **left)
    manifest = _manifest(path, full, form, result) | facts | left
    write_json(manifest_path(path), manifest)
    discard_stale(run, list(run.checkpoints.glob("*.safetensors")))
    run.remember_command()
    run.seal()
    return Calibrated(path, form.precision, result, manifest)


def plan_run(run: Run, **settings: Any) -> dict[str, Any]:
    """Return what ``calibrate_run`` would do with the same settings; nothing is calibrated or written."""
    asked = Settings(**settings)
    form, full = checked(run, asked)
    limits = tolerances(form.precision, run, agreement=asked.agreement, miou_drop=asked.max_drop)
    chosen, maker = prepared(run, form, full, asked)[1:]
    resolve(maker.model.graph, asked.keep)
    cache = cache_path(run.calib, maker.fingerprint)
    return {
        "source": str(full),
        "file": str(form.path(full)),
        "precision": form.precision,
        "target": form.target,
        "images": len(chosen.indices),
        "data": chosen.data,
        "calibrator": calibrator_of(run, form, asked) if form.grid else None,
        "statistics": str(cache),
        "cached": cache.is_file(),
        "keep": list(asked.keep),
        "limits": asdict(limits),
        "audit": chosen.audit,
    }


def float_file(run: Run) -> Path:
    """Return the float32 ONNX file of a run: ``model.onnx``, else the one with the shortest name.

    Raises:
        ExportError: there is none.
    """
    files = [path for path in run.export.glob("*.onnx") if not any(mark in path.name for mark in _TYPED)]
    if not files:
        raise ExportError(
            f"{run.path.name} has no float32 ONNX file yet; make it with: kdc export onnx {run.path.name}"
        )
    return min(files, key=lambda p: (len(p.name), p.name))


def checked(run: Run, asked: Settings) -> tuple[Form, Path]:
    """See before any image is read that what was asked for can be made."""
    form = Form.of(asked.to, asked.target, asked.high)
    form.check(asked.calibrator)
    if asked.compared and not form.grid:
        raise UsageError("--compare compares calibrators, and none is used here: leave it out")
    if asked.sensitivity and asked.to in ("fp16", "bf16"):
        raise UsageError(
            f"--sensitivity is for INT8 and FP8; --to {asked.to} keeps what leaves its range in float32 by itself"
        )
    aware = _aware(run, form)
    if aware and (asked.compared or (asked.calibrator or aware.calibrator) != aware.calibrator):
        typed = "--compare" if asked.compared else f"--calibrator {asked.calibrator}"
        raise UsageError(
            f"{typed}: {run.path.name} was trained with the ranges of {aware.calibrator}, which its file keeps; leave "
            "it out"
        )
    if form.target == "openvino":
        tools()
    full = asked.source or float_file(run)
    if (precision := read_info(full).precision) != "fp32":
        raise WeightsError(f"{full} is {precision} already; {asked.to} is made from the float32 file")
    return form, full


def prepared(run: Run, form: Form, full: Path, asked: Settings) -> tuple[Dataset, CalibrationSet, Maker]:
    """Choose the calibration images and return what makes the file; nothing is calibrated before that is asked to."""
    dataset = _data(run, asked)
    chosen = choose(dataset, asked.images, seed=asked.seed)
    name = fingerprint(full, chosen.fingerprint, chosen.keys)
    seen = lambda: _statistics(run, full, dataset, chosen, name)  # noqa: E731
    aware = _aware(run, form)
    return dataset, chosen, Maker(full, form, seen, lambda: _pictures(dataset, chosen), name, aware)


def _data(run: Run, asked: Settings) -> Dataset:
    if asked.data is None:
        return run.open_data(asked.split)
    dataset, own = open_data(asked.data, asked.split), run.open_data(run.config.data.split)
    if dataset.labelled and dataset.num_classes != own.num_classes:
        raise DataError(
            f"{asked.data} has {dataset.num_classes} classes, the network has {own.num_classes}: a kdc.yaml beside the "
            f"data can name them (classes: {', '.join(own.classes[:3])}, ...)"
        )
    return dataset


def calibrator_of(run: Run, form: Form, asked: Settings) -> str:
    """Name what finds the ranges: what was typed, what a run was trained with, or the default."""
    aware = _aware(run, form)
    return asked.calibrator or (aware and aware.calibrator) or CALIBRATOR


def _aware(run: Run, form: Form) -> Quantise | None:
    """Return what a run was trained to feel, where this form rounds so."""
    aware = run.config.quantise
    return aware if aware is not None and aware.grid == form.grid else None


def _statistics(run: Run, full: Path, dataset: Dataset, chosen: CalibrationSet, name: str) -> Statistics:
    path = cache_path(run.calib, name)
    if known := Statistics.load(path, name):
        console.say(f"statistics of {known.images} images of {chosen.data} from {path.name}")
        return known
    console.say(f"calibrating {full.name} on {len(chosen.indices)} images of {chosen.data}")
    pictures = console.progress(_pictures(dataset, chosen), total=len(chosen.indices), label="calibrating")
    made = collect(full, pictures, name)
    made.save(path)
    return made


def _pictures(dataset: Dataset, chosen: CalibrationSet) -> Iterator[np.ndarray]:
    return (dataset.read(i)[0] for i in chosen.indices)


def _manifest(path: Path, full: Path, form: Form, result: GateResult) -> dict[str, Any]:
    info = read_ir(path) if form.target == "openvino" else read_info(path)
    kind = "openvino" if form.target == "openvino" else "onnx"
    values: dict[str, Any] = {"file": path.name, "sha256": sha256(path), "kind": kind, "precision": form.precision}
    values |= {"target": form.target, "source": {"file": full.name, "sha256": sha256(full)}, "gate": result.to_dict()}
    beside = path.with_suffix(".bin")
    if form.target == "openvino":
        values["weights"] = {"file": beside.name, "sha256": sha256(beside)}
    values["bytes"] = path.stat().st_size + (beside.stat().st_size if form.target == "openvino" else 0)
    values |= {"versions": versions(), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    return values | {"contract": {**asdict(info), "metadata": None}}
