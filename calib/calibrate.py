"""From a run's float32 ONNX file to a smaller one for a target: calibrated, quantised or cast, and through its gate."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..deploy.artefacts.beside import artefact_bytes
from ..deploy.artefacts.lock import alone
from ..deploy.machine.passport import has_vnni
from ..deploy.parity.produce import Product, Trial, check_writable, images_of, produce
from ..deploy.parity.tolerances import tolerances
from ..deploy.runtimes.adopt import adopted
from ..deploy.runtimes.open import open_runtime
from ..deploy.runtimes.ort_runtime import read_info
from ..deploy.runtimes.said import NOTHING, Said
from ..distill import console
from ..distill.data import Dataset, open_data
from ..distill.errors import DataError, ExportError, UsageError, WeightsError
from ..distill.run.folder import Run
from ..distill.run.records import Record
from ..distill.settings.config import Quantise
from .calibration import Calibration
from .cast import CastReport
from .effort import BUDGET
from .heldout import HeldOut, held_out
from .images import CalibrationSet, choose
from .low_manifest import LowPrecisionManifest
from .low_precision import CALIBRATOR, CASTERS, Form, LowPrecisionWriter, check_caster, refuse_partial
from .onnx_graph import resolve
from .openvino_int8 import tools
from .sensitivity import best, compare, rescue

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
class Settings:
    """Which low-precision file of a run's exported network is made, and how.

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
        budget: minutes that the measurement of the groups may take (default 6).
        keep: names of nodes or groups left high.
        high: what the rest of a quantised file for trt computes in, "fp32" or "fp16" (the default there).
        caster: what casts to FP16 and BF16: "kdc" or "modelopt" (NVIDIA ModelOpt's AutoCast).
        seed: of the choice.
        gate_images: validation images of the gate; None for all.
        agreement: replaces the gate's least share of agreeing pixels.
        max_drop: replaces the gate's largest loss of mIoU in points.
        allow_partial: write a file that has less than half of its multiply-adds in low precision, too.
        size: height and width, of a file that leaves them free.
        said: what is known of a file of another maker that it does not say itself.
        out: folder of the new file (default: beside ``source``).
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
    budget: float | None = None
    keep: Sequence[str] = ()
    high: str | None = None
    caster: str = CASTERS[0]
    seed: int = 0
    gate_images: int | None = 16
    agreement: float | None = None
    max_drop: float | None = None
    allow_partial: bool = False
    size: tuple[int, int] | None = None
    said: Said = NOTHING
    out: Path | None = None


DEFAULTS = Settings()


@alone
def calibrate_run(run: Run, settings: Settings = DEFAULTS) -> Product[LowPrecisionManifest]:
    """Make a low-precision file of a run's exported network and gate it against the float32 file on validation images.

    Args:
        run: a run with a float32 ONNX file in its ``export`` folder.
        settings: which file, and how.

    Raises:
        KdcError: as ``calibrate_file``.
        ExportError: the run has no float32 ONNX file yet.
    """
    return _calibrate(run, settings)


@alone
def calibrate_file(source: Path, settings: Settings = DEFAULTS) -> Product[LowPrecisionManifest]:
    """Make a low-precision file of anybody's float32 ONNX file and gate it on the split ``val`` of the data.

    Args:
        source: a file that belongs to no run.
        settings: with the data, and how.

    Raises:
        UsageError: a flag that is not accepted.
        DataError: too few images, or data of other classes.
        ExportError: an extra is missing.
        NumbersError: the gate failed, or less than half of the file is in low precision; it is not kept.
    """
    return _calibrate(None, replace(settings, source=source))


def _calibrate(run: Run | None, settings: Settings) -> Product[LowPrecisionManifest]:
    # what can be refused
    form, original = checked(run, settings)
    check_writable(_final(form, settings, original).parent)
    gate_data = images_of(original, run, None if run else settings.data)
    with adopted(original, settings.size, settings.said.for_data(gate_data)) as full:
        return _written(run, settings, form, original, full, gate_data)


def _final(form: Form, settings: Settings, original: Path) -> Path:
    """Return where the new file goes."""
    return form.path(settings.out / original.name if settings.out else original)


def _written(
    run: Run | None, settings: Settings, form: Form, original: Path, full: Path, gate_data: Dataset
) -> Product[LowPrecisionManifest]:
    keep, calibrator = list(settings.keep), calibrator_of(run, form, settings)
    limits = tolerances(form.precision, run, agreement=settings.agreement, miou_drop=settings.max_drop)
    dataset, images, writer = prepared(run, form, full, settings)
    facts: dict[str, Any] = {"calibration": images.to_dict() | {"statistics": writer.calibration.fingerprint}}

    # what the run was trained with
    if aware := _aware(run, form):
        keep = list(dict.fromkeys([*keep, *aware.left_high]))
        assert run is not None
        facts["qat"] = {"from": run.card.tuned_from, "layers": len(aware.layers), "grid": aware.grid}
        if aware.grid == "u8" and not aware.narrow and has_vnni() is False:
            console.warn(
                f"{run.path.name} was trained with weights of 8 bits; their products may saturate on this CPU, which "
                "has no VNNI: --qat here trains with 7"
            )

    # the calibrator, and what is left high, as held-out images have it
    names, rescued = resolve(writer.model.graph, keep), list[str]()
    if settings.compared or settings.sensitivity:
        with open_runtime(full) as reference:
            others = HeldOut(reference, dataset, held_out(dataset, images.indices, seed=settings.seed))
        if settings.compared:
            outcomes = compare(writer, others)
            calibrator = settings.calibrator or best(outcomes)
            facts["calibrators"] = {name: each.to_dict() for name, each in outcomes.items()}
        if settings.sensitivity:
            bars = {"agreement": limits.agreement, "drop": limits.miou_drop}
            minutes = settings.budget or BUDGET
            sensitivity = rescue(writer, others, **bars, calibrator=calibrator, keep=names, minutes=minutes)
            facts["sensitivity"], rescued = sensitivity.to_dict(), list(sensitivity.rescued)
            names = resolve(writer.model.graph, [*keep, *rescued])
    left_high = [*keep, *rescued]

    def write(path: Path) -> LowPrecisionManifest:
        report = writer.write(path, calibrator=calibrator, keep=names)
        if not settings.allow_partial:
            refuse_partial(report, form)
        if not isinstance(report, CastReport):
            report = replace(report, bytes_before=artefact_bytes(original))
        console.say(report.line())
        facts["cast" if isinstance(report, CastReport) else form.to] = report.to_dict()
        return LowPrecisionManifest.of(path, original, form, facts, left_high)

    cure = CURES["cast" if form.is_cast else "trained" if aware else "quantised"]
    trial = Trial(full, limits, cure, settings.gate_images, left_high=left_high, data=gate_data)
    return produce(run, _final(form, settings, original), write, trial)


@dataclass(frozen=True)
class TrainingPlan(Record):
    """How ``--qat`` would train."""

    teacher: str | None
    method: str
    iters: int
    lr: float


@dataclass(frozen=True)
class CalibrationPlan(Record):
    """What ``calibrate_run`` would write, from which images and within which limits."""

    OPTIONAL = ("qat",)

    source: str
    file: str
    precision: str
    target: str
    images: int
    data: str
    calibrator: str | None
    statistics: str
    cached: bool
    keep: list[str]
    limits: dict[str, float | None]
    audit: list[str]
    qat: TrainingPlan | None = None


def plan_run(run: Run | None, settings: Settings = DEFAULTS) -> CalibrationPlan:
    """Return what ``calibrate_run`` would do with the same settings; nothing is calibrated or written."""
    form, original = checked(run, settings)
    limits = tolerances(form.precision, run, agreement=settings.agreement, miou_drop=settings.max_drop)
    gate_data = images_of(original, run, None if run else settings.data)
    with adopted(original, settings.size, settings.said.for_data(gate_data)) as full:
        images, writer = prepared(run, form, full, settings)[1:]
        resolve(writer.model.graph, settings.keep)
    cache = writer.calibration.cache
    return CalibrationPlan(
        source=str(original),
        file=str(_final(form, settings, original)),
        precision=form.precision,
        target=form.target,
        images=len(images.indices),
        data=images.data,
        calibrator=calibrator_of(run, form, settings) if form.grid else None,
        statistics=str(cache),
        cached=cache is not None and cache.is_file(),
        keep=list(settings.keep),
        limits=asdict(limits),
        audit=images.audit,
    )


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


def checked(run: Run | None, settings: Settings) -> tuple[Form, Path]:
    """See before any image is read that the file can be made; return its form and the float32 file."""
    form = Form.of(settings.to, settings.target, settings.high)
    form.check(settings.calibrator)
    if settings.compared and not form.grid:
        raise UsageError("--compare compares calibrators, and none is used here: leave it out")
    if settings.sensitivity and form.is_cast:
        raise UsageError(
            f"--sensitivity is for INT8 and FP8; --to {settings.to} keeps what leaves its range in float32 by itself"
        )

    if settings.budget is not None and not settings.sensitivity:
        raise UsageError("--budget is the time of --sensitivity: add it, or leave --budget out")

    aware = _aware(run, form)
    if run and aware and (settings.compared or (settings.calibrator or aware.calibrator) != aware.calibrator):
        flag = "--compare" if settings.compared else f"--calibrator {settings.calibrator}"
        raise UsageError(
            f"{flag}: {run.path.name} was trained with the ranges of {aware.calibrator}, which its file keeps; leave "
            "it out"
        )

    if form.target == "openvino":
        tools()
    if settings.caster != CASTERS[0] and not form.is_cast:
        raise UsageError(f"--caster is for FP16 and BF16; --to {settings.to} is quantised by kdc: leave it out")
    check_caster(settings.caster)
    full = settings.source or (float_file(run) if run else Path())
    if (precision := read_info(full).precision) != "fp32":
        raise WeightsError(f"{full} is {precision} already; {settings.to} is made from the float32 file")
    return form, full


def prepared(
    run: Run | None, form: Form, full: Path, settings: Settings
) -> tuple[Dataset, CalibrationSet, LowPrecisionWriter]:
    """Choose the calibration images and return the writer of the file; calibration runs lazily."""
    dataset = _data(run, settings)
    images = choose(dataset, settings.images, seed=settings.seed)
    calibration = Calibration.of(full, dataset, images, run.calib if run else None)
    return dataset, images, LowPrecisionWriter(form, calibration, _aware(run, form), settings.caster)


def _data(run: Run | None, settings: Settings) -> Dataset:
    if run is None:
        return images_of(settings.source or Path(), None, settings.data, settings.split)
    if settings.data is None:
        return run.open_data(settings.split)
    dataset, own = open_data(settings.data, settings.split), run.open_data(run.config.data.split)
    if dataset.labelled and dataset.num_classes != own.num_classes:
        raise DataError(
            f"{settings.data} has {dataset.num_classes} classes, the network has {own.num_classes}: a kdc.yaml beside "
            f"the data can name them (classes: {', '.join(own.classes[:3])}, ...)"
        )
    return dataset


def calibrator_of(run: Run | None, form: Form, settings: Settings) -> str:
    """Name what finds the ranges: the one of the settings, the one that a run was trained with, or the default."""
    aware = _aware(run, form)
    return settings.calibrator or (aware and aware.calibrator) or CALIBRATOR


def _aware(run: Run | None, form: Form) -> Quantise | None:
    """Return the ranges and layers that a run was trained with, where this form rounds so."""
    aware = run.config.quantise if run else None
    return aware if aware is not None and aware.grid == form.grid else None
