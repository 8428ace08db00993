"""The module that a stage trains, with its loss: the student with its method, or the module of a phase."""

from dataclasses import dataclass
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


@dataclass
class StepOutput:
    """The loss of a micro-batch; not frozen, for Fabric converts its tensors one by one."""

    #: to minimise
    total: Tensor
    #: the parts of ``total``, detached: of the task loss, and the method's terms without their weights
    task: dict[str, Tensor]
    terms: dict[str, Tensor]
    #: of the student, detached
    output: Output | None = None


class Learner(nn.Module):
    """Student and method as one module, so that one wrapper distributes both and every adapter trains along."""

    #: names that DDP leaves alone
    _ddp_params_and_buffers_to_ignore: list[str]

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

    def forward(self, batch: Batch, target: Output | None, valid: Tensor, ranks: int, share: float) -> StepOutput:
        """Compute the loss of one micro-batch.

        Args:
            batch: the images of this micro-batch.
            target: the teacher's output, or None.
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
            if self.task.weight != 1:
                task = {name: value * self.task.weight for name, value in task.items()}
            total = torch.stack(list(task.values())).sum()

            terms = self.method.losses(output, target.raised(), batch) if target is not None else {}
            for name, raw in terms.items():
                total = total + self.method.weight(name, batch.step) * share * raw
        shares = {name: share * raw for name, raw in _detached(terms).items()}
        return StepOutput(total, _detached(task), shares, output.detached())


class AssistedLearner(Learner):
    """A label-assisted teacher in training: it is shown the label as a fourth channel and has a loss of its own."""

    def forward(self, batch: Batch, target: Output | None, valid: Tensor, ranks: int, share: float) -> StepOutput:
        """Compute the loss of one micro-batch; arguments as in ``Learner``."""
        task = self.task
        outputs = paths(self.student, batch, self._draw, task.hint_noise, task.dual_path)
        with torch.autocast(batch.images.device.type, enabled=False):
            raised = [output.raised() for output in outputs]
            parts = assisted_loss(raised, batch.labels, task.aux_weight, task.consistency, valid=valid / ranks)
            if "consistency" in parts:
                parts["consistency"] = share * parts["consistency"]
            total = torch.stack(list(parts.values())).sum()
        return StepOutput(total, _detached(parts), {}, outputs[0].detached())

    def _draw(self, tag: str, batch: Batch) -> torch.Generator:
        return generator(self.seed, "hint", tag, batch.step, batch.part)


class PhaseLearner(nn.Module):
    """A module that a method trains before the student, with that phase's loss."""

    def __init__(self, phase: Phase) -> None:
        super().__init__()
        self.module, self.phase = phase.module, phase

    def forward(self, batch: Batch, target: Output | None, valid: Tensor, ranks: int, share: float) -> StepOutput:
        """Compute the phase's loss of one micro-batch; arguments as in ``Learner``."""
        outputs = self.phase.run(self.module, batch)
        with torch.autocast(batch.images.device.type, enabled=False):
            parts = {name: share * value for name, value in self.phase.loss(raised_all(outputs), batch).items()}
            total = torch.stack(list(parts.values())).sum()
        return StepOutput(total, _detached(parts), {})


def raised_all(outputs: Any) -> Any:
    """Raise every half-precision tensor of a phase's outputs, in lists and tuples."""
    if isinstance(outputs, list | tuple):
        return type(outputs)(raised_all(part) for part in outputs)
    return outputs.raised() if isinstance(outputs, Output) else raised(outputs)


def _detached(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach() for key, value in values.items()}
