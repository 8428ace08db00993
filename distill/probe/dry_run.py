"""What a run would do and need, told before it starts and without writing anything."""

from typing import Any

import torch

from .. import cost, models
from ..console import say, table
from ..job import prepare
from ..method_cost import method_cost
from ..methods import Composite
from ..settings.config import Config
from ..training.devices import launch


def plan(config: Config) -> dict[str, Any]:
    """Open the data, build the networks and the method, print the plan and return it.

    Raises:
        KdcError: whatever would stop the run at its start.
    """
    fabric = launch(config)
    parts = prepare(config, fabric, dry=True)
    options = config.train
    share = options.batch // (options.devices * options.nodes * options.accumulate)
    memory = estimate_memory(config, share, parts.teacher.model if parts.teacher else None, parts.method)
    result = {
        "data": {
            "name": parts.data.name,
            "train": len(parts.data),
            "val": len(parts.val) if parts.val else 0,
            "classes": parts.data.num_classes,
        },
        "student": {"name": parts.student.name, "params": cost.params(parts.student)[0]},
        "teacher": {"name": parts.teacher.model.name, "source": parts.teacher.card.source} if parts.teacher else None,
        "method": parts.method.describe(),
        "notes": parts.method.notes(),
        "iters": options.iters,
        "images_per_device": share,
        "device": str(fabric.device),
        "memory_mib": memory,
    }
    rows = [
        (
            "data",
            f"{parts.data.name}: {len(parts.data)} train, {result['data']['val']} {config.data.split}, "
            f"{parts.data.num_classes} classes",
        ),
        ("student", f"{parts.student.name}, {result['student']['params']:,} parameters"),
        ("teacher", f"{parts.teacher.model.name} from {parts.teacher.card.source}" if parts.teacher else "none"),
        ("terms", ", ".join(f"{t}={w}" for t, w in result["method"]["terms"].items()) or "none"),
        (
            "steps",
            f"{options.iters} of {options.batch} images at {options.crop[0]}x{options.crop[1]}, {options.optimizer} "
            f"lr {options.lr:g}",
        ),
        (
            "device",
            f"{options.devices} x {options.nodes} {fabric.device.type}, {share} images each at a time, precision "
            f"{options.precision}",
        ),
        (
            "memory",
            f"about {memory['total']:,} MiB a device (weights and optimiser {memory['weights']:,}, activations "
            f"{memory['activations']:,})",
        ),
    ]
    table("plan", ("", ""), rows)
    for note in parts.method.notes():
        say(f"  {note}")
    say("nothing was written")
    return result


def estimate_memory(
    config: Config, images: int, teacher: models.SegmentationModel | None, method: Composite | None = None
) -> dict[str, int]:
    """Estimate one device's memory in MiB: weights, gradients, momentum, and what autograd keeps of the student.

    The student runs once on the meta device, where nothing is computed and every tensor kept for backward is seen. The
    teacher adds its weights and its largest layer, the method its networks, buffers and what its losses keep; allocator
    slack is not in it.
    """
    height, width = config.train.crop
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.device("meta"):
        student = models.build(
            models.expand(config.model.student, config.model.arch), 19, output_stride=config.model.output_stride
        )
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            student.train()(torch.zeros(max(images, 2), 3, height, width, dtype=torch.uint8))
    weights = sum(p.numel() for p in student.parameters()) * 4 * (3 if config.train.optimizer == "sgd" else 4)
    activations = sum(kept.values()) * images / max(images, 2) * (1.0 if config.train.precision == "32" else 0.6)
    if teacher is not None:
        weights += sum(p.numel() for p in teacher.parameters()) * 4
        activations += (
            images * height * width * max(tap.channels / tap.stride**2 for tap in teacher.taps.values()) * 4 * 4
        )
    if teacher is not None and method is not None and method.terms:
        given = {"student": config.model.student, "teacher": teacher.name, "settings": config.method.settings()}
        given["student"] = models.expand(given["student"], config.model.arch)
        found = method_cost(config.method.name, classes=teacher.num_classes, size=(height, width), **given)
        own = found["parameters"]
        states = 3 if config.train.optimizer == "sgd" else 4
        weights += 4 * (own["trained"] * states + own["critics"] * 4 + own["fixed"] + own["buffers"])
        activations += images * found["kept_mib"] * 2**20
    mib = {"weights": round(weights / 2**20), "activations": round(activations / 2**20)}
    return {**mib, "total": sum(mib.values())}
