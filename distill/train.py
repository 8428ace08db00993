"""THE training loop: plain training, every distillation method and every phase of a method run through ``_loop``."""

import signal
import time
from collections.abc import Iterator
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor

from . import console
from .batch import IGNORE, Batch
from .batches import Batches
from .checkpoint import load_state, load_student, save_student
from .config import Config
from .data import Dataset
from .errors import DataError, KdcError, NumbersError
from .evaluate import evaluate, model_predictor
from .learner import Learner, PhaseLearner
from .methods import Composite, Phase
from .metrics import Scores
from .models import SegmentationModel
from .optim import Average, Statistics, critic_optimiser, optimiser, set_lr, set_rng_state
from .run import Run
from .state import Signals, Stage, State, Stopped

#: non-finite losses in a row after which a run stops
PATIENCE = 3


def train(
    config: Config,
    run: Run,
    fabric: Fabric,
    student: SegmentationModel,
    method: Composite,
    teacher: SegmentationModel | None,
    batches: Batches,
    val: Dataset | None,
    resume: bool = False,
) -> Scores | None:
    """Run the method's phases, then train the student; leave ``checkpoints/best.safetensors`` and the logs in ``run``.

    Returns:
        The validation scores of the best weights, or None without labelled validation images.

    Raises:
        NumbersError: the loss was not finite for ``PATIENCE`` steps in a row.
        Stopped: SIGINT or SIGTERM came; the state is saved.
    """
    options = config.train
    learner = Learner(student, method, config.task.aux_weight, options.freeze_bn)
    if fabric.device.type == "cuda" and fabric.world_size > 1:
        # torch's converter would drop the activation that timm's batch norms carry
        learner = convert_sync_batchnorm(learner)
    if options.channels_last:
        for network in (learner, teacher):
            if network is not None:
                network.to(memory_format=torch.channels_last)
    learner.to(fabric.device)
    if teacher is not None:
        teacher.to(fabric.device)
    if options.compile:
        for network in (student, teacher):
            if network is not None:
                network.compile()
    state = State(run, student, method, Average(student, options.ema) if options.ema else None)
    saved = load_state(run.checkpoints) if resume else None  # on the CPU: AdamW's counters belong there
    torch.manual_seed(options.seed + fabric.global_rank)  # the student's dropout alone draws from the global generator
    if saved:
        state.restore(saved)
        if fabric.is_global_zero:
            set_rng_state(saved["rng"])
        else:  # the checkpoint holds the generator of rank 0; the others must not repeat its dropout
            torch.manual_seed(options.seed + fabric.global_rank + saved["step"])
    if fabric.is_global_zero:
        state.open_logs(saved["offsets"] if saved else None)

    plan: list[Phase | None] = [*(method.phases(teacher) if teacher is not None else ()), None]
    names = [phase.name if phase else "main" for phase in plan]
    first = names.index(state.stage) if saved else 0
    with Signals() as signals:
        for phase in plan[first:]:
            stage = _stage(phase, learner, config, fabric)
            state.enter(stage, saved)
            _loop(config, fabric, stage, state, teacher, batches, val, signals, fresh=not saved)
            saved = None
    return _finish(config, fabric, state, val)


def _stage(phase: Phase | None, learner: Any, config: Config, fabric: Fabric) -> Stage:
    if phase is None:
        joint = [*learner.student.parameters(), *learner.method.joint_parameters()]
        wrapped, tool = fabric.setup(learner, optimiser(joint, config.train))
        critics = {name: (critic, critic_optimiser(critic)) for name, critic in learner.method.critics().items()}
        precision = fabric.strategy.precision
        return Stage("main", wrapped, tool, config.train.iters, config.train.lr, precision, critics)
    options = config.train.model_copy(
        update={"lr": phase.lr, "momentum": phase.momentum, "weight_decay": phase.weight_decay}
    )
    module = PhaseLearner(phase).to(fabric.device)
    wrapped, tool = fabric.setup(module, optimiser(module.parameters(), options))
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
    save = (lambda: state.save(stage)) if fabric.is_global_zero else (lambda: None)
    if fresh or state.step == 0:
        save()
    stream = batches.stream(stage.name, state.step, stage.iters)
    started, seen = time.perf_counter(), 0
    stage.learner.train()
    statistics = Statistics(stage.learner)
    with console.bar(stage.iters, "train" if main else stage.name, state.step) as show:
        while state.step < stage.iters:
            step = state.step
            lr = set_lr(stage.optimiser, stage.lr, step, stage.iters, options.power, options.warmup if main else 0)
            micro, error = _fetch(fabric, stream, step, options.accumulate)
            valid, stop = _agree(fabric, micro, signals.number, error)
            parts, shown = [], None
            for i, batch in enumerate(micro):
                if main and teacher is not None and state.method.terms:
                    with fabric.autocast():
                        shown = state.method.teach(teacher, batch).only(state.method.taps)
                end = i == len(micro) - 1
                with fabric.no_backward_sync(stage.learner, enabled=fabric.world_size > 1 and not end):
                    part = stage.learner(batch, shown, valid, fabric.world_size, 1 / len(micro))
                    fabric.backward(part["total"])
                if not (end and stage.critics):  # its features would stay in memory through the next micro-batch
                    part.pop("output", None)
                parts.append(part)
            finite = bool(torch.isfinite(_reduced(fabric, torch.stack([p["total"].detach() for p in parts]).sum())))
            if finite:
                statistics.keep()
                if options.clip:
                    fabric.clip_gradients(
                        stage.learner, stage.optimiser, max_norm=options.clip, error_if_nonfinite=False
                    )
                stage.optimiser.step()
                if stage.critics and shown is not None:
                    _step_critics(
                        fabric, stage, state.method.critic_losses(parts[-1]["output"], shown, micro[-1]), lr / stage.lr
                    )
                if state.average and main:
                    state.average.update(state.student)
            else:
                statistics.put_back()
            stage.optimiser.zero_grad(set_to_none=True)
            state.step, state.bad, seen = step + 1, 0 if finite else state.bad + 1, seen + options.batch
            last = state.step == stage.iters
            if not finite:
                _bad_step(state, stage, fabric)
            elif last or state.step % options.log_every == 0 or step == 0:  # not at a stop: the resumed run has none
                values = _summed(fabric, parts)
                rate = seen / (time.perf_counter() - started)
                show(state.step, f"loss {values['loss']:.3f}  {rate:.1f} img/s")
                if fabric.is_global_zero:
                    weights = {k: state.method.weight(k, step) for k in values["terms"]}
                    state.log("metrics", step=state.step, stage=stage.name, lr=lr, **values, weights=weights)
                    state.log("timing", step=state.step, images_per_s=round(rate, 2), **_memory(fabric, started))
            if main and val is not None and (last or state.step % options.val_every == 0):
                _validate(config, fabric, state, val)
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
        for group in tool.param_groups:
            group["lr"] = critic.lr * (decay if critic.decay else 1.0)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad = _reduced(fabric, parameter.grad)
        tool.step()


def _validate(config: Config, fabric: Fabric, state: State, val: Dataset) -> None:
    scores = _scores(config, fabric, state.judged, val, config.train.val_images)
    text = f"step {state.step}: val mIoU {100 * scores.miou:.2f} %"
    if fabric.is_global_zero:
        state.log("metrics", step=state.step, stage="main", val=_short(scores))
        if scores.miou > state.best.get("miou", -1.0):
            state.best = {"step": state.step, "miou": scores.miou}
            save_student(state.run.checkpoints / "best.safetensors", state.judged, _card(state, **state.best))
            text += " (best)"
        console.say(text)


def _finish(config: Config, fabric: Fabric, state: State, val: Dataset | None) -> Scores | None:
    """Keep the last weights beside the best ones, and judge the best on the whole validation split."""
    if fabric.is_global_zero:
        save_student(state.run.checkpoints / "last.safetensors", state.judged, _card(state, step=state.step))
        if val is None or not (state.run.checkpoints / "best.safetensors").exists():  # the last are the best known
            save_student(state.run.checkpoints / "best.safetensors", state.judged, _card(state, step=state.step))
        for file in state.logs.values():
            file.close()
    fabric.barrier()
    if val is None:
        return None
    return _scores(config, fabric, load_student(state.run), val, None)


def _scores(config: Config, fabric: Fabric, model: SegmentationModel, val: Dataset, limit: int | None) -> Scores:
    """Judge on ``limit`` images spread over the split, each rank its share; no random number is drawn."""
    count = min(limit or len(val), len(val))
    indices = [i * len(val) // count for i in range(count)][fabric.global_rank :: fabric.world_size]
    training = model.training
    predict = model_predictor(model, fabric.device, channels_last=config.train.channels_last)
    scores = evaluate(predict, val, indices=indices, label="validate")
    model.train(training)
    if fabric.world_size > 1:
        for name in ("confusion", "band_confusion"):
            total = _reduced(fabric, torch.from_numpy(getattr(scores, name)).to(fabric.device), "sum")
            setattr(scores, name, total.cpu().numpy())
        scores.images = count
    return scores


def _to(device: torch.device, sample: dict[str, Any], step: int) -> Batch:
    images = sample["image"].to(device, non_blocking=True)
    return Batch(images, sample["label"].to(device, non_blocking=True).long(), step)


def _fetch(
    fabric: Fabric, stream: Iterator[dict[str, Any]], step: int, count: int
) -> tuple[list[Batch], KdcError | None]:
    """Return the micro-batches of a step; an error is handed on, for the other ranks must hear of it."""
    try:
        return [_to(fabric.device, next(stream), step) for _ in range(count)], None
    except KdcError as error:
        return [], error


def _agree(fabric: Fabric, micro: list[Batch], stop: int, error: KdcError | None) -> tuple[Tensor, int]:
    """Return the labelled pixels of the global batch, and the signal that any rank got.

    The count stays a whole number: Fabric turns floating-point inputs of the learner into the precision of autocast,
    where a count of pixels is rounded (bf16) or infinite (fp16).

    Raises:
        KdcError: this rank could not read its images, or another one could not; all ranks stop together.
    """
    counts = [(batch.labels != IGNORE).sum() for batch in micro]
    valid = torch.stack(counts).sum() if counts else torch.zeros((), dtype=torch.int64, device=fabric.device)
    if fabric.world_size == 1:
        if error:
            raise error
        return valid, stop
    alone = torch.stack([valid, torch.full_like(valid, stop), torch.full_like(valid, error is not None)])
    both = _reduced(fabric, alone, "sum")
    if both[2]:
        texts: list[Any] = [None] * fabric.world_size
        torch.distributed.all_gather_object(texts, str(error or ""))
        raise error or DataError("; ".join(text for text in texts if text))
    return both[0], _signal(int(both[1]))


def _signal(total: int) -> int:
    # several ranks get the same signal at once on Ctrl-C: any multiple of SIGINT's 2 and SIGTERM's 15 names one of them
    return 0 if total == 0 else int(signal.SIGTERM if total % signal.SIGTERM == 0 else signal.SIGINT)


def _reduced(fabric: Fabric, value: Tensor, how: str = "mean") -> Tensor:
    return cast(Tensor, fabric.all_reduce(value, reduce_op=how)) if fabric.world_size > 1 else value


def _summed(fabric: Fabric, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the step's numbers over all micro-batches and ranks."""

    def value(tensors: list[Tensor]) -> float:
        return float(_reduced(fabric, torch.stack(tensors).sum()))

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


def _short(scores: Scores) -> dict[str, Any]:
    return {
        "miou": scores.miou,
        "miou_present": scores.miou_present,
        "pixel_accuracy": scores.pixel_accuracy,
        "iou": scores.iou,
    }


def _card(state: State, **values: Any) -> dict[str, Any]:
    data = state.run.card["data"]
    return {"classes": data["classes"], "palette": data["palette"], "run": state.run.path.name, **values}
