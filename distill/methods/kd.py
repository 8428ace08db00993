"""Hinton's knowledge distillation, pixel by pixel (Hinton et al., 2015; CIRKD losses/kd.py)."""

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ..batch import IGNORE, Batch
from ..errors import UsageError
from ..losses import labels_at, softmax_kl
from ..schedule import Schedule
from . import Method, Sizes, choose

if TYPE_CHECKING:
    from ..output import Output

REDUCTIONS = ("pixel", "element", "skd")


class Kd(Method):
    """Hinton's distillation of the class probabilities, pixel by pixel.

    kd = T^2 / (B N) * sum_{b,n} sum_k p_t log(p_t / p_s),  p = softmax over classes of z / T,  on the low-resolution
    logits. Options: reduction=pixel as above; element divides by B N K and has no T^2 (published weight 10 belongs to
    it); skd is the soft cross-entropy - sum p_t log p_s, divided by N alone, no T^2. mask_ignore leaves out positions
    whose label is ignored. aux_weight adds that share of the same on the auxiliary logits.
    """

    weights: ClassVar[dict[str, float]] = {"kd": 1.0}
    paper = "Hinton et al., Distilling the Knowledge in a Neural Network (2015)"
    differences = (
        "The weight 10 of IFVD, CWD and Rethinking KD belongs to the mean over elements without T^2, which is 10 / K "
        "of the usual term: reduction=element.",
        "SKD uses the soft cross-entropy, not the divergence, summed over the batch and divided by the positions: "
        "reduction=skd; at T=1 its gradient is B times the usual one.",
        "No published code leaves out ignored positions; mask_ignore=true does.",
        "KT's term of the same name is a softmax over space: that is kt's kd, and cwd.",
    )

    def __init__(
        self,
        sizes: Sizes,
        *,
        terms: Collection[str] | None = None,
        T: float | str = 1.0,
        reduction: str = "pixel",
        mask_ignore: bool = False,
        aux_weight: float = 0.0,
    ) -> None:
        super().__init__(sizes, terms=terms)
        self.need("logits", "aux") if aux_weight else self.need("logits")
        self.T = temperature(T)
        self.reduction = choose("kd.reduction", reduction, REDUCTIONS)
        self.mask_ignore = mask_ignore
        self.aux_weight = aux_weight

    def losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        value = self._kl(student, teacher, "logits", batch)
        if self.aux_weight:
            value = value + self.aux_weight * self._kl(student, teacher, "aux", batch)
        return {"kd": value}

    def _kl(self, student: "Output", teacher: "Output", tap: str, batch: Batch) -> Tensor:
        s, t = self.pair(student, teacher, tap)
        keep = None
        if self.mask_ignore:
            keep = (labels_at(batch.labels, s.shape[-2:]) != IGNORE).unsqueeze(1).to(s.dtype)
        return class_kl(s, t, self.T(batch.step), self.reduction, keep)


def class_kl(
    student: Tensor, teacher: Tensor, T: float, reduction: str = "pixel", keep: Tensor | None = None
) -> Tensor:
    """Compare the class probabilities of logits ``(B, K, H, W)`` in one of the `REDUCTIONS`.

    ``keep`` ``(B, 1, H, W)`` is 1 where a position counts and 0 elsewhere; None counts all.
    """
    images, classes, height, width = student.shape
    positions = images * height * width if keep is None else keep.sum().clamp(min=1)
    scale = {
        "pixel": T * T / positions,
        "element": 1 / (positions * classes),
        "skd": 1 / (height * width),
    }[reduction]
    return softmax_kl(student, teacher, 1, T, scale, keep, cross=reduction == "skd")


def temperature(value: float | str, name: str = "T") -> Schedule:
    """Read a temperature: a number or schedule above 0.

    Raises:
        UsageError: it is not.
    """
    schedule = Schedule.parse(value)
    if min(schedule.a, schedule.b) <= 0:
        raise UsageError(f"{name}={value}: a temperature must be above 0")
    return schedule
