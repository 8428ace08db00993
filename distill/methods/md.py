"""Magnitude distillation: the norms of the features alone (Rethinking KD with Raw Features, equation 4)."""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..batch import Batch
from .naive import Naive

if TYPE_CHECKING:
    from ..output import Output

EPS = 1e-12


class Md(Naive):
    """Magnitude distillation of the last backbone feature, for analysis only.

    md = mean over images of (||F_t|| - ||F_s||)^2 / (C N), norms over the whole C x H x W tensor. It is what naive
    holds besides the angle: naive = md + 2 ||F_t|| ||F_s|| (1 - cos) / (C N), image by image. `at` is the tap; adapter
    (conv or conv-bn-relu) and always are those of naive. The paper finds md below naive, at times below plain training.
    """

    weights: ClassVar[dict[str, float]] = {"md": 1000.0}
    differences = ("The paper writes the loss for one image; kdc averages over the batch.",)

    def losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        s, t = self.compared(student, teacher)
        return {"md": (norms(t) - norms(s)).square().mean() / s[0].numel()}


def norms(x: Tensor) -> Tensor:
    """Return the norm of every image of ``(B, ...)``; a zero image gets no gradient, and only ``x`` is kept."""
    value: Any = _Norms.apply(x)
    return value


class _Norms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x) -> Tensor:
        # not x.norm(): on the CPU it loses 3e-5 over 1e7 float32 values
        norm = torch.stack([(image * image).sum() for image in x]).sqrt()
        ctx.save_for_backward(x, norm)
        return norm

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):
        x, norm = ctx.saved_tensors
        return x * (grads[0] / norm.clamp_min(EPS)).view(-1, *[1] * (x.dim() - 1))
