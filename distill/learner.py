"""What a training step minimises: the student with its method, or a module in a phase of its own."""

from typing import Any

import torch
from torch import Tensor, nn

from .batch import Batch
from .losses import task_loss
from .methods import Composite, Phase
from .models import Output, SegmentationModel


class Learner(nn.Module):
    """Student and method as one module, so that one wrapper distributes both and every adapter trains along."""

    def __init__(
        self, student: SegmentationModel, method: Composite, aux_weight: float, freeze_bn: bool = False
    ) -> None:
        super().__init__()
        self.student, self.method, self.aux_weight, self.freeze_bn = student, method, aux_weight, freeze_bn

    def train(self, mode: bool = True) -> "Learner":
        """Set train mode; frozen batch norms stay in eval mode."""
        super().train(mode)
        if self.freeze_bn:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, batch: Batch, shown: Output | None, valid: Tensor, ranks: int, share: float) -> dict[str, Any]:
        """Return ``total`` to minimise and, detached, what it is made of.

        Args:
            batch: the images of this micro-batch.
            shown: what the teacher shows, or None.
            valid: int64, labelled pixels of the global batch, over which the cross-entropy is averaged.
            ranks: processes; their gradients are averaged, so each divides by its mean share of ``valid``.
            share: this micro-batch's part of the optimiser step, for the terms that are means over images.
        """
        output = self.student(batch.images).only(self.method.taps)
        with torch.autocast(batch.images.device.type, enabled=False):
            output = output.raised()
            task = task_loss(output, batch.labels, self.aux_weight, valid / ranks)
            total = torch.stack(list(task.values())).sum()
            terms = self.method.losses(output, shown.raised(), batch) if shown is not None else {}
            for name, raw in terms.items():
                total = total + self.method.weight(name, batch.step) * share * raw
        values = {"task": _detached(task), "terms": {name: share * raw for name, raw in _detached(terms).items()}}
        return {"total": total, "output": output.detached(), **values}


class PhaseLearner(nn.Module):
    """A module that a method trains before the student, with that phase's loss."""

    def __init__(self, phase: Phase) -> None:
        super().__init__()
        self.module, self.loss = phase.module, phase.loss

    def forward(self, batch: Batch, shown: Output | None, valid: Tensor, ranks: int, share: float) -> dict[str, Any]:
        """Return ``total`` to minimise."""
        return {"total": share * self.loss(self.module, batch), "task": {}, "terms": {}}


def _detached(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach() for key, value in values.items()}
