"""Five minutes before the long run: what the teacher knows, what each term weighs and pulls, what a step costs."""

import contextlib
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from .. import cost
from ..data import Dataset
from ..errors import UsageError, WeightsError
from ..evaluation.evaluate import evaluate, model_predictor
from ..job import Parts, lineage, prepare
from ..methods import Composite, Phase
from ..models import SegmentationModel
from ..run.folder import all_runs
from ..run.phase_results import Artefacts
from ..settings.config import Config
from ..training.batches import Batches
from ..training.devices import launch
from ..training.teacher import Teacher, chance, spread
from .dry_run import estimate_memory
from .gradients import Rehearsal, rehearse
from .suggested_weights import Felt, advise
from .tables import show


def probe(config: Config, *, images: int = 32, batches: int = 4, root: Path | None = None) -> dict[str, Any]:
    """Measure what a distillation would start from, print it and return it; nothing is written and no step is taken.

    Args:
        config: the settings of the run that is thought of.
        images: validation images that teacher and student are judged on.
        batches: training batches that are gone through, each one device's share of a micro-batch.
        root: where runs lie, for teachers that a run trained.

    Raises:
        UsageError: there is no method.
        WeightsError: there is no teacher with weights.
        NumbersError: a term is not finite at the start.
    """
    if config.method.name == "none":
        raise UsageError("kdc probe looks at a distillation; name a --method, such as kd (see: kdc methods ls)")
    options = config.train
    share = options.batch // (options.devices * options.nodes * options.accumulate)
    alone = {"devices": 1, "nodes": 1, "accumulate": 1, "batch": share, "workers": 0, "compile": False}
    one = config.changed(**{f"train__{key}": value for key, value in alone.items()})
    fabric = launch(one)
    parts = prepare(config, fabric, root, dry=True)
    teacher = parts.teacher
    assert teacher is not None
    if next(teacher.model.parameters()).is_meta:
        raise WeightsError(_fit_it_first(config, teacher))
    stream = Batches(parts.data, one, fabric).stream("main", 0, batches)
    origin = lineage(parts, fabric) | {"processes": options.devices * options.nodes}
    found = rehearse(
        one, fabric, parts.student, parts.method, teacher.model, stream, batches, lambda p: _ready(p, origin, root)
    )
    terms = _terms(parts.method, found)
    felt = ("term", "weight", "constant", "ratio", "cosine", "untrained")
    advice = advise(Felt(**{key: term[key] for key in felt}) for term in terms)
    taught = teacher.trained or all(ready for _, ready in found.phases)
    result = {
        "student": {"name": parts.student.name, "params": cost.params(parts.student)[0], "start": _start(config)},
        "teacher": {"name": teacher.model.name, "source": teacher.card.source, "trained": teacher.trained},
        "knowledge": _knowledge(parts, teacher.model if taught else None, images, fabric.device),
        "shapes": _shapes(found),
        "method": parts.method.describe(),
        "notes": parts.method.notes(),
        "phases": [{"name": phase.name, "iters": phase.iters, "ready": ready} for phase, ready in found.phases],
        "critics": sorted(parts.method.critics()),
        "magnitudes": {name: _spreads(values) for name, values in found.magnitudes.items()},
        "task": {"value": _spread(found.task), "gradient": _spread(found.task_norm)},
        "terms": terms,
        "forecast": _forecast(config, parts, teacher, found, share, fabric),
        "batches": {"count": batches, "images": share, "crop": list(options.crop)},
        "advice": [advised.to_dict() for advised in advice],
        "settings": [advised.setting for advised in advice if advised.setting],
    }
    show(result)
    return result


def _fit_it_first(config: Config, teacher: Teacher) -> str:
    options = " ".join(f"--set data.{key}={_plain(value)}" for key, value in config.data.options().items())
    stride = config.model.teacher_stride
    options += f" --set model.output_stride={stride}" if stride else ""
    return (
        f"the teacher {teacher.model.name} is not fitted yet, and kdc probe writes nothing; make it with: kdc train "
        f"--student {teacher.model.name} --data {config.data.source} {options}".rstrip()
    )


def _plain(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _start(config: Config) -> str:
    if config.model.init:
        return f"the weights of {config.model.init}"
    return f"a trained backbone ({config.model.student_weights})" if config.model.student_weights else "random"


def _ready(phase: Phase, origin: dict[str, Any], root: Path | None) -> bool:
    """Give a phase the equal result that a run has left, if there is any."""
    for run in all_runs(root):
        kept = Artefacts(run, origin)
        if kept.path(phase).exists():
            with contextlib.suppress(WeightsError):  # a damaged one would not be reused either
                kept.load(phase)
                return True
    return False


def _knowledge(parts: Parts, teacher: SegmentationModel | None, images: int, device: torch.device) -> dict[str, Any]:
    """Judge teacher and student on the same images, or say under "skipped" why that cannot be done."""
    data: Dataset | None = parts.val
    if data is None:
        return {"skipped": "there are no labelled validation images"}
    if teacher is None:
        return {"skipped": "a phase of the method trains the teacher first"}
    indices = spread(data, images)
    judged = {}
    for role, model in (("teacher", teacher), ("student", parts.student)):
        training = model.training
        judged[role] = evaluate(model_predictor(model, device), data, indices=indices, label=role)
        model.train(training)
    scores, own = judged["teacher"], judged["student"]
    pixels = scores.confusion.sum(1)
    rows = [
        {"name": name, "share": float(n / max(pixels.sum(), 1)), "teacher": mine, "student": its}
        for name, n, mine, its in zip(scores.classes, pixels, scores.iou, own.iou, strict=True)
        if n
    ]
    return {
        "skipped": None,
        "split": data.split,
        "images": len(indices),
        "chance": chance(scores),
        "teacher": scores.miou_present,
        "student": own.miou_present,
        "classes": rows,
        "absent": [name for name, n in zip(scores.classes, pixels, strict=True) if not n],
        "not_taught": [row["name"] for row in rows if row["teacher"] <= row["student"]],
    }


def _shapes(found: Rehearsal) -> list[dict[str, Any]]:
    return [
        {"tap": tap, "student": mine, "teacher": its, "resized": mine[1:] != its[1:]}
        for tap, (mine, its) in found.shapes.items()
    ]


def _terms(method: Composite, found: Rehearsal) -> list[dict[str, Any]]:
    rows = []
    coming = {phase.name.partition(".")[0] for phase, ready in found.phases if not ready}
    for name, pulls in found.terms.items():
        weight, schedule = method.weight(name, 0), method.schedules[name]
        critic = "its critic" if name in found.judged else None
        cosines = [pull.cosine for pull in pulls if pull.cosine is not None]
        ratio = _spread([pull.norm / pull.task_norm if pull.task_norm else 0.0 for pull in pulls])
        value = _spread([pull.value for pull in pulls])
        rows.append(
            {
                "term": name,
                "value": value["mean"],
                "value_spread": value["std"],
                "weight": weight,
                "schedule": str(schedule),
                "constant": schedule.kind == "constant",
                "weighted": weight * value["mean"],
                "norm": _spread([pull.norm for pull in pulls])["mean"],
                "ratio": ratio["mean"],
                "share": weight * ratio["mean"],
                "share_spread": weight * ratio["std"],
                "cosine": statistics.fmean(cosines) if cosines else None,
                "cosine_spread": _spread(cosines)["std"] if cosines else None,
                "untrained": "what its phase makes" if name.partition(".")[0] in coming else critic,
            }
        )
    return rows


def _forecast(
    config: Config, parts: Parts, teacher: Teacher, found: Rehearsal, share: int, fabric: Fabric
) -> dict[str, Any]:
    """Return seconds of a step and its parts, hours of the run, and memory in MiB."""
    options = config.train
    parted = {part: statistics.median(seconds) for part, seconds in found.seconds.items()}
    workers = Batches(parts.data, config, fabric).workers
    reading = parted.pop("reading")
    work = sum(parted.values())
    # loader processes read while the networks work
    step = options.accumulate * (max(work, reading / workers) if workers else work + reading)
    state = sum(p.numel() for p in parts.student.parameters()) * 4 * (1 if options.optimizer == "sgd" else 2) / 2**20
    return {
        "device": torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else "cpu",
        "precision": options.precision,
        "seconds": parted | {"reading": reading},
        "workers": workers,
        "step": step,
        "iters": options.iters,
        "hours": step * options.iters / 3600,
        "memory_mib": estimate_memory(config, share, teacher.model, parts.method),
        "peak_mib": None if found.peak_mib is None else found.peak_mib + state,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "std": statistics.pstdev(values)}


def _spreads(values: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {key: _spread([value[key] for value in values]) for key in values[0]}
