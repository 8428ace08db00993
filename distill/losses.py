"""The kernels that the task loss and the methods share; each keeps one gradient-sized tensor, at the low resolution."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .batch import IGNORE

if TYPE_CHECKING:
    from .output import Output


#: elements that the softmax kernels work on at a time
_CPU_SLICE, _CUDA_SLICE = 2**17, 2**24


def raised(x: Tensor) -> Tensor:
    """Return ``x`` in at least float32: half precisions are raised, float64 stays."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def upsample(x: Tensor, size: tuple[int, int] | torch.Size, align_corners: bool = True) -> Tensor:
    """Resize ``(B, C, h, w)`` to ``(B, C, *size)``, bilinear; the same size returns ``x`` itself."""
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def labels_at(labels: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Take labels ``(B, H, W)`` at ``(B, *size)``, nearest: row ``i`` comes from row ``floor(i * H / size[0])``."""
    rows = torch.arange(size[0], device=labels.device) * labels.shape[1] // size[0]
    columns = torch.arange(size[1], device=labels.device) * labels.shape[2] // size[1]
    return labels[:, rows[:, None], columns]


def unit(x: Tensor, dims: int | tuple[int, ...], eps: float = 1e-12) -> Tensor:
    """Return ``x / max(norm of x over dims, eps)``, with finite gradients everywhere."""
    return x / (x * x).sum(dims, keepdim=True).clamp_min(eps * eps).sqrt()


def pixel_kl(student: Tensor, teacher: Tensor, T: float = 1.0) -> Tensor:
    """Return the KL divergence of the class probabilities, times ``T^2``, as mean over B and positions.

    Shapes ``(B, K, H, W)`` both; gradients go to ``student`` only. Source: CIRKD losses/kd.py.
    """
    return softmax_kl(student, teacher, 1, T, T * T * student.shape[1] / student.numel())


def channel_kl(student: Tensor, teacher: Tensor, T: float = 4.0) -> Tensor:
    """Return the KL divergence of each channel's distribution over space, times ``T^2``, as mean over B and channels.

    Shapes ``(B, C, H, W)`` both; gradients go to ``student`` only. Source: CWD (Shu et al., ICCV 2021).
    """
    scale = T * T / (student.shape[0] * student.shape[1])
    return softmax_kl(student.flatten(2).flatten(0, 1), teacher.flatten(2).flatten(0, 1), 1, T, scale)


def softmax_kl(
    student: Tensor,
    teacher: Tensor,
    dim: int,
    T: float,
    scale: float | Tensor,
    weight: Tensor | None = None,
    cross: bool = False,
) -> Tensor:
    """Return ``scale * sum of weight * p_t * log(p_t / p_s)`` with ``p = softmax(x / T)`` along ``dim``.

    ``weight`` broadcasts to the inputs and has their first axis; ``cross`` drops the teacher's entropy (soft
    cross-entropy, the same gradient).
    """
    value: Any = _SoftmaxKL.apply(raised(student), raised(teacher), dim, T, scale, weight, cross)
    return value


def task_loss(
    output: "Output", labels: Tensor, aux_weight: float = 0.4, valid: Tensor | float | None = None
) -> dict[str, Tensor]:
    """Cross-entropy of the upsampled logits and ``aux_weight`` times that of the auxiliary logits.

    The values add up to the task loss: ``aux`` already carries its weight, and is missing where there is no auxiliary
    head or the weight is 0. Both are sums over the labelled pixels divided by ``valid``, by default the number of
    labelled pixels in ``labels`` (at least 1, so that all-ignored labels give 0). Works image by image: the full
    resolution exists for one image at a time.

    Args:
        output: of the student; logits ``(B, K, h, w)``.
        labels: int64 ``(B, H, W)``; 255 is ignored.
        aux_weight: weight of the auxiliary head, 0.4 in the CIRKD family.
        valid: the divisor. With gradients averaged over ``n`` devices: the global batch's labelled pixels / ``n``.
    """
    if valid is None:
        valid = (labels != IGNORE).sum()
    valid = torch.as_tensor(valid, device=labels.device).clamp(min=1)
    terms = {"ce": cross_entropy_sum(output.logits, labels) / valid}
    if output.aux is not None and aux_weight:
        terms["aux"] = aux_weight * cross_entropy_sum(output.aux, labels) / valid
    return terms


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the summed cross-entropy of ``logits`` ``(B, K, h, w)``, upsampled to ``labels`` ``(B, H, W)``."""
    value: Any = _UpsampledCrossEntropy.apply(raised(logits), labels)
    return value


class _SoftmaxKL(torch.autograd.Function):
    """The gradient is computed in the forward pass, which has both softmaxes, and is all that is kept.

    It goes slice by slice along the first axis, so that intermediate values stay small, and in the CPU's cache.
    """

    @staticmethod
    def forward(ctx: Any, student, teacher, dim, T, scale, weight, cross) -> Tensor:
        value = student.new_zeros(())
        grad = torch.empty_like(student) if ctx.needs_input_grad[0] else None
        length = max(1, (_CUDA_SLICE if student.is_cuda else _CPU_SLICE) // max(1, student[0].numel()))
        for i in range(0, len(student), length):
            s, t, w, g = (None if x is None else x[i : i + length] for x in (student, teacher, weight, grad))
            value = value + slice_kl(s, t, w, g, dim, T, cross)
        if grad is not None:
            ctx.save_for_backward(grad.mul_(scale / T))
        return value * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):
        return ctx.saved_tensors[0] * grads[0], None, None, None, None, None, None


def slice_kl(student, teacher, weight, grad, dim: int, T: float, cross: bool) -> Tensor:
    """Return the unscaled KL of a slice and write the unscaled gradient into ``grad``, if there is one."""
    log_s = torch.log_softmax(student if T == 1 else student / T, dim)
    log_t = torch.log_softmax(teacher if T == 1 else teacher / T, dim)
    p_t = log_t.exp()
    terms = (log_s.neg() if cross else log_t.sub_(log_s)).mul_(p_t)
    value = (terms if weight is None else terms.mul_(weight)).sum()
    if grad is not None:
        torch.sub(log_s.exp_(), p_t, out=grad)
        if weight is not None:
            grad.mul_(weight)
    return value


class _UpsampledCrossEntropy(torch.autograd.Function):
    """One image at a time: upsample, softmax, and the gradient brought down to the logits' size before the next."""

    @staticmethod
    def forward(ctx: Any, logits, labels) -> Tensor:
        total = logits.new_zeros(())
        grad = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        for i in range(len(logits)):
            total = total + _image_cross_entropy(
                logits[i : i + 1], labels[i : i + 1], None if grad is None else grad[i]
            )
        if grad is not None:
            ctx.save_for_backward(grad)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):
        return ctx.saved_tensors[0] * grads[0], None


def _image_cross_entropy(logits: Tensor, labels: Tensor, grad: Tensor | None) -> Tensor:
    """Return one image's summed cross-entropy and write its gradient into ``grad``, if there is one."""
    keep = (labels != IGNORE).unsqueeze(1)
    index = labels.unsqueeze(1) * keep
    log_p = torch.log_softmax(upsample(logits, labels.shape[-2:]), 1)
    hit = log_p.gather(1, index)
    value = -(hit * keep).sum()
    if grad is not None:
        rise = log_p.exp_().scatter_(1, index, hit.exp_().sub_(1)).mul_(keep)
        grad.copy_(_upsample_adjoint(rise, logits.shape)[0])
    return value


def _upsample_adjoint(grad: Tensor, shape: torch.Size) -> Tensor:
    """Bring one image's gradient ``(1, K, H, W)`` back through ``upsample`` from ``shape[-2:]``."""
    if grad.shape[-2:] == shape[-2:]:
        return grad
    return torch.ops.aten.upsample_bilinear2d_backward(grad, list(grad.shape[-2:]), [1, *shape[1:]], True)
