"""What a training step minimises: the student with its method, or a module in a phase of its own."""

from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..label_hint import assisted_loss, paths
from ..losses import raised, task_loss
from ..methods import Composite, Phase
from ..methods._method import generator
from ..models import SegmentationModel
from ..output import Output
from ..settings.config import Task


class Learner(nn.Module):
    """Student and method as one module, so that one wrapper distributes both and every adapter trains along."""

    def __init__(
        self, student: SegmentationModel, method: Composite, task: Task, freeze_bn: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        self.student, self.method, self.task, self.freeze_bn, self.seed = student, method, task, freeze_bn, seed

    def train(self, mode: bool = True) -> "Learner":
        """Set train mode; the student's frozen batch norms stay in eval mode, those of its method start untrained."""
        super().train(mode)
        if self.freeze_bn:
            for module in self.student.modules():
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
            task = task_loss(output, batch.labels, self.task.aux_weight, valid / ranks)
            if self.task.divide_by_batch:
                task = {name: value * share / len(batch.images) for name, value in task.items()}
            total = torch.stack(list(task.values())).sum()
            terms = self.method.losses(output, shown.raised(), batch) if shown is not None else {}
            for name, raw in terms.items():
                total = total + self.method.weight(name, batch.step) * share * raw
        values = {"task": _detached(task), "terms": {name: share * raw for name, raw in _detached(terms).items()}}
        return {"total": total, "output": output.detached(), **values}


class AssistedLearner(Learner):
    """A teacher to be that is shown the label as a fourth channel, trained by itself on its own loss."""

    def forward(self, batch: Batch, shown: Output | None, valid: Tensor, ranks: int, share: float) -> dict[str, Any]:
        """Return ``total`` to minimise and, detached, what it is made of; arguments as in ``Learner``."""
        task = self.task
        outputs = paths(self.student, batch, self._draw, task.hint_noise, task.dual_path)
        with torch.autocast(batch.images.device.type, enabled=False):
            raised = [output.raised() for output in outputs]
            parts = assisted_loss(raised, batch.labels, task.aux_weight, task.consistency, valid=valid / ranks)
            if "consistency" in parts:
                parts["consistency"] = share * parts["consistency"]
            total = torch.stack(list(parts.values())).sum()
        return {"total": total, "output": outputs[0].detached(), "task": _detached(parts), "terms": {}}

    def _draw(self, tag: str, batch: Batch) -> torch.Generator:
        return generator(self.seed, "hint", tag, batch.step, batch.part)


class PhaseLearner(nn.Module):
    """A module that a method trains before the student, with that phase's loss."""

    def __init__(self, phase: Phase) -> None:
        super().__init__()
        self.module, self.phase = phase.module, phase

    def forward(self, batch: Batch, shown: Output | None, valid: Tensor, ranks: int, share: float) -> dict[str, Any]:
        """Return ``total`` to minimise and, detached, its parts."""
        outputs = self.phase.run(self.module, batch)
        with torch.autocast(batch.images.device.type, enabled=False):
            parts = {name: share * value for name, value in self.phase.loss(raised_all(outputs), batch).items()}
            total = torch.stack(list(parts.values())).sum()
        return {"total": total, "task": _detached(parts), "terms": {}}


def raised_all(outputs: Any) -> Any:
    """Raise every half-precision tensor of what a phase ran: tensors and outputs, in lists and tuples."""
    if isinstance(outputs, list | tuple):
        return type(outputs)(raised_all(part) for part in outputs)
    return outputs.raised() if isinstance(outputs, Output) else raised(outputs)


def _detached(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach() for key, value in values.items()}
