"""How alike positions are, across images and to remembered ones: the KL of similarity rows, without the whole map.

Yang et al., Cross-Image Relational Knowledge Distillation for Semantic Segmentation (CVPR 2022).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..losses import slice_kl
from ._gram import full_float32

#: similarities that are held at a time; on the CPU they stay in its cache
_CPU_CHUNK, _CUDA_CHUNK = 2**20, 2**23
#: rows that are held at a time: a chunk is never the whole map of more positions than this
_ROWS = 1024


def mini_batch_kl(student: Tensor, teacher: Tensor, tau: float, images: range | None = None) -> Tensor:
    """Return the mean over ordered pairs of images, and rows, of KL(p_t || p_s), ``p = softmax_n(<f_m, f_n> / tau)``.

    Args:
        student: unit features ``(B, C_s, N)``; gradients go to it, both as rows and as columns.
        teacher: unit features ``(B, C_t, N)``.
        tau: divides the similarities; the value is not multiplied by its square.
        images: those that come first in a pair; by default all. Any of the B comes second.
    """
    images = images or range(len(student))
    scale = 1 / (len(images) * len(student) * student.shape[2])
    value: Any = _SimilarityKL.apply(student, teacher, None, tau, scale, None, images)
    return value


def memory_kl(student: Tensor, teacher: Tensor, keys: Tensor, tau: float, T: float, weight: Tensor) -> Tensor:
    """Return the weighted mean over positions of ``T^2 KL(p_t || p_s)``, ``p = softmax_m(<f, v_m> / (tau T))``.

    Args:
        student: unit features ``(B, C, N)``; gradients go to it.
        teacher: unit features ``(B, C, N)``.
        keys: the vectors ``v``, ``(M, C)``.
        tau: divides the similarities.
        T: temperature of the distillation.
        weight: ``(B, N)`` of zeros and ones; where all are 0 the value is 0.
    """
    scale = T * T / weight.sum().clamp(min=1)
    value: Any = _SimilarityKL.apply(student, teacher, keys.t(), tau * T, scale, weight, range(len(student)))
    return value


class _SimilarityKL(torch.autograd.Function):
    """The gradient is formed in the forward pass, chunk by chunk, and is all that is kept.

    Columns are ``keys`` ``(C, M)``, or without them the positions of every image in turn.
    """

    @staticmethod
    def forward(ctx: Any, student, teacher, keys, tau, scale, weight, images) -> Tensor:
        value = student.new_zeros(())
        grad = torch.zeros_like(student) if ctx.needs_input_grad[0] else None
        rows = list(zip(student, teacher, [None] * len(student) if grad is None else grad))
        with full_float32():
            for i in images:
                w = None if weight is None else weight[i].unsqueeze(1)
                for columns in rows if keys is None else [(keys, keys, None)]:
                    value = value + _rows_kl(rows[i], columns, tau, w)
        if grad is not None:
            ctx.save_for_backward(grad.mul_(scale / tau))
        return value * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):
        return ctx.saved_tensors[0] * grads[0], None, None, None, None, None, None


def _rows_kl(rows: tuple, columns: tuple, tau: float, weight: Tensor | None) -> Tensor:
    """Return the unscaled KL of all rows' similarities to the columns, and add to the unscaled gradients.

    ``rows`` and ``columns`` hold the student's features ``(C_s, N)`` and ``(C_s, M)``, the teacher's, and where the
    gradient of the student's goes, or None; ``weight`` is ``(N, 1)``.
    """
    (s, t, s_grad), (keys_s, keys_t, keys_grad) = rows, columns
    value = s.new_zeros(())
    length = max(1, min(_ROWS, (_CUDA_CHUNK if s.is_cuda else _CPU_CHUNK) // keys_s.shape[1]))
    for start in range(0, s.shape[1], length):
        part = slice(start, start + length)
        x_s, x_t = (s[:, part] / tau).t() @ keys_s, (t[:, part] / tau).t() @ keys_t
        # the gradient takes the place of the student's similarities, which nothing needs any more
        rise = None if s_grad is None else x_s
        value = value + slice_kl(x_s, x_t, None if weight is None else weight[part], rise, 1, 1.0, False)
        if s_grad is not None:
            s_grad[:, part].addmm_(keys_s, x_s.t())
        if keys_grad is not None:
            keys_grad.addmm_(s[:, part], x_s)
    return value
