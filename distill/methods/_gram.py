"""Squared gap between two cosine graphs of N positions that never holds N x N numbers.

Unit features S (C_s x N) and T (C_t x N) have the graphs S^T S and T^T T. With D their difference:

    sum_nm D_nm^2        = |S S^T|^2 + |T T^T|^2 - 2 |S T^T|^2                              (squared Frobenius norms)
    r_n = sum_m D_nm^2   = s_n . (S S^T) s_n + t_n . (T T^T) t_n - 2 s_n . (S T^T) t_n

Products are C x C. Large numbers cancel where the graphs are alike, so these run in float64. With few positions for the
channels D itself is cheaper: it is formed a few rows at a time, in the inputs' precision.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..losses import raised

#: numbers that are in work at a time: float64 features, or rows of D
_CPU_SLICE, _CUDA_SLICE = 2**17, 2**24


def gram_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """Return ``sum over n, m of (s_n . s_m - t_n . t_m)^2`` of each image, ``(B,)``.

    Args:
        student: ``(B, C_s, N)``, the features whose products are the graph; gradients go here only.
        teacher: ``(B, C_t, N)``.
    """
    value: Any = _Gap.apply(raised(student), raised(teacher))
    return value


def gram_rows(student: Tensor, teacher: Tensor) -> Tensor:
    """Return ``sum over m of (s_n . s_m - t_n . t_m)^2`` of each row, ``(B, N)``, at least 0; inputs as in `gram_gap`.

    Its root has no slope at 0: clamp before taking it.
    """
    value: Any = _Rows.apply(raised(student), raised(teacher))
    return value


@contextmanager
def full_float32() -> Iterator[None]:
    """Keep float32 matrix products on a GPU from rounding their inputs to TF32."""
    flags = torch.backends.cuda.matmul
    before = flags.fp32_precision
    flags.fp32_precision = "ieee"
    try:
        yield
    finally:
        flags.fp32_precision = before


class _Gap(torch.autograd.Function):
    """The gradient is formed in the forward pass and is all that is kept."""

    @staticmethod
    @full_float32()
    def forward(ctx: Any, s, t) -> Tensor:
        grad = torch.empty_like(s) if ctx.needs_input_grad[0] else None
        if _few(s, t):
            value = s.new_zeros(len(s))
            for rows, d in _differences(s, t):
                if grad is not None:
                    grad[..., rows] = torch.bmm(s, d.mT).mul_(4)
                value += d.square_().sum((1, 2))
        else:
            ss, tt, st = _products(s, t)
            if grad is not None:
                for rows, a, b in _slices(s, t):
                    grad[..., rows] = (ss @ a).sub_(st @ b).mul_(4)
            value = (ss.square().sum((1, 2)) + tt.square().sum((1, 2)) - 2 * st.square().sum((1, 2))).clamp_min(0)
        ctx.save_for_backward(grad)
        return value.to(s.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):
        return ctx.saved_tensors[0] * grads[0][:, None, None], None


class _Rows(torch.autograd.Function):
    """Kept are the inputs and, unless D is formed, ``S S^T s_n - S T^T t_n``; the row weights arrive in the backward.

    The gradient of ``sum of g_n r_n`` is, with ``S_g`` the features weighted by g: ``2 g_k (S S^T s_k - S T^T t_k) +
    2 (S_g S^T s_k - S_g T^T t_k)``, which is ``2 sum over m of (g_k + g_m) D_km s_m``.
    """

    @staticmethod
    @full_float32()
    def forward(ctx: Any, s, t) -> Tensor:
        value, pull = s.new_empty(len(s), s.shape[2]), None
        if _few(s, t):
            for rows, d in _differences(s, t):
                value[:, rows] = d.square_().sum(2)
        else:
            pull = torch.empty_like(s) if ctx.needs_input_grad[0] else None
            ss, tt, st = _products(s, t)
            for rows, a, b in _slices(s, t):
                across = st @ b
                along = (ss @ a).sub_(across)
                if pull is not None:
                    pull[..., rows] = along
                row = along.sub_(across).mul_(a).sum(1) + (tt @ b).mul_(b).sum(1)
                value[:, rows] = row.clamp_min_(0)
        ctx.save_for_backward(s, t, pull)
        return value

    @staticmethod
    @once_differentiable
    @full_float32()
    def backward(ctx: Any, *grads: Tensor):
        s, t, pull = ctx.saved_tensors
        g, grad = grads[0], torch.empty_like(s)
        if pull is None:
            for rows, d in _differences(s, t):
                d.mul_(g[:, rows, None] + g[:, None])
                grad[..., rows] = torch.bmm(s, d.mT).mul_(2)
            return grad, None
        ss, _, st = _products(s, t, g)
        for rows, a, b in _slices(s, t):
            grad[..., rows] = (
                (ss @ a).sub_(st @ b).addcmul_(g[:, None, rows].double(), pull[..., rows].double()).mul_(2)
            )
        return grad, None


def _few(s: Tensor, t: Tensor) -> bool:
    return s.shape[2] <= s.shape[1] + t.shape[1]


def _limit(x: Tensor) -> int:
    return _CUDA_SLICE if x.is_cuda else _CPU_SLICE


def _slices(s: Tensor, t: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield, a slice of positions at a time, both features in float64."""
    length = max(1, _limit(s) // (s[..., 0].numel() + t[..., 0].numel()))
    for i in range(0, s.shape[2], length):
        rows = slice(i, i + length)
        yield rows, s[..., rows].double(), t[..., rows].double()


def _products(s: Tensor, t: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``S S^T``, ``T T^T`` and ``S T^T`` in float64, the first factor's positions weighted by ``weight (B, N)``.

    With a weight ``T T^T`` is left 0: no gradient needs it.
    """
    B, C_s, C_t = len(s), s.shape[1], t.shape[1]
    ss, tt, st = (s.new_zeros(B, i, j, dtype=torch.float64) for i, j in ((C_s, C_s), (C_t, C_t), (C_s, C_t)))
    for rows, a, b in _slices(s, t):
        left = a if weight is None else a * weight[:, None, rows].double()
        ss.baddbmm_(left, a.mT)
        st.baddbmm_(left, b.mT)
        if weight is None:
            tt.baddbmm_(b, b.mT)
    return ss, tt, st


def _differences(s: Tensor, t: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield D, a few rows ``(B, n, N)`` at a time; equal inputs give 0 exactly."""
    length = max(1, min(1024, _limit(s) // (len(s) * s.shape[2])))
    for i in range(0, s.shape[2], length):
        rows = slice(i, i + length)
        yield rows, torch.bmm(s[..., rows].mT, s).sub_(torch.bmm(t[..., rows].mT, t))
