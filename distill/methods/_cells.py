"""Logit tailoring of KT, evaluated exactly on the cells of the low-resolution logits.

The published code works on nearest-neighbour upsampled logits. Those are constant on each low-resolution cell, so how
many pixels of each class fall into a cell is all that the full resolution adds.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def logit_tailoring(student: Tensor, teacher: Tensor, labels: Tensor, T: float = 4.0) -> Tensor:
    """Return KT's LT term: per image and class, class and non-class pixels are tailored and compared over space.

    Equals, in value and gradient, the three channel-wise KLs at the resolution of the labels: untailored student
    against the merged tailored teacher, class side against class side, non-class side against non-class side.

    Args:
        student: logits ``(B, K, h, w)``; gradients go here only.
        teacher: logits ``(B, K, h', w')``.
        labels: int64 ``(B, H, W)``; an ignored pixel is non-class for every class.
        T: temperature.
    """
    student, teacher, index, pixels = _cells(student, teacher, labels)
    images, classes, cells = student.shape
    inside = _count(labels, index, classes, cells).to(student.dtype)
    outside = pixels.to(student.dtype) - inside
    total = labels[0].numel()
    s_in, s_out = _tailored(student, inside, outside, total)
    t_in, t_out = _tailored(teacher, inside, outside, total)
    zero = student.new_zeros(())
    all_in, all_out = inside.sum(2, keepdim=True), outside.sum(2, keepdim=True)
    merged = _cell_kl(student, student, t_in, t_out, inside, outside, T)
    class_side = _cell_kl(s_in, zero, t_in, zero, inside, all_out, T)
    other_side = _cell_kl(zero, s_out, zero, t_out, all_in, outside, T)
    return (merged + class_side + other_side) * (T * T / (images * classes))


def _tailored(x: Tensor, inside: Tensor, outside: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Raise class cells to the mean of their positive logits and lower the others to their mean over all pixels."""
    positive = inside * (x > 0)
    count = positive.sum(2, keepdim=True)
    floor = torch.where(count > 0, (positive * x).sum(2, keepdim=True) / count.clamp_min(1), -torch.inf)
    ceiling = (outside * x).sum(2, keepdim=True) / total
    return torch.maximum(x, floor), torch.minimum(x, ceiling)


def _cell_kl(s1: Tensor, s2: Tensor, t1: Tensor, t2: Tensor, m1: Tensor, m2: Tensor, T: float) -> Tensor:
    """Return the summed KL of softmaxes over two groups of cells, where a cell stands for ``m`` equal pixels."""
    value: Any = _CellKL.apply(s1, s2, t1, t2, m1, m2, T)
    return value


class _CellKL(torch.autograd.Function):
    """As in `losses`, the gradients are formed in the forward pass and are all that is kept."""

    @staticmethod
    def forward(ctx: Any, s1, s2, t1, t2, m1, m2, T) -> Tensor:
        p1, p2, log_t = _softmax(t1, t2, m1, m2, T)
        q1, q2, log_s = _softmax(s1, s2, m1, m2, T)
        # log p - log q of a cell is (t - s) / T + the difference of the normalisers; multiplicities cancel
        value = ((t1 - s1) / T + (log_s - log_t)).mul_(p1).sum() + ((t2 - s2) / T + (log_s - log_t)).mul_(p2).sum()
        first, second = ctx.needs_input_grad[:2]
        ctx.save_for_backward(q1.sub_(p1).div_(T) if first else None, q2.sub_(p2).div_(T) if second else None)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):
        g1, g2 = ctx.saved_tensors
        return (
            None if g1 is None else g1 * grads[0],
            None if g2 is None else g2 * grads[0],
            None,
            None,
            None,
            None,
            None,
        )


def _softmax(x1: Tensor, x2: Tensor, m1: Tensor, m2: Tensor, T: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return both groups' probabilities, multiplicities included, and the log of the common normaliser."""
    top = torch.maximum(_top(x1, m1), _top(x2, m2))
    e1 = ((x1 - top) / T).clamp_(max=0).exp_().mul(m1)
    e2 = ((x2 - top) / T).clamp_(max=0).exp_().mul(m2)
    z = e1.sum(2, keepdim=True) + e2.sum(2, keepdim=True)
    return e1.div_(z), e2.div_(z), top / T + z.log()


def _top(x: Tensor, m: Tensor) -> Tensor:
    """Return the largest value that really occurs, so that an absent cell's cannot push the others to underflow."""
    return torch.where(m > 0, x, -torch.inf).amax(2, keepdim=True)


def _count(labels: Tensor, index: Tensor, classes: int, cells: int) -> Tensor:
    """Count each class's pixels in each cell: ``(B, classes, cells)``."""
    images = torch.arange(len(labels), device=labels.device)[:, None, None]
    kind = torch.where((labels >= 0) & (labels < classes), labels, classes)
    slot = ((images * (classes + 1) + kind) * cells + index).flatten()
    # not bincount, which would wait for a GPU
    count = torch.zeros(len(labels) * (classes + 1) * cells, device=labels.device)
    count.scatter_add_(0, slot, torch.ones_like(slot, dtype=torch.float32))
    return count.view(len(labels), classes + 1, cells)[:, :classes]


def _cells(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bring both maps to common cells ``(B, K, cells)``; also return each pixel's cell and each cell's pixels."""
    height, width = labels.shape[1:]
    rows, columns = (_axis(n, student.shape[i], teacher.shape[i]) for i, n in ((2, height), (3, width)))
    s_rows, t_rows, row, row_pixels, s_columns, t_columns, column, column_pixels = (
        torch.from_numpy(x).to(labels.device, non_blocking=True) for x in (*rows, *columns)
    )
    index = row[:, None] * len(column_pixels) + column
    pixels = (row_pixels[:, None] * column_pixels).flatten()
    return _take(student, s_rows, s_columns), _take(teacher, t_rows, t_columns), index, pixels


def _take(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    if len(rows) != x.shape[2] or len(columns) != x.shape[3]:
        x = x[:, :, rows[:, None], columns]
    return x.flatten(2)


@lru_cache(maxsize=64)
def _axis(pixels: int, student: int, teacher: int) -> tuple[np.ndarray, ...]:
    """Cut an axis into runs of pixels that read one student and one teacher row; pixel i reads row i * rows // pixels.

    Returns the runs' student rows, their teacher rows, each pixel's run and each run's length.
    """
    i = np.arange(pixels)
    pairs = np.stack([i * student // pixels, i * teacher // pixels])
    rows, run, length = np.unique(pairs, axis=1, return_inverse=True, return_counts=True)
    return rows[0].copy(), rows[1].copy(), run.reshape(-1), length
