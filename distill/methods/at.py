"""Attention transfer (Zagoruyko and Komodakis, ICLR 2017; CIRKD losses/at.py, mmrazor at_loss.py)."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..batch import Batch
from ..losses import raised, unit
from . import Method, Sizes

if TYPE_CHECKING:
    from ..output import Output


class At(Method):
    """Attention transfer: where a feature is strong, whatever its channels.

    att = mean over images and positions of (a_s - a_t)^2,  a = unit(q) over the positions of an image,
    q = mean over channels of f^2. `at` is the tap (dec, bb, logits ...); channels may differ, there is no adapter.
    """

    taps = ("dec",)
    weights: ClassVar[dict[str, float]] = {"att": 10000.0}
    paper = "Zagoruyko and Komodakis, Paying More Attention to Attention (ICLR 2017)"
    differences = (
        "The paper sums over several layers; the published segmentation code, and kdc, compare one tap: at=dec.",
        "The published code takes the mean over positions, so the value is about 1 / N and its weight 10000.",
    )

    def __init__(self, sizes: Sizes, *, terms: Collection[str] | None = None, at: str = "dec") -> None:
        super().__init__(sizes, terms=terms)
        self.need(at)

    def losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        s, t = self.pair(student, teacher, self.taps[0])
        return {"att": (attention(s) - attention(t)).square().mean()}


def attention(x: Tensor) -> Tensor:
    """Return the unit-length attention map ``(B, N)`` of a feature ``(B, C, H, W)``; O(N) and ``x`` are kept."""
    return unit(energy(x).flatten(1), 1)


def energy(x: Tensor) -> Tensor:
    """Return the mean over channels of ``x^2``, ``(B, H, W)``; only ``x`` is kept for the gradient."""
    value: Any = _Energy.apply(raised(x))
    return value


class _Energy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x) -> Tensor:
        ctx.save_for_backward(x)
        # image by image: the squares are as large as the feature
        return torch.stack([image.square().mean(0) for image in x])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):
        (x,) = ctx.saved_tensors
        return x * (grads[0] * (2 / x.shape[1])).unsqueeze(1)
