"""An estimate of the memory that a run needs on one device."""

from dataclasses import dataclass

import torch

from .. import models
from ..method_cost import method_cost
from ..methods import Composite
from ..settings.config import Config


@dataclass(frozen=True)
class Memory:
    """MiB of one device: weights with gradients and optimiser states, activations, and both."""

    weights: int
    activations: int
    total: int


def estimate_memory(
    config: Config, images: int, teacher: models.SegmentationModel | None, method: Composite | None = None
) -> Memory:
    """Estimate one device's memory: weights, gradients, momentum, and what autograd keeps of the student.

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

    # a weight, its gradient, and one state of SGD or two of AdamW
    states = 3 if config.train.optimizer == "sgd" else 4
    weights = sum(p.numel() for p in student.parameters()) * 4 * states
    activations = sum(kept.values()) * images / max(images, 2) * (1.0 if config.train.precision == "32" else 0.6)

    if teacher is not None:
        weights += sum(p.numel() for p in teacher.parameters()) * 4
        activations += (
            images * height * width * max(tap.channels / tap.stride**2 for tap in teacher.taps.values()) * 4 * 4
        )
    if teacher is not None and method is not None and method.terms:
        cost = method_cost(
            config.method.name,
            student=models.expand(config.model.student, config.model.arch),
            teacher=teacher.name,
            classes=teacher.num_classes,
            size=(height, width),
            settings=config.method.settings(),
        )
        own = cost.parameters
        weights += 4 * (own["trained"] * states + own["critics"] * 4 + own["fixed"] + own["buffers"])
        activations += images * cost.kept_mib * 2**20

    mib = round(weights / 2**20), round(activations / 2**20)
    return Memory(*mib, sum(mib))
