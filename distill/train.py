"""THE training loop: plain training, every distillation method and every phase of a method run through ``_loop``."""

import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor

from . import console
from .data import Dataset
from .errors import NumbersError
from .evaluation.metrics import Scores
from .methods import Composite, Phase
from .models import SegmentationModel
from .output import Output
from .run.checkpoint import was_saved
from .run.files import sha256
from .run.folder import Run
from .run.phase_results import Artefacts
from .settings.config import Config
from .training.batches import Batches
from .training.critics import step_critics
from .training.fake_quantise import fake_quantise
from .training.learner import AssistedLearner, Learner, PhaseLearner, StepOutput
from .training.optimisers import (
    Average,
    Statistics,
    critic_optimiser,
    gradient_norm,
    optimiser,
    phase_optimiser,
    set_lr,
    set_rng_state,
)
from .training.processes import agree, fetch, reduced
from .training.signals import Signals
from .training.state import Checkpoint, Stage, State, Stopped
from .training.teacher import Teacher, check_teacher
from .training.validation import finish, validate

#: non-finite losses in a row after which a run stops
PATIENCE = 3


def train(
    config: Config,
    run: Run,
    fabric: Fabric,
    student: SegmentationModel,
    method: Composite,
    teacher: Teacher | None,
    batches: Batches,
    val: Dataset | None,
    artefacts: Artefacts,
    resume: bool = False,
) -> Scores | None:
    """Run the method's phases, then train the student; leave ``checkpoints/best.safetensors`` and the logs in ``run``.

    A phase is not run again where an equal result exists beside this run (``artefacts``).

    Returns:
        The validation scores of the best weights, or None without labelled validation images.

    Raises:
        NumbersError: the loss was not finite for ``PATIENCE`` steps in a row.
        Stopped: SIGINT or SIGTERM came; the state is saved.
    """
    teacher_network = teacher.model if teacher else None
    learner = _prepare(config, fabric, student, method, teacher_network)

    # where the run stands: at its start, at a checkpoint, or where another run ended
    state = State(run, student, method, Average(student, config.train.ema) if config.train.ema else None)
    saved = Checkpoint.load(run.checkpoints) if resume and was_saved(run.checkpoints) else None
    if resume and not saved:
        console.warn(f"{run.path} was stopped before its first checkpoint: it starts from its beginning")
    if saved:
        state.restore(saved)
    elif config.quantise and config.quantise.run:
        state.continue_method(Run(Path(config.quantise.run)))
    if fabric.is_global_zero:
        state.open_logs(saved.offsets if saved else None)

    def run_stage(stage: Stage) -> None:
        own = saved if saved and saved.stage == stage.name else None
        _seed(config.train.seed, fabric, own)
        state.enter(stage, own)
        _loop(config, fabric, stage, state, teacher_network, batches, val, signals, fresh=own is None)

    phases = method.phases(teacher_network) if teacher_network is not None else []
    with Signals() as signals:
        for phase in phases:
            if _is_done(phase, phases, saved, artefacts, fabric):
                artefacts.load(phase)
            else:
                run_stage(_phase_stage(phase, fabric))
                if fabric.is_global_zero:
                    artefacts.keep(phase)
                fabric.barrier()
            phase.module.requires_grad_(False).eval()
            if teacher is not None and phase.module is teacher_network:
                path = artefacts.path(phase)
                teacher.card = replace(teacher.card, file=str(path), sha256=sha256(path))
                if val is not None and config.model.teacher_check:
                    check_teacher(teacher, val, fabric.device)

        run_stage(_main_stage(learner, config, fabric))
    return finish(config, fabric, state, val)


def _prepare(
    config: Config, fabric: Fabric, student: SegmentationModel, method: Composite, teacher: SegmentationModel | None
) -> Learner:
    """Join student and method, and move them and the teacher to the device in the form that the settings ask for."""
    options = config.train
    if config.quantise:
        fake_quantise(student, config.quantise)
    kind = AssistedLearner if student.in_channels == 4 else Learner
    learner = kind(student, method, config.task, options.freeze_bn, options.seed)
    if fabric.device.type == "cuda" and fabric.world_size > 1:
        # torch's converter would drop the activation that timm's batch norms carry
        convert_sync_batchnorm(learner)

    for network in (learner, teacher):
        if network is not None:
            if options.channels_last:
                network.to(memory_format=torch.channels_last)
            network.to(fabric.device)

    if options.compile:
        for network in (student, teacher):
            if network is not None:
                network.compile()
    return learner


def _is_done(phase: Phase, phases: list[Phase], saved: Checkpoint | None, artefacts: Artefacts, fabric: Fabric) -> bool:
    """Tell whether a phase's result is in the run: the checkpoint is past it, or an equal one was copied from a run."""
    stages = [each.name for each in phases] + ["main"]
    if saved and stages.index(phase.name) <= stages.index(saved.stage):
        return phase.name != saved.stage  # the phase that the checkpoint was taken in is resumed
    return fabric.broadcast(artefacts.borrow(phase) if fabric.is_global_zero else False)


def _seed(seed: int, fabric: Fabric, saved: Checkpoint | None) -> None:
    """Set the global generator, which dropout alone draws from: the same for a stage whatever came before it."""
    if saved and fabric.is_global_zero:
        set_rng_state(saved.rng)
    else:  # the checkpoint holds the generator of rank 0; the others must not repeat its dropout
        torch.manual_seed(seed + fabric.global_rank + (saved.step if saved else 0))


def _main_stage(learner: Learner, config: Config, fabric: Fabric) -> Stage:
    joint = [*learner.student.parameters(), *learner.method.joint_parameters()]
    # these parts are kept equal on all ranks without DDP
    learner._ddp_params_and_buffers_to_ignore = [f"method.{name}" for name in learner.method.apart()]
    wrapped, tool = fabric.setup(learner, optimiser(joint, config.train, learner.student.head_parameters()))
    critics = {name: (critic, critic_optimiser(critic)) for name, critic in learner.method.critics().items()}
    return Stage("main", wrapped, tool, config.train.iters, config.train.lr, fabric.strategy.precision, critics)


def _phase_stage(phase: Phase, fabric: Fabric) -> Stage:
    phase.module.requires_grad_(True)
    if fabric.device.type == "cuda" and fabric.world_size > 1:
        convert_sync_batchnorm(phase.module)
    module = PhaseLearner(phase).to(fabric.device)
    wrapped, tool = fabric.setup(module, phase_optimiser(phase))
    return Stage(phase.name, wrapped, tool, phase.iters, phase.lr, fabric.strategy.precision)


def _loop(
    config: Config,
    fabric: Fabric,
    stage: Stage,
    state: State,
    teacher: SegmentationModel | None,
    batches: Batches,
    val: Dataset | None,
    signals: Signals,
    fresh: bool,
) -> None:
    """Take ``stage.iters`` optimiser steps, starting at ``state.step``."""
    options, main = config.train, stage.name == "main"
    before = config.before if main else 0
    if fresh or state.step == 0:
        state.save(stage, fabric.is_global_zero)

    if stage.iters == 0:
        console.warn(f"{'train.iters' if main else stage.name} = 0: no step is taken, the weights stay as they began")
    stream = batches.stream(stage.name, before + state.step, before + stage.iters)
    started, seen, idle = time.perf_counter(), 0, state.step < stage.iters
    stage.learner.train()
    statistics = Statistics(stage.learner)
    with console.bar(stage.iters, "train" if main else stage.name, state.step) as show:
        while state.step < stage.iters:
            step = state.step
            lr = set_lr(stage.optimiser, stage.lr, step, stage.iters, options.power, options.warmup if main else 0)

            # the images of the step, and what the other processes report
            micro, error = fetch(fabric, stream, before + step, options.accumulate)
            valid, stop = agree(fabric, micro, signals.number, error)

            # teacher, student, losses and gradients, one micro-batch after another
            parts, targets, target = [], [], None
            for i, batch in enumerate(micro):
                if main and teacher is not None and state.method.terms:
                    with fabric.autocast():
                        target = state.method.teach(teacher, batch).only(state.method.taps).raised()
                    state.method.remember(target, batch)
                end = i == len(micro) - 1
                with fabric.no_backward_sync(stage.learner, enabled=fabric.world_size > 1 and not end):
                    part = stage.learner(batch, target, valid, fabric.world_size, 1 / len(micro))
                    fabric.backward(part.total)
                if stage.critics:
                    targets.append(target)
                elif not end:  # its features would stay in memory through the next micro-batch
                    part.output = None
                parts.append(part)
                del part

            # fp16 scales its gradients: its scaler looks at them, and leaves out a step that overflows
            total = reduced(fabric, torch.stack([part.total.detach() for part in parts]).sum())
            norm = gradient_norm(stage.optimiser) if stage.scaler is None else torch.zeros_like(total)
            finite = bool(torch.isfinite(total) & torch.isfinite(norm))
            idle = idle and not bool(total)

            if main:  # with a gradient of 0 weight decay and momentum would still move them
                for parameter in state.method.idle_parameters(before + step):
                    parameter.grad = None

            # the weights, then what follows them: the critics and the moving average
            taken = False
            if finite:
                statistics.keep()
                taken = _take_step(fabric, stage, options.clip)
            else:
                statistics.put_back()
            if taken and stage.critics and target is not None:
                shown = [(part.output, seen, batch) for part, seen, batch in zip(parts, targets, micro, strict=True)]
                step_critics(fabric, stage, state.method, shown, lr / stage.lr)
            if taken and state.average and main:
                state.average.update(state.student)
            stage.optimiser.zero_grad(set_to_none=True)
            state.step, state.bad, seen = step + 1, 0 if finite else state.bad + 1, seen + options.batch

            # the logs
            last = state.step == stage.iters
            if not finite:
                _bad_step(state, stage, fabric)
            elif not taken:
                _scaled_down(state, stage, fabric)
            elif last or state.step % options.log_every == 0 or step == 0:  # not at a stop: the resumed run has none
                values = _step_values(fabric, state, parts, target, statistics, before + step)
                rate = seen / (time.perf_counter() - started)
                show(state.step, f"loss {values['loss']:.3f}  {rate:.1f} img/s")
                if fabric.is_global_zero:
                    state.log("metrics", step=state.step, stage=stage.name, lr=lr, **values)
                    state.log("timing", step=state.step, images_per_s=round(rate, 2), **_memory(fabric, started))

            # validation, checkpoint, stop
            if main and val is not None and (last or state.step % options.val_every == 0):
                state.check(stage)
                validate(config, fabric, state, val)
                stage.learner.train()
            if last or stop or state.step % options.save_every == 0:
                state.save(stage, fabric.is_global_zero)
            if stop:
                raise Stopped(stop, state.run)
    if stage.iters == 0:
        state.save(stage, fabric.is_global_zero)
    if idle:
        console.warn(
            f"the loss was exactly 0 in every step of {stage.name}: nothing was learned, since no pixel was labelled "
            "and no term of the method gave anything"
        )


def _take_step(fabric: Fabric, stage: Stage, clip: float | None) -> bool:
    """Clip the gradients and step; return False where fp16's scaler left the step out."""
    if clip:
        fabric.clip_gradients(stage.learner, stage.optimiser, max_norm=clip, error_if_nonfinite=False)
    scale = stage.scaler.get_scale() if stage.scaler else 0.0
    stage.optimiser.step()
    return stage.scaler is None or stage.scaler.get_scale() >= scale


def _scaled_down(state: State, stage: Stage, fabric: Fabric) -> None:
    """Log a step that fp16's scaler left out because gradients overflowed; it has lowered its scale already."""
    if fabric.is_global_zero:
        state.log("metrics", step=state.step, stage=stage.name, skipped=True, scale=stage.scaler.get_scale())


def _step_values(
    fabric: Fabric, state: State, parts: list[StepOutput], target: Output | None, statistics: Statistics, step: int
) -> dict[str, Any]:
    """Return the numbers of a step for the log, over all micro-batches and ranks."""

    def value(tensors: list[Tensor]) -> float:
        return float(reduced(fabric, torch.stack(tensors).sum()))

    task = {name: value([part.task[name] for part in parts]) for name in parts[0].task}
    terms = {name: value([part.terms[name] for part in parts]) for name in parts[0].terms}
    values = {"loss": value([part.total.detach() for part in parts]), "task": task, "terms": terms}

    output = parts[-1].output
    if target is not None and output is not None:
        statistics.keep()  # the features are looked at again, which must not move the running statistics
        values["features"] = state.method.magnitudes(output, target)
        statistics.put_back()
    if phases := state.method.phases_at(step) if terms else {}:
        values["phases"] = phases
    return values | {"weights": {name: state.method.weight(name, step) for name in terms}}


def _bad_step(state: State, stage: Stage, fabric: Fabric) -> None:
    text = f"step {state.step}: the loss is not finite, the step is not taken ({state.bad} in a row)"
    console.warn(text)
    if fabric.is_global_zero:
        state.log("metrics", step=state.step, stage=stage.name, skipped=True)
    if state.bad >= PATIENCE:
        raise NumbersError(
            f"{text}; the last good checkpoint of {state.run.path} is kept. Lower --lr, set train.clip, or use "
            "--precision 32"
        )


def _memory(fabric: Fabric, started: float) -> dict[str, float]:
    seconds = {"seconds": round(time.perf_counter() - started, 2)}
    if fabric.device.type == "cuda":
        return seconds | {"memory_mib": round(torch.cuda.max_memory_allocated() / 2**20, 1)}
    return seconds | {"memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}
