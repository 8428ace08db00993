"""Intra-class feature variation distillation (Wang et al., ECCV 2020; YukangWang/IFVD, CIRKD losses/ifvd.py)."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..batch import Batch
from ..losses import labels_at, raised
from . import Method, Sizes

if TYPE_CHECKING:
    from ..output import Output

#: of the count under a class mean, and of the norms under a cosine
COUNT_EPS, COSINE_EPS = 1e-6, 1e-8
#: smaller than any square that matters, to divide by
TINY = 1e-30
#: elements that are squared at a time
_CPU_SLICE, _CUDA_SLICE = 2**17, 2**24


class Ifvd(Method):
    """How near each position's feature lies to the mean of its class in its image.

    ifvd = 1 / (B N) * sum_{b,n} (s^s - s^t)^2,  s_n = cos(f_n, mu_{b,y_n}), mu_{b,c} = sum_{n in c} f_n / (N_c + 1e-6),
    on the tap `at`, labels nearest at its size; gradients also go through the student's means. Ignored positions have
    s = 1 on both sides; exclude_ignore leaves them out of the number N of positions as well. The published recipe adds
    kd and adv.
    """

    taps = ("dec",)
    weights: ClassVar[dict[str, float]] = {"ifvd": 20.0}
    paper = "Wang et al., Intra-class Feature Variation Distillation for Semantic Segmentation (ECCV 2020)"
    differences = (
        "IFVD: weight 200 beside kd 10 as a mean over elements and adv by wgan-gp; CIRKD: 20, the default, beside kd 1 "
        "and adv by hinge (ifvd, and the presets).",
        "The published mean counts ignored positions, which differ by nothing: exclude_ignore leaves them out.",
        "A feature or mean of zeros has no direction: kdc sends no gradient there, the published code one up to 1e8.",
    )

    def __init__(
        self,
        sizes: Sizes,
        *,
        terms: Collection[str] | None = None,
        at: str = "dec",
        exclude_ignore: bool = False,
    ) -> None:
        super().__init__(sizes, terms=terms)
        self.need(at)
        self.exclude_ignore = exclude_ignore

    def losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        s, t = self.pair(student, teacher, self.taps[0])
        labels = labels_at(batch.labels, t.shape[-2:])
        return {"ifvd": class_variation(s, t, labels, self.sizes.num_classes, self.exclude_ignore)}


def class_variation(
    student: Tensor, teacher: Tensor, labels: Tensor, classes: int, exclude_ignore: bool = False
) -> Tensor:
    """Return the mean squared difference of both sides' cosines to their class means.

    Args:
        student: ``(B, C_s, H, W)``; gradients go here only.
        teacher: ``(B, C_t, H, W)``.
        labels: int64 ``(B, H, W)``; what is not below ``classes`` is ignored.
        classes: how many there are.
        exclude_ignore: average over the labelled positions instead of all.
    """
    index = labels.flatten(1).unsqueeze(1).clamp(max=classes)  # ignored positions make a class of their own
    count: Tensor | int = (index < classes).sum().clamp(min=1) if exclude_ignore else index.numel()
    value: Any = _ClassVariation.apply(raised(student).flatten(2), raised(teacher).flatten(2), index, classes, count)
    return value


class _ClassVariation(torch.autograd.Function):
    """Means, dots and gradients are products with the one-hot labels; no map of centres is made, nor a mask by class.

    The feature is kept, which the network holds anyway; all else is of the size of the labels or of the means.
    """

    @staticmethod
    def forward(ctx: Any, student, teacher, index, classes, count) -> Tensor:
        member = _member(index, classes, student.dtype)
        cos, product, norm, centres, size = _cosines(student, index, member)
        gap = (cos - _cosines(teacher, index, member)[0]) * (index < classes)
        if ctx.needs_input_grad[0]:
            # cos = f' mu / (|f| |mu|): across is the change along mu or f, rise that of the norms
            change = (2 * gap / count) * (product > COSINE_EPS)
            across, rise = change / product.clamp_min(COSINE_EPS), change * cos
            pulled = member @ rise.transpose(1, 2) / size.square().clamp_min(TINY)
            to_centres = (member * across) @ student.transpose(1, 2) - pulled * centres
            to_centres = to_centres / (member.sum(2, keepdim=True) + COUNT_EPS)
            ctx.classes = classes
            along = rise / norm.square().clamp_min(TINY)
            ctx.save_for_backward(student, index, centres, to_centres, across, along)
        return (gap * gap).sum() / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):
        student, index, centres, to_centres, across, along = ctx.saved_tensors
        member = _member(index, ctx.classes, student.dtype)
        grad = student * (-along * grads[0])
        grad.baddbmm_((to_centres * grads[0]).transpose(1, 2), member)
        grad.baddbmm_(centres.transpose(1, 2), member.mul_(across * grads[0]))
        return grad, None, None, None, None


def _member(index: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Return the one-hot labels ``(B, classes + 1, N)``, ignored positions last."""
    shape = (len(index), classes + 1, index.shape[2])
    return torch.zeros(shape, dtype=dtype, device=index.device).scatter_(1, index, 1)


def _cosines(x: Tensor, index: Tensor, member: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return each feature's cosine to the mean of its class and what it is made of.

    These are the product of the norms and the feature's own, all ``(B, 1, N)``, the means ``(B, classes + 1, C)`` and
    their norms ``(B, classes + 1, 1)``.
    """
    centres = member @ x.transpose(1, 2) / (member.sum(2, keepdim=True) + COUNT_EPS)
    dot = (centres @ x).gather(1, index)
    norm = square_sum(x).sqrt()
    size = centres.square().sum(2, keepdim=True).sqrt()
    product = norm * size.transpose(1, 2).gather(2, index)
    return dot / product.clamp_min(COSINE_EPS), product, norm, centres, size


def square_sum(x: Tensor) -> Tensor:
    """Return the sum of squares over the channels of ``(B, C, N)``: ``(B, 1, N)``.

    The squares are made for a few channels at a time: they stay small, and in the CPU's cache.
    """
    total = x.new_zeros(len(x), 1, x.shape[2])
    step = max(1, (_CUDA_SLICE if x.is_cuda else _CPU_SLICE) // max(1, total.numel()))
    for i in range(0, x.shape[1], step):
        total += x[:, i : i + step].square().sum(1, keepdim=True)
    return total
