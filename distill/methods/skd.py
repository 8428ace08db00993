"""Structured knowledge distillation (Liu et al., CVPR 2019; SKD utils/criterion.py, CIRKD losses/skd.py)."""

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ..batch import Batch
from . import Sizes, choose
from ._adversary import DIFFERENCES, LOSSES, Adversarial
from ._pairs import check_pool, pair_wise
from .kd import REDUCTIONS, class_kl, temperature

if TYPE_CHECKING:
    from ..output import Output


class Skd(Adversarial):
    """Structured distillation: class probabilities, similarities of positions, and a discriminator.

    pixel = T^2 / (B N) * sum_{b,n} sum_k p_t log(p_t / p_s), on the logits; pixel_reduction is kd's: element divides by
        B N K and has no T^2, skd is the soft cross-entropy - sum p_t log p_s divided by N alone (published weight 10).
    pair  = 1 / (B n^2) * sum_{i,j} (cos(f_i, f_j)^t - cos(f_i, f_j)^s)^2 over the n positions left by max-pooling the
        tap `at`: pool=scale:x makes windows of that share of the map and sends no gradient through the norms, pool=2x2
        halves the map, with gradient (CIRKD, weight 10).
    adv   = - mean D(z_s); D is a discriminator that trains after the student, as `kdc methods info adv` tells, by
        adv_loss hinge or wgan-gp (with critic_gp), weighted critic_weight, with critic_optimizer adam or sgd, rate
        critic_lr, decaying with the student's where critic_decay is set.
    """

    taps = ("logits", "dec")
    weights: ClassVar[dict[str, float]] = {"pixel": 1.0, "pair": 0.5, "adv": 0.001}
    paper = "Liu et al., Structured Knowledge Distillation for Semantic Segmentation (CVPR 2019)"
    differences = (
        "SKD's pixel term is a soft cross-entropy summed over the batch with weight 10; CIRKD's and the default is the "
        "mean KL with weight 1 (pixel_reduction).",
        "SKD's pair-wise graph pools windows of half the map and holds the norms constant, weight 0.5 in its script "
        "and 1.0 in its parser; CIRKD's pools 2x2, with gradient through the norms and weight 10 (pool).",
        "SKD: wgan-gp, weights 0.1 and 0.1, SGD with decay; the defaults are CIRKD's: hinge, 0.001 and 0.1, Adam "
        "without decay (adv_loss, critic_weight, critic_optimizer, critic_decay).",
        *DIFFERENCES,
    )

    def __init__(
        self,
        sizes: Sizes,
        *,
        terms: Collection[str] | None = None,
        T: float | str = 1.0,
        pixel_reduction: str = "pixel",
        pool: str = "scale:0.5",
        at: str = "dec",
        adv_loss: str = "hinge",
        critic_weight: float = 0.1,
        critic_optimizer: str = "adam",
        critic_lr: float = 4e-4,
        critic_decay: bool = False,
        critic_gp: float = 10.0,
    ) -> None:
        super().__init__(
            sizes,
            terms,
            loss=choose("skd.adv_loss", adv_loss, LOSSES),
            weight=critic_weight,
            optimizer=critic_optimizer,
            lr=critic_lr,
            decay=critic_decay,
            gp=critic_gp,
        )
        read = {"pixel": "logits", "adv": "logits", "pair": at}
        self.need(*dict.fromkeys(read[term] for term in self.terms))
        self.T = temperature(T)
        self.reduction = choose("skd.pixel_reduction", pixel_reduction, REDUCTIONS)
        self.pool = check_pool("skd.pool", pool)
        self.at = at

    def losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        values = {}
        if "pixel" in self.terms:
            s, t = self.pair(student, teacher, "logits")
            values["pixel"] = class_kl(s, t, self.T(batch.step), self.reduction)
        if "pair" in self.terms:
            values["pair"] = pair_wise(*self.pair(student, teacher, self.at), self.pool)
        if "adv" in self.terms:
            values["adv"] = self.adversarial(student, teacher)
        return values
