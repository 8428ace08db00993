"""Quantisation-aware training: a run goes on for a little while its convolutions round as the quantised file will.

The recipe is that of Wu et al., arXiv:2004.09602, section 5: calibrated ranges that stay fixed, a tenth of the original
schedule, a hundredth of its learning rate. The teacher stays in the loop; a run that had none is taught by its own
float32 network.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..deploy.machine.passport import has_vnni
from ..deploy.parity.tolerances import tolerances
from ..distill import console
from ..distill.errors import UsageError, WeightsError
from ..distill.job import run_job
from ..distill.run.checkpoint import student_file
from ..distill.run.folder import Run
from ..distill.settings.config import Config
from .calibrate import Calibrated, Settings, calibrate_run, calibrator_of, checked, plan_run, prepared
from .low_precision import Form
from .onnx_graph import before_network, inputs, resolve, tail

#: share of the run's steps, and of its learning rate
STEPS, RATE = 0.1, 0.01
#: validations on the way
_LOOKS = 4


def tune_and_calibrate(
    run: Run,
    *,
    export: Callable[..., Path],
    iters: int | None = None,
    lr: float | None = None,
    **settings: Any,
) -> Calibrated:
    """Train a run's student on with rounding convolutions, by distill's own loop, and quantise the new run's network.

    Args:
        run: a finished run with a float32 ONNX file.
        export: writes a run's network as a float32 ONNX file in the form of the given one, and says where; with
            ``dry=True`` only sees that it can.
        iters: steps (default: a tenth of the run's).
        lr: learning rate at the start (default: a hundredth of the run's).
        settings: see ``Settings``.

    Raises:
        UsageError: the run is such a run already, or the form is not made from kdc's ranges.
        WeightsError: the run's teacher is gone.
        Stopped: SIGINT or SIGTERM came; the new run can be resumed, then exported and calibrated.
        KdcError: what training, ``export`` and ``calibrate_run`` raise.
    """
    full, config = planned(run, export, iters, lr, **settings)
    tuned = run_job(config, root=run.path.parent, kind="qat", tuned_from=run.path.name)
    before, after = (each.card.miou for each in (run, tuned))
    if before is not None and after is not None:
        console.say(f"validation mIoU in float32: {100 * before:.2f} % before, {100 * after:.2f} % trained on")
    anew: dict[str, Any] = settings | {"source": export(tuned, full)}
    return calibrate_run(tuned, **anew)


def plan_qat(
    run: Run, export: Callable[..., Path], iters: int | None, lr: float | None, **settings: Any
) -> dict[str, Any]:
    """Return what ``tune_and_calibrate`` would do, refusing all that it refuses before it calibrates."""
    config = foreseen(run, export, iters, lr, **settings)[-1]
    plan = plan_run(run, **settings)
    plan["file"] = f"export/{Path(plan['file']).name} of a new run"
    keys = {"teacher": config.model.teacher, "method": config.method.name}
    return plan | {"qat": {**keys, "iters": config.train.iters, "lr": config.train.lr}}


def foreseen(
    run: Run, export: Callable[..., Path], iters: int | None = None, lr: float | None = None, **settings: Any
) -> tuple[Settings, Form, Path, Config]:
    """See before hours of training that they can end in a file; return what is made, of which file, by which settings.

    Raises:
        KdcError: as ``tune_and_calibrate``.
    """
    asked = Settings(**settings)
    config = configured(run, iters, lr)
    form, full = checked(run, asked)
    if form.grid is None:
        raise UsageError(
            f"--qat trains for the ranges of an INT8 or FP8 file for ort or trt; --to {form.to} --for {form.target} "
            "has none of kdc's"
        )
    if asked.compared:
        raise UsageError(
            "--qat trains with the ranges of one calibrator: find the best without it (--compare), then name it "
            "(--qat --calibrator NAME)"
        )
    tolerances(form.precision, run, agreement=asked.agreement, miou_drop=asked.max_drop)
    export(run, full, dry=True)
    return asked, form, full, config


def planned(
    run: Run, export: Callable[..., Path], iters: int | None = None, lr: float | None = None, **settings: Any
) -> tuple[Path, Config]:
    """Calibrate, and return the float32 ONNX file and the settings of the run that is to be made.

    Raises:
        KdcError: as ``tune_and_calibrate``.
    """
    asked, form, full, config = foreseen(run, export, iters, lr, **settings)
    maker = prepared(run, form, full, asked)[-1]
    graph, keep = maker.model.graph, list(asked.keep)
    calibrator = calibrator_of(run, form, asked)
    kept = maker.written(calibrator, keep)
    left = {*resolve(graph, keep), *tail(graph), *before_network(graph)}
    layers = [(name, *kept[node]) for name, (_, node) in inputs(graph).items() if node in kept and node not in left]
    console.say(
        f"training {run.path.name} on with {len(layers)} convolutions rounded to {form.to.upper()}: "
        f"{config.train.iters} steps from a learning rate of {config.train.lr:g}, taught by {config.model.teacher}"
    )
    feels: dict[str, Any] = {"grid": form.grid, "layers": layers, "left_high": keep, "calibrator": calibrator}
    feels |= {"narrow": form.target == "ort" and has_vnni() is False, "after": run.card.config_iters}
    if run.card.teacher and _method_kept(run):
        feels["run"] = str(run.path)
    return full, config.changed(quantise=feels)


def _method_kept(run: Run) -> bool:
    """Tell whether what a method trained beside the student is there still; say where it is not."""
    if any(run.checkpoints.glob("last-main-*.pt")):
        return True
    console.warn(f"{run.checkpoints} has no last-main-*.pt: what {run.card.method} trained beside the student is new")
    return False


def configured(run: Run, iters: int | None, lr: float | None) -> Config:
    """Return the settings of the new run, without its ranges: the old one's from its best weights, in short.

    Raises:
        UsageError: the run was trained so already, or the counts are not accepted.
        WeightsError: the run has no weights.
    """
    config = run.config
    if config.quantise is not None:
        raise UsageError(
            f"{run.path.name} was trained with rounding already; give the run that it came from, "
            f"{run.card.tuned_from or 'RUN'}, or leave --qat out"
        )
    steps = max(1, round(STEPS * config.train.iters)) if iters is None else iters
    if steps < 1:
        raise UsageError(f"--qat-iters {steps}: at least 1 step is needed")
    data = run.card.data
    return config.changed(
        # as it was opened then, whatever the environment says now
        data={"source": data.source, "split": config.data.split, **data.options},
        model__init=str(student_file(run)),
        model__student_weights=None,
        **_taught(run),
        train__iters=steps,
        train__lr=RATE * config.train.lr if lr is None else lr,
        train__warmup=0,
        # the statistics stay those of the float32 network, so that the folded weights are the ones that were rounded
        train__freeze_bn=True,
        train__val_every=max(1, min(config.train.val_every, steps // _LOOKS)),
    )


def _taught(run: Run) -> dict[str, Any]:
    card = run.card.teacher
    if card is None:
        return {"model__teacher": str(run.path), "model__teacher_weights": None, "method": {"name": "kd"}}
    if not card.trained:
        return {}  # a phase trains it, or finds what it made before
    if card.file and card.run:
        if not Path(card.file).exists():
            raise WeightsError(
                f"{run.path.name} was taught by {card.file}, which is gone; put it back: --qat keeps the teacher in "
                "the loop"
            )
        return {"model__teacher": card.file, "model__teacher_weights": None}
    return {}
