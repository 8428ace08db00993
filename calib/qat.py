"""Quantisation-aware training: a run goes on for a little while with convolutions that round as the quantised file.

The recipe is that of Wu et al., arXiv:2004.09602, section 5: calibrated ranges that stay fixed, a tenth of the original
schedule, a hundredth of its learning rate. The teacher stays in the loop; a run that had none is taught by its own
float32 network.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ..deploy.machine.passport import has_vnni
from ..deploy.parity.produce import Product
from ..deploy.parity.tolerances import tolerances
from ..distill import console
from ..distill.errors import UsageError, WeightsError
from ..distill.job import run_job
from ..distill.run.checkpoint import student_file
from ..distill.run.folder import Run
from ..distill.settings.config import Config, Quantise
from .calibrate import (
    CalibrationPlan,
    LowPrecisionManifest,
    Settings,
    TrainingPlan,
    calibrate_run,
    calibrator_of,
    checked,
    plan_run,
    prepared,
)
from .low_precision import Form
from .onnx_graph import before_network, inputs, resolve, tail

#: share of the run's steps, and of its learning rate
STEPS, RATE = 0.1, 0.01
#: validations during the training
_VALIDATIONS = 4


class Exporter(Protocol):
    """What writes a run's network as a float32 ONNX file in the form of another one, and returns the new file."""

    def __call__(self, run: Run, like: Path, dry: bool = False) -> Path:
        """Write it; with ``dry`` only check that this is possible."""
        ...


@dataclass(frozen=True)
class Tuning:
    """How ``--qat`` trains.

    Attributes:
        export: writes the network of the new run.
        iters: steps (default: a tenth of the run's).
        lr: learning rate at the start (default: a hundredth of the run's).
    """

    export: Exporter
    iters: int | None = None
    lr: float | None = None


def tune_and_calibrate(run: Run, tuning: Tuning, settings: Settings) -> Product[LowPrecisionManifest]:
    """Train a run's student on with rounding convolutions, by distill's own loop, and quantise the new run's network.

    Args:
        run: a finished run with a float32 ONNX file.
        tuning: how it is trained.
        settings: of the quantised file.

    Raises:
        UsageError: the run was trained so already, or the form does not use kdc's ranges.
        WeightsError: the run's teacher is gone.
        Stopped: SIGINT or SIGTERM came; the new run can be resumed, then exported and calibrated.
        KdcError: from training, ``tuning.export`` and ``calibrate_run``.
    """
    full, config = plan_training(run, tuning, settings)
    tuned = run_job(config, root=run.path.parent, kind="qat", tuned_from=run.path.name)
    before, after = (each.card.miou for each in (run, tuned))
    if before is not None and after is not None:
        console.say(f"validation mIoU in float32: {100 * before:.2f} % before, {100 * after:.2f} % trained on")
    return calibrate_run(tuned, replace(settings, source=tuning.export(tuned, full)))


def plan_qat(run: Run, tuning: Tuning, settings: Settings) -> CalibrationPlan:
    """Return what ``tune_and_calibrate`` would do, refusing all that it refuses before it calibrates."""
    config = check_qat(run, tuning, settings)[-1]
    plan = plan_run(run, settings)
    training = TrainingPlan(config.model.teacher, config.method.name, config.train.iters, config.train.lr)
    return replace(plan, file=f"export/{Path(plan.file).name} of a new run", qat=training)


def check_qat(run: Run, tuning: Tuning, settings: Settings) -> tuple[Form, Path, Config]:
    """Check before hours of training that they can end in a file.

    Returns:
        The form of the file, the float32 file and the configuration of the new run, still without ranges.

    Raises:
        KdcError: as ``tune_and_calibrate``.
    """
    config = configured(run, tuning)
    form, full = checked(run, settings)
    if form.grid is None:
        raise UsageError(
            f"--qat trains for the ranges of an INT8 or FP8 file for ort or trt; --to {form.to} --for {form.target} "
            "has none of kdc's"
        )
    if settings.compared:
        raise UsageError(
            "--qat trains with the ranges of one calibrator: find the best without it (--compare), then name it "
            "(--qat --calibrator NAME)"
        )
    tolerances(form.precision, run, agreement=settings.agreement, miou_drop=settings.max_drop)
    tuning.export(run, full, dry=True)
    return form, full, config


def plan_training(run: Run, tuning: Tuning, settings: Settings) -> tuple[Path, Config]:
    """Calibrate, and return the float32 ONNX file and the configuration of the new run.

    Raises:
        KdcError: as ``tune_and_calibrate``.
    """
    form, full, config = check_qat(run, tuning, settings)
    assert form.grid is not None

    # the range of each convolution that the file will round
    writer = prepared(run, form, full, settings)[-1]
    graph, keep = writer.model.graph, list(settings.keep)
    calibrator = calibrator_of(run, form, settings)
    ranges = writer.input_ranges(calibrator, keep)
    left_high = {*resolve(graph, keep), *tail(graph), *before_network(graph)}
    layers = [
        (name, *ranges[node]) for name, (_, node) in inputs(graph).items() if node in ranges and node not in left_high
    ]

    console.say(
        f"training {run.path.name} on with {len(layers)} convolutions rounded to {form.to.upper()}: "
        f"{config.train.iters} steps from a learning rate of {config.train.lr:g}, taught by {config.model.teacher}"
    )
    aware = Quantise(
        grid=form.grid,
        layers=layers,
        narrow=form.target == "ort" and has_vnni() is False,
        left_high=keep,
        calibrator=calibrator,
        run=str(run.path) if run.card.teacher and _method_kept(run) else None,
        after=run.card.config_iters,
    )
    return full, config.changed(quantise=aware.model_dump())


def _method_kept(run: Run) -> bool:
    """Tell whether the parts that a method trained beside the student still exist; warn where they do not."""
    if any(run.checkpoints.glob("last-main-*.pt")):
        return True
    console.warn(f"{run.checkpoints} has no last-main-*.pt: what {run.card.method} trained beside the student is new")
    return False


def configured(run: Run, tuning: Tuning) -> Config:
    """Return the configuration of the new run without ranges: the old one's, from its best weights, for fewer steps.

    Raises:
        UsageError: the run was trained so already, or the number of steps is not accepted.
        WeightsError: the run has no weights.
    """
    config = run.config
    if config.quantise is not None:
        raise UsageError(
            f"{run.path.name} was trained with rounding already; give the run that it came from, "
            f"{run.card.tuned_from or 'RUN'}, or leave --qat out"
        )
    steps = max(1, round(STEPS * config.train.iters)) if tuning.iters is None else tuning.iters
    if steps < 1:
        raise UsageError(f"--qat-iters {steps}: at least 1 step is needed")

    lr = RATE * config.train.lr if tuning.lr is None else tuning.lr
    data = run.card.data
    return _with_teacher(run).changed(
        # as it was opened then, whatever the environment says now
        data={"source": data.source, "split": config.data.split, "fit": config.data.fit, **data.options},
        model__init=str(student_file(run)),
        model__student_weights=None,
        train__iters=steps,
        train__lr=lr,
        train__head_lr=config.train.head_lr and config.train.head_lr * lr / config.train.lr,
        train__warmup=0,
        # the statistics stay those of the float32 network, so that the folded weights are the ones that were rounded
        train__freeze_bn=True,
        train__val_every=max(1, min(config.train.val_every, steps // _VALIDATIONS)),
    )


def _with_teacher(run: Run) -> Config:
    """Return the run's configuration with its teacher as a file; a run without one is taught by its own network."""
    card, config = run.card.teacher, run.config
    if card is None:
        return config.changed(model__teacher=str(run.path), model__teacher_weights=None, method={"name": "kd"})
    if not card.trained or not card.file or not card.run:
        return config  # a phase trains the teacher, or reuses an earlier result
    if not Path(card.file).exists():
        raise WeightsError(
            f"{run.path.name} was taught by {card.file}, which is gone; put it back: --qat keeps the teacher in "
            "the loop"
        )
    return config.changed(model__teacher=card.file, model__teacher_weights=None)
