"""The label as a fourth input channel, by which a label-assisted teacher is privileged (arXiv 2407.13254)."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .batch import IGNORE, Batch
from .losses import channel_kl, task_loss

if TYPE_CHECKING:
    from .batch import Draw
    from .models import SegmentationModel
    from .output import Output

#: the channel's scale beside images in 0-255 (skyshoumeng/Label_Assisted_Distillation train_baseline.py)
SCALE = 100.0


def fixed_codes(num_classes: int) -> Tensor:
    """Return the code of each class and, last, of ignored pixels: ``(K + 1,)``, evenly from -1.1 up to below 1.1.

    With 21 classes these are the published ``(k - 11) / 10``.
    """
    return 2.2 * torch.arange(num_classes + 1) / (num_classes + 1) - 1.1


def channel(labels: Tensor, codes: Tensor, noise: Tensor | float, model: "SegmentationModel") -> Tensor:
    """Return the hint ``(B, 1, H, W)``: the code of each pixel's class plus ``noise``, on the scale of the images.

    Args:
        labels: int64 ``(B, H, W)``; ignored pixels have a code of their own.
        codes: ``(K + 1,)``, or ``(B, K + 1)`` for codes that differ from image to image.
        noise: ``(B, 1, H, W)``, or 0.
        model: the network; where its images are divided by their standard deviation, so is the channel.
    """
    classes = torch.where(labels == IGNORE, codes.shape[-1] - 1, labels)
    coded = codes.expand(len(labels), -1).gather(1, classes.flatten(1)).view_as(labels).unsqueeze(1)
    return (coded + noise) * (SCALE / model.std.mean())


def random_hint(model: "SegmentationModel", batch: Batch, draw: "Draw", sigma: float) -> Tensor:
    """Return a hint with codes drawn anew for every image and class, and noise of deviation ``sigma``."""
    device, images = batch.labels.device, len(batch.labels)
    codes = torch.randn(images, model.num_classes + 1, generator=draw("codes", batch))
    noise = torch.randn(images, 1, *batch.labels.shape[1:], generator=draw("noise", batch))
    return channel(
        batch.labels, codes.to(device, non_blocking=True), sigma * noise.to(device, non_blocking=True), model
    )


def paths(model: "SegmentationModel", batch: Batch, draw: "Draw", sigma: float, dual: bool) -> "list[Output]":
    """Return the network's outputs for one batch under independent codings of its labels: two, or one."""
    tags = ("first", "second") if dual else ("first",)
    return [
        model(batch.images, random_hint(model, batch, lambda what, b, tag=tag: draw(f"{tag} {what}", b), sigma))
        for tag in tags
    ]


def assisted_loss(
    outputs: "list[Output]",
    labels: Tensor,
    aux_weight: float = 0.4,
    consistency: float = 5.0,
    T: float = 4.0,
    valid: Tensor | float | None = None,
) -> dict[str, Tensor]:
    """Return the parts of an assisted teacher's loss, already weighted.

    ``ce`` and ``aux`` are summed over the paths; ``consistency`` is that weight times channel_kl(o1, o2) +
    channel_kl(o2, o1), the target held constant, where there are two. ``valid`` as in ``task_loss``.
    """
    parts: dict[str, Tensor] = {}
    for output in outputs:
        for name, value in task_loss(output, labels, aux_weight, valid).items():
            parts[name] = parts[name] + value if name in parts else value
    if len(outputs) == 2 and consistency:
        first, second = (output.logits for output in outputs)
        both = channel_kl(first, second.detach(), T) + channel_kl(second, first.detach(), T)
        parts["consistency"] = consistency * both
    return parts
