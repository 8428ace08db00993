"""Validation during a training and at its end, and which weights are kept."""

import torch
from lightning_fabric import Fabric

from .. import console
from ..data import Dataset
from ..evaluation.evaluate import evaluate, model_predictor
from ..evaluation.metrics import Scores
from ..models import SegmentationModel
from ..run.checkpoint import load_student, save_student
from ..settings.config import Config
from .processes import reduced
from .state import Best, State


def validate(config: Config, fabric: Fabric, state: State, val: Dataset) -> None:
    """Score the network as it is now, log the scores, and keep its weights if they are the best so far."""
    scores = _scores(config, fabric, state.evaluated, val, config.train.val_images)
    if not scores.labelled:
        console.say(f"step {state.step}: no pixel of {val.split} is labelled: no score")
        return
    privileged = " (privileged: it is shown the label)" if state.student.in_channels == 4 else ""
    part = f" on {scores.images} of {len(val)} images" if scores.images < len(val) else ""
    text = f"step {state.step}: val mIoU {100 * scores.miou:.2f} %{part}{privileged}"
    if fabric.is_global_zero:
        state.log("metrics", step=state.step, stage="main", val=_short(scores))
        if state.best is None or scores.miou > state.best.miou:
            state.best = Best(state.step, scores.miou)
            _save(state, "best", miou=scores.miou)
            text += f" (best so far{part and ' on these'})"
        console.say(text)


def finish(config: Config, fabric: Fabric, state: State, val: Dataset | None) -> Scores | None:
    """Keep the last weights beside the best ones, and score the best on the whole validation split."""
    if fabric.is_global_zero:
        _save(state, "last")
        if val is None or not (state.run.checkpoints / "best.safetensors").exists():  # the last are the best known
            _save(state, "best")
        for file in state.logs.values():
            file.close()
    fabric.barrier()
    if val is None:
        return None
    scores = _scores(config, fabric, load_student(state.run), val, None)
    return scores if scores.labelled else None


def _scores(config: Config, fabric: Fabric, model: SegmentationModel, val: Dataset, limit: int | None) -> Scores:
    """Score on ``limit`` images spread over the split, each rank its share; no random number is drawn."""
    count = min(limit or len(val), len(val))
    indices = [i * len(val) // count for i in range(count)][fabric.global_rank :: fabric.world_size]
    training = model.training
    predict = model_predictor(model, fabric.device, channels_last=config.train.channels_last)
    scores = evaluate(predict, val, indices=indices, label="validate")
    model.train(training)
    if fabric.world_size > 1:
        for name in ("confusion", "band_confusion"):
            total = reduced(fabric, torch.from_numpy(getattr(scores, name)).to(fabric.device), "sum")
            setattr(scores, name, total.cpu().numpy())
        scores.images = count
        ignored = torch.tensor(scores.ignored, dtype=torch.int64, device=fabric.device)
        scores.ignored = int(reduced(fabric, ignored, "sum"))
    return scores


def _save(state: State, which: str, **scores: float) -> None:
    data = state.run.card.data
    facts = {"classes": data.classes, "palette": data.palette, "run": state.run.path.name, "step": state.step}
    save_student(state.run.checkpoints / f"{which}.safetensors", state.evaluated, facts | scores)


def _short(scores: Scores) -> dict[str, float | list[float]]:
    return {
        "miou": scores.miou,
        "miou_present": scores.miou_present,
        "pixel_accuracy": scores.pixel_accuracy,
        "iou": scores.iou,
    }
