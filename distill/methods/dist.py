"""DIST: correlation instead of divergence (Huang et al., NeurIPS 2022; hunto/DIST_KD losses/dist_kd.py)."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..batch import Batch
from ..losses import raised
from . import Method, Sizes
from .kd import temperature

if TYPE_CHECKING:
    from ..output import Output

#: added to the product of two norms, as published
EPS = 1e-8
#: keeps the gradient of equal probabilities 0 and finite
TINY = 1e-30


class Dist(Method):
    """Correlation of the class probabilities, within each position and within each class.

    dist = tau^2 * (beta * inter + gamma * intra),  p = softmax over classes of z / tau,
    inter = 1 - mean over the B N positions of pearson(p_s, p_t) over the K classes,
    intra = 1 - mean over the K classes of pearson(p_s, p_t) over all B N positions of the device's batch,
    pearson(a, b) = <a - mean a, b - mean b> / (||a - mean a|| ||b - mean b|| + 1e-8).
    aux_weight adds that share of the same on the auxiliary logits, where both networks have an auxiliary head.
    """

    taps = ("logits", "aux")
    weights: ClassVar[dict[str, float]] = {"dist": 1.0}
    paper = "Huang et al., Knowledge Distillation from A Stronger Teacher (NeurIPS 2022)"
    differences = (
        "The published segmentation code has no temperature; tau, with the factor tau^2, is mmrazor's, and 1 is the "
        "published form.",
        "Published runs add 0.4 times the loss on the auxiliary logits; a student without auxiliary head goes without "
        "(aux_weight=0 for every student).",
        "Published runs use weight decay 5e-4 where the baselines they are compared with use 1e-4: --preset dist sets "
        "it.",
        "The correlation within a class runs over the images of one device, as published: the value depends on how "
        "the batch is spread.",
    )

    def __init__(
        self,
        sizes: Sizes,
        *,
        terms: Collection[str] | None = None,
        aux_weight: float = 0.4,
        beta: float = 1.0,
        gamma: float = 1.0,
        tau: float | str = 1.0,
    ) -> None:
        super().__init__(sizes, terms=terms)
        self.aux_weight = aux_weight if "aux" in sizes.student and "aux" in sizes.teacher else 0.0
        self.need("logits", "aux") if self.aux_weight else self.need("logits")
        self.beta, self.gamma = beta, gamma
        self.tau = temperature(tau, "tau")

    def losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        settings = self.beta, self.gamma, self.tau(batch.step)
        value = decorrelation(*self.pair(student, teacher, "logits"), *settings)
        if self.aux_weight:
            value = value + self.aux_weight * decorrelation(*self.pair(student, teacher, "aux"), *settings)
        return {"dist": value}


def decorrelation(student: Tensor, teacher: Tensor, beta: float = 1.0, gamma: float = 1.0, tau: float = 1.0) -> Tensor:
    """Return ``tau^2 (beta inter + gamma intra)`` of two ``(B, K, H, W)``; one gradient-sized tensor is kept.

    Gradients go to ``student`` only; equal probabilities have no direction and get none.
    """
    value: Any = _Decorrelation.apply(raised(student), raised(teacher), beta, gamma, tau)
    return value


class _Decorrelation(torch.autograd.Function):
    """The gradient is formed in the forward pass, where both probabilities are at hand."""

    @staticmethod
    def forward(ctx: Any, student, teacher, beta, gamma, tau) -> Tensor:
        p_s, p_t = (torch.softmax(x / tau, 1) for x in (student, teacher))
        value = student.new_zeros(())
        grad = torch.zeros_like(p_s) if ctx.needs_input_grad[0] else None
        for weight, dims in ((beta, (1,)), (gamma, (0, 2, 3))):
            value = value + weight * _unlike(p_s, p_t, dims, weight, grad)
        if grad is not None:
            grad.mul_(p_s)
            ctx.save_for_backward(grad.addcmul_(p_s, grad.sum(1, keepdim=True), value=-1).mul_(tau))
        return value * tau**2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):
        return ctx.saved_tensors[0] * grads[0], None, None, None, None


def _unlike(student: Tensor, teacher: Tensor, dims: tuple[int, ...], weight: float, grad: Tensor | None) -> Tensor:
    """Return 1 - the mean correlation along ``dims``; add ``weight`` times its gradient to ``grad``, where given."""
    a, b = student - student.mean(dims, keepdim=True), teacher - teacher.mean(dims, keepdim=True)
    norm_a, norm_b = ((x * x).sum(dims, keepdim=True).sqrt() for x in (a, b))
    product = (a * b).sum(dims, keepdim=True)
    below = norm_a * norm_b + EPS
    if grad is not None:
        share = weight / product.numel()
        # a and b are centred, so the gradient through the means is 0
        along = product * norm_b / below**2 / norm_a.clamp_min(TINY)
        grad.addcmul_(a, along, value=share).addcmul_(b, 1 / below, value=-share)
    return 1 - (product / below).mean()
