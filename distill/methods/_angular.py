"""Squared distance of normalised features, shared by lad, cad and pad.

Liu et al., Rethinking Knowledge Distillation with Raw Features for Semantic Segmentation, equations 5, 7 and 8.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..batch import Batch
from ..losses import raised
from . import Method, Sizes
from ._adapters import UNREACHED, Adapter

if TYPE_CHECKING:
    from ..output import Output

EPS = 1e-12


def angular(student: Tensor, teacher: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return the mean over vectors of ``||unit(student) - unit(teacher)||^2 = 2 (1 - cos)``, vectors along ``dims``.

    A zero vector on one side counts 1, on both sides 0; it has no direction, so it gets no gradient. Gradients go to
    ``student`` only; nothing but the two inputs is kept.
    """
    value: Any = _Angular.apply(raised(student), raised(teacher), dims)
    return value


class _Angular(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student, teacher, dims) -> Tensor:
        ss = (student * student).sum(dims, keepdim=True)
        tt = (teacher * teacher).sum(dims, keepdim=True)
        norm_s, norm_t = ss.sqrt().clamp_min(EPS), tt.sqrt().clamp_min(EPS)
        cos = (student * teacher).sum(dims, keepdim=True) / (norm_s * norm_t)
        share = (2 / ss.numel()) * (ss > EPS * EPS).to(ss.dtype)
        ctx.save_for_backward(student, teacher, share * cos / norm_s**2, share / (norm_s * norm_t))
        return (ss / norm_s**2 + tt / norm_t**2 - 2 * cos).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):
        student, teacher, along, across = ctx.saved_tensors
        return (student * (along * grads[0])).addcmul_(teacher, across * grads[0], value=-1), None, None


class Angular(Method):
    """The distance on one tap, behind an adapter where the channels differ."""

    taps = ("bb",)
    weights: ClassVar[dict[str, float]] = {"ad": 10.0}
    paper = "Liu et al., Rethinking Knowledge Distillation with Raw Features for Semantic Segmentation (WACV 2024)"
    differences = (
        "Equations 5 and 8 misprint an index and a vector; kdc follows equation 6 and the text: each vector is divided "
        "by its own norm.",
        "The equations are for one image; kdc averages over the batch.",
        "The authors released no code. That their kd of weight 10 is the mean over elements, as in IFVD and CWD, is "
        "inferred: --preset lad, cad and pad set kd.reduction=element.",
        UNREACHED,
    )
    #: the axes of (B, C, H, W) that make one vector
    dims: ClassVar[tuple[int, ...]]

    def __init__(self, sizes: Sizes, *, terms: Collection[str] | None = None, at: str = "bb") -> None:
        super().__init__(sizes, terms=terms)
        self.need(at)
        mine, its = sizes.student[at], sizes.teacher[at]
        self.adapter = Adapter(mine, its, self.rng("adapter")) if mine.channels != its.channels else None

    def compared(self, student: "Output", teacher: "Output") -> tuple[Tensor, Tensor]:
        s, t = self.pair(student, teacher, self.taps[0])
        return (self.adapter(s) if self.adapter else s), t

    def losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        return {"ad": angular(*self.compared(student, teacher), self.dims)}
