"""Label-assisted distillation: the teacher sees the label, corrupted, as a fourth channel (arXiv 2407.13254)."""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..label_hint import assisted_loss, channel, fixed_codes, paths
from ..losses import channel_kl
from . import Method, Phase, Sizes
from .kd import temperature

if TYPE_CHECKING:
    from ..models import SegmentationModel
    from ..output import Output


class LabelAssisted(Method):
    """A teacher that is shown the label, corrupted, as a fourth input channel; the student sees the image alone.

    teacher phase, two independent codings x1, x2 of an image and its label, o_i = teacher(x_i):
        sum_i [CE(o_i) + teacher_aux CE(aux_i)] + consistency [channel_kl(o1, o2) + channel_kl(o2, o1)], each target
        held constant.
        The channel is 100 (code[y] + teacher_noise eps), codes drawn from N(0, 1) anew for every image, class and path,
        100 becoming 100 / std where the images are divided by their standard deviation.
    student phase: logits = channel_kl(z_s, z_t), the teacher shown fixed codes 2.2 k / (K + 1) - 1.1 plus noise eps.
    dual_path=false trains the teacher with one coding and no consistency. teacher_iters=0 gives the phase as many steps
    as the student has; teacher_lr, teacher_momentum and teacher_weight_decay are of its SGD. `--teacher self` lets the
    student's own architecture teach; a teacher from `kdc train --preset label-assist-teacher` needs no phase.
    """

    weights: ClassVar[dict[str, float]] = {"logits": 3.0}
    paper = "Label-assisted distillation for semantic segmentation (arXiv 2407.13254)"
    differences = (
        "The published student keeps a dead fourth input channel that is fed zeros; kdc's has three channels, which "
        "gives the same outputs.",
        "Which phase runs is a constant in the published script; kdc runs the teacher's phase unless the teacher "
        "comes from a run of its own.",
        "The published student starts from an earlier checkpoint at rate 1e-3; kdc uses the ordinary start and recipe "
        "(--init RUN --lr 0.001 gives theirs).",
        "The published student's auxiliary weight is 0.02, and the dropout of DeepLabV3 is 0.01, the teacher's and the "
        "student's; PSPNet keeps its 0.1. All are of the preset (task.aux_weight, model.dropout, "
        "model.teacher_dropout).",
        "Codes for other than 21 classes are not published; kdc keeps their range.",
    )
    assisted = True
    codes: Tensor

    def __init__(
        self,
        sizes: Sizes,
        *,
        terms: Collection[str] | None = None,
        T: float | str = 4.0,
        noise: float = 0.02,
        dual_path: bool = True,
        consistency: float = 5.0,
        teacher_noise: float = 0.03,
        teacher_aux: float = 0.4,
        teacher_lr: float = 0.02,
        teacher_momentum: float = 0.9,
        teacher_weight_decay: float = 1e-4,
        teacher_iters: int = 0,
    ) -> None:
        super().__init__(sizes, terms=terms)
        self.need("logits")
        self.T = temperature(T)
        self.noise = noise
        # what the teacher's training depends on, beside its network and the recipe of its optimiser
        self.recipe = {
            "dual_path": dual_path,
            "consistency": consistency,
            "noise": teacher_noise,
            "aux": teacher_aux,
            "T": str(self.T),
        }
        self.optimisation = teacher_lr, teacher_momentum, teacher_weight_decay
        self.teacher_iters = teacher_iters or sizes.iters
        self.register_buffer("codes", fixed_codes(sizes.num_classes))

    def notes(self) -> list[str]:
        if self.sizes.teacher_trained:
            return []
        paths = "two codings" if self.recipe["dual_path"] else "one coding"
        return [f"the assisted teacher is trained first, {self.teacher_iters} steps with {paths} of each label"]

    def phases(self, teacher: nn.Module) -> list[Phase]:
        if self.sizes.teacher_trained:
            return []
        recipe = self.recipe

        def run(model: Any, batch: Batch) -> "list[Output]":
            return paths(model, batch, self.draw, recipe["noise"], recipe["dual_path"])

        def loss(outputs: "list[Output]", batch: Batch) -> dict[str, Tensor]:
            return assisted_loss(outputs, batch.labels, recipe["aux"], recipe["consistency"], self.T(batch.step))

        return [Phase("teacher", teacher, run, loss, *self.optimisation, self.teacher_iters, key=recipe)]

    def teach(self, teacher: "Callable[..., Output]", batch: Batch) -> "Output":
        images, (height, width) = len(batch.labels), batch.labels.shape[1:]
        eps = torch.randn(images, 1, height, width, generator=self.draw("noise", batch))
        model: SegmentationModel = teacher  # pyright: ignore[reportAssignmentType]
        with torch.no_grad():
            hint = channel(batch.labels, self.codes, self.noise * eps.to(batch.labels.device, non_blocking=True), model)
            return teacher(batch.images, hint)

    def losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        return {"logits": channel_kl(*self.pair(student, teacher, "logits"), self.T(batch.step))}
