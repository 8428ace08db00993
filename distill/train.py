"""THE training loop: plain training, every distillation method and every phase of a method run through ``_loop``."""

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
from .run.checkpoint import load_state
from .run.files import sha256
from .run.folder import Run
from .run.phase_results import Artefacts
from .settings.config import Config
from .training.batches import Batches
from .training.fake_quantise import fake_quantise
from .training.learner import AssistedLearner, Learner, PhaseLearner
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
from .training.state import Stage, State, Stopped
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

    A phase whose result lies beside this run already (``artefacts``) is not run again.

    Returns:
        The validation scores of the best weights, or None without labelled validation images.

    Raises:
        NumbersError: the loss was not finite for ``PATIENCE`` steps in a row.
        Stopped: SIGINT or SIGTERM came; the state is saved.
    """
    options = config.train
    if config.quantise:
        fake_quantise(student, config.quantise)
    shown_to = teacher.model if teacher else None
    kind = AssistedLearner if student.in_channels == 4 else Learner
    learner = kind(student, method, config.task, options.freeze_bn, options.seed)
    if fabric.device.type == "cuda" and fabric.world_size > 1:
        # torch's converter would drop the activation that timm's batch norms carry
        learner = convert_sync_batchnorm(learner)
    if options.channels_last:
        for network in (learner, shown_to):
            if network is not None:
                network.to(memory_format=torch.channels_last)
    learner.to(fabric.device)
    if shown_to is not None:
        shown_to.to(fabric.device)
    if options.compile:
        for network in (student, shown_to):
            if network is not None:
                network.compile()
    state = State(run, student, method, Average(student, options.ema) if options.ema else None)
    saved = load_state(run.checkpoints) if resume else None  # on the CPU: AdamW's counters belong there
    if saved:
        state.restore(saved)
    elif config.quantise and config.quantise.run:
        state.continue_method(Run(Path(config.quantise.run)))
    if fabric.is_global_zero:
        state.open_logs(saved["offsets"] if saved else None)

    phases = method.phases(shown_to) if shown_to is not None else []
    begun = [phase.name for phase in phases].index(state.stage) if saved and state.stage != "main" else len(phases)
    with Signals() as signals:
        for i, phase in enumerate(phases):
            if saved and i < begun:
                there = True
            else:
                there = not saved and fabric.broadcast(artefacts.borrow(phase) if fabric.is_global_zero else False)
            if there:
                artefacts.load(phase)
            else:
                stage = _stage(phase, learner, config, fabric)
                _seed(options.seed, fabric, saved)
                state.enter(stage, saved)
                _loop(config, fabric, stage, state, shown_to, batches, val, signals, fresh=not saved)
                saved = None
                if fabric.is_global_zero:
                    artefacts.keep(phase)
                fabric.barrier()
            phase.module.requires_grad_(False).eval()
            if teacher is not None and phase.module is shown_to:
                path = artefacts.path(phase)
                teacher.card = replace(teacher.card, file=str(path), sha256=sha256(path))
                if val is not None and config.model.teacher_check:
                    check_teacher(teacher, val, fabric.device)
        stage = _stage(None, learner, config, fabric)
        _seed(options.seed, fabric, saved)
        state.enter(stage, saved)
        _loop(config, fabric, stage, state, shown_to, batches, val, signals, fresh=not saved)
    return finish(config, fabric, state, val)


def _seed(seed: int, fabric: Fabric, saved: dict[str, Any] | None) -> None:
    """Set the global generator, which dropout alone draws from: the same for a stage whatever came before it."""
    if saved and fabric.is_global_zero:
        set_rng_state(saved["rng"])
    else:  # the checkpoint holds the generator of rank 0; the others must not repeat its dropout
        torch.manual_seed(seed + fabric.global_rank + (saved["step"] if saved else 0))


def _stage(phase: Phase | None, learner: Any, config: Config, fabric: Fabric) -> Stage:
    if phase is None:
        joint = [*learner.student.parameters(), *learner.method.joint_parameters()]
        # DDP leaves alone what the ranks keep equal by themselves
        learner._ddp_params_and_buffers_to_ignore = [f"method.{name}" for name in learner.method.apart()]
        wrapped, tool = fabric.setup(learner, optimiser(joint, config.train))
        critics = {name: (critic, critic_optimiser(critic)) for name, critic in learner.method.critics().items()}
        precision = fabric.strategy.precision
        return Stage("main", wrapped, tool, config.train.iters, config.train.lr, precision, critics)
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
    save = (lambda: state.save(stage)) if fabric.is_global_zero else (lambda: None)
    if fresh or state.step == 0:
        save()
    stream = batches.stream(stage.name, before + state.step, before + stage.iters)
    started, seen = time.perf_counter(), 0
    stage.learner.train()
    statistics = Statistics(stage.learner)
    with console.bar(stage.iters, "train" if main else stage.name, state.step) as show:
        while state.step < stage.iters:
            step = state.step
            lr = set_lr(stage.optimiser, stage.lr, step, stage.iters, options.power, options.warmup if main else 0)
            micro, error = fetch(fabric, stream, before + step, options.accumulate)
            valid, stop = agree(fabric, micro, signals.number, error)
            parts, shown = [], None
            for i, batch in enumerate(micro):
                if main and teacher is not None and state.method.terms:
                    with fabric.autocast():
                        shown = state.method.teach(teacher, batch).only(state.method.taps).raised()
                    state.method.remember(shown, batch)
                end = i == len(micro) - 1
                with fabric.no_backward_sync(stage.learner, enabled=fabric.world_size > 1 and not end):
                    part = stage.learner(batch, shown, valid, fabric.world_size, 1 / len(micro))
                    fabric.backward(part["total"])
                if not end:  # its features would stay in memory through the next micro-batch
                    part.pop("output", None)
                parts.append(part)
                del part
            total = reduced(fabric, torch.stack([p["total"].detach() for p in parts]).sum())
            # fp16 scales its gradients: its scaler looks at them, and leaves out a step that overflows
            norm = gradient_norm(stage.optimiser) if stage.scaler is None else torch.zeros_like(total)
            finite = bool(torch.isfinite(total) & torch.isfinite(norm))
            taken = finite
            if finite:
                statistics.keep()
                if options.clip:
                    fabric.clip_gradients(
                        stage.learner, stage.optimiser, max_norm=options.clip, error_if_nonfinite=False
                    )
                scale = stage.scaler.get_scale() if stage.scaler else 0.0
                stage.optimiser.step()
                taken = stage.scaler is None or stage.scaler.get_scale() >= scale
            if taken:
                if stage.critics and shown is not None:
                    _step_critics(
                        fabric, stage, state.method.critic_losses(parts[-1]["output"], shown, micro[-1]), lr / stage.lr
                    )
                if state.average and main:
                    state.average.update(state.student)
            elif not finite:
                statistics.put_back()
            stage.optimiser.zero_grad(set_to_none=True)
            state.step, state.bad, seen = step + 1, 0 if finite else state.bad + 1, seen + options.batch
            last = state.step == stage.iters
            if not finite:
                _bad_step(state, stage, fabric)
            elif not taken:
                _scaled_down(state, stage, fabric)
            elif last or state.step % options.log_every == 0 or step == 0:  # not at a stop: the resumed run has none
                values = _summed(fabric, parts)
                rate = seen / (time.perf_counter() - started)
                show(state.step, f"loss {values['loss']:.3f}  {rate:.1f} img/s")
                weights = {k: state.method.weight(k, before + step) for k in values["terms"]}
                if shown is not None:  # looked at again, which the running statistics must not feel
                    statistics.keep()
                    values["features"] = state.method.magnitudes(parts[-1]["output"], shown)
                    statistics.put_back()
                if fabric.is_global_zero:
                    state.log("metrics", step=state.step, stage=stage.name, lr=lr, **values, weights=weights)
                    state.log("timing", step=state.step, images_per_s=round(rate, 2), **_memory(fabric, started))
            if main and val is not None and (last or state.step % options.val_every == 0):
                validate(config, fabric, state, val)
                stage.learner.train()
            if last or stop or state.step % options.save_every == 0:
                save()
            if stop:
                raise Stopped(stop, state.run)
    if stage.iters == 0:
        save()


def _step_critics(fabric: Fabric, stage: Stage, losses: dict[str, Tensor], decay: float) -> None:
    """Train the critics on what the student showed; the gradients that its own pass left in them go first."""
    for name, loss in losses.items():
        critic, tool = stage.critics[name]
        tool.zero_grad(set_to_none=True)
        loss.backward()
        if not bool(torch.isfinite(reduced(fabric, loss.detach() + gradient_norm(tool)))):
            console.warn(f"critic {name}: its loss or gradient is not finite, its step is not taken")
            continue
        for group in tool.param_groups:
            group["lr"] = critic.lr * (decay if critic.decay else 1.0)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad = reduced(fabric, parameter.grad)
        tool.step()


def _scaled_down(state: State, stage: Stage, fabric: Fabric) -> None:
    """Log a step that fp16's scaler left out because gradients overflowed; it has lowered its scale already."""
    if fabric.is_global_zero:
        state.log("metrics", step=state.step, stage=stage.name, skipped=True, scale=stage.scaler.get_scale())


def _summed(fabric: Fabric, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the step's numbers over all micro-batches and ranks."""

    def value(tensors: list[Tensor]) -> float:
        return float(reduced(fabric, torch.stack(tensors).sum()))

    named = {group: {k: value([p[group][k] for p in parts]) for k in parts[0][group]} for group in ("task", "terms")}
    return {"loss": value([p["total"].detach() for p in parts]), **named}


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
    import resource

    return seconds | {"memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}
