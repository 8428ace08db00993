"""Adversarial distillation of the logits by itself (Liu et al., CVPR 2019; CIRKD losses/adv.py)."""

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ..batch import Batch
from . import Sizes, choose
from ._adversary import DIFFERENCES, LOSSES, NORMS, Adversarial

if TYPE_CHECKING:
    from ..output import Output


class Adv(Adversarial):
    """A discriminator tells the teacher's logits from the student's, and the student learns to pass for the teacher.

    adv = - mean D(z_s). D trains after the student with an optimiser of its own on critic_weight times
        hinge:   mean relu(1 - D(z_t)) + mean relu(1 + D(z_s))
        wgan-gp: mean D(z_s) - mean D(z_t) + critic_gp * mean_b (||grad D(x_b)|| - 1)^2,  x = a z_t + (1 - a) z_s,
                 a ~ U(0, 1) per image.
    D sees the low-resolution logits, enlarged to a side of at least 64: 3,191,721 parameters for 19 classes.
    loss is hinge or wgan-gp; norm, of D's input, bn or tanh; critic_optimizer is adam (betas 0.9, 0.99) or sgd
    (momentum 0.9), critic_lr its rate, which critic_decay lets decay with the student's.
    Added to ifvd or cwd it gives their published recipes.
    """

    weights: ClassVar[dict[str, float]] = {"adv": 0.001}
    paper = "Liu et al., Structured Knowledge Distillation for Semantic Segmentation (CVPR 2019), holistic term"
    differences = (
        "SKD: wgan-gp, weights 0.1 and 0.1, SGD with decay; IFVD: wgan-gp, 0.001 and 0.1, Adam with decay; the "
        "defaults are CIRKD's: hinge, 0.001 and 0.1, Adam without decay (loss, critic_weight, "
        "critic_optimizer, critic_decay).",
        *DIFFERENCES,
    )

    def __init__(
        self,
        sizes: Sizes,
        *,
        terms: Collection[str] | None = None,
        loss: str = "hinge",
        norm: str = "bn",
        critic_weight: float = 0.1,
        critic_optimizer: str = "adam",
        critic_lr: float = 4e-4,
        critic_decay: bool = False,
        critic_gp: float = 10.0,
    ) -> None:
        super().__init__(
            sizes,
            terms,
            loss=choose("adv.loss", loss, LOSSES),
            weight=critic_weight,
            optimizer=critic_optimizer,
            lr=critic_lr,
            decay=critic_decay,
            gp=critic_gp,
            norm=choose("adv.norm", norm, NORMS),
        )
        self.need("logits")

    def losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        return {"adv": self.adversarial(student, teacher)}
