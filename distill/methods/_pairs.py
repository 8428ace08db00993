"""The pair-wise term: cosines between pooled positions (Liu et al., CVPR 2019; AmirMansurian/AICSD; winycg/CIRKD)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..errors import UsageError
from ..losses import raised, unit
from ._gram import gram_gap

#: added to the norm in the graph of the original
EPS = 1e-8


def check_pool(option: str, pool: str) -> str:
    """Return ``pool`` if `pair_wise` knows it; ``option`` is its name in the error.

    Raises:
        UsageError: it is neither "2x2" nor "scale:x" with 0 < x <= 1.
    """
    _, _, share = pool.partition("scale:")
    try:
        known = pool == "2x2" or (pool.startswith("scale:") and 0 < float(share) <= 1)
    except ValueError:
        known = False
    if not known:
        raise UsageError(f"{option}={pool!r}: accepted are 2x2, or scale:x with 0 < x <= 1 such as scale:0.5")
    return pool


def pair_wise(student: Tensor, teacher: Tensor, pool: str) -> Tensor:
    """Return ``sum over n, m of (G_t - G_s)^2 / (B n^2)``, G the cosines between the n positions of the pooled maps.

    Args:
        student: ``(B, C_s, H, W)``; gradients go here only.
        teacher: ``(B, C_t, H, W)``.
        pool: as `check_pool` accepts. "scale:x": max-pool with kernel and stride ``(int(x H), int(x W))``, at least 1,
            partial windows kept; the norm has 1e-8 added and passes no gradient (SKD's and AICSD's code). "2x2":
            max-pool by 2, partial windows kept, the gradient goes through the norm (CIRKD losses/skd.py).
    """
    # the teacher first: what pooling it takes in between is gone before the student's is kept
    t, s = (_nodes(raised(x), pool) for x in (teacher.detach(), student))
    return gram_gap(s, t).mean() / s.shape[2] ** 2


def _nodes(x: Tensor, pool: str) -> Tensor:
    """Return the unit features ``(B, C, n)`` of the pooled positions."""
    if pool == "2x2":
        return unit(_pooled(x, [2, 2]), 1)
    share = float(pool.removeprefix("scale:"))
    nodes = _pooled(x, [max(1, int(share * side)) for side in x.shape[-2:]])
    return nodes / (nodes.detach().square().sum(1, keepdim=True).sqrt() + EPS)


def _pooled(x: Tensor, window: list[int]) -> Tensor:
    """Return the maxima ``(B, C, n)`` of the windows of ``x``, those cut off by the border among them."""
    value: Any = _MaxPool.apply(x, window)
    return value


class _MaxPool(torch.autograd.Function):
    """Kept is the input, which is there anyway: the 64-bit indices of the maxima would be larger than the result."""

    @staticmethod
    def forward(ctx: Any, x, window) -> Tensor:
        ctx.save_for_backward(x)
        ctx.window = window
        return torch.stack([F.max_pool2d(image, window, window, ceil_mode=True).flatten(1) for image in x])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):
        (x,) = ctx.saved_tensors
        grad = x.new_zeros(x.shape)
        for image, upper, lower in zip(x, grads[0], grad.flatten(2)):
            _, index = F.max_pool2d(image, ctx.window, ctx.window, ceil_mode=True, return_indices=True)
            lower.scatter_(1, index.flatten(1), upper)
        return grad, None
