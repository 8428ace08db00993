"""What the other processes hold, for losses and memories that span the whole batch."""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable


def rank_and_world() -> tuple[int, int]:
    """Return this process's number and how many there are; ``(0, 1)`` without a process group."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def gathered(x: Tensor) -> Tensor:
    """Return ``(ranks * B, ...)``: ``x`` ``(B, ...)`` of every rank in turn, of one shape on all of them.

    Differentiable: the gradients that the ranks have for this rank's part are summed.
    """
    value: Any = x if rank_and_world()[1] == 1 else _Gather.apply(x)
    return value


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(rank_and_world()[1])]
        distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):
        rank, world = rank_and_world()
        total = grads[0].clone(memory_format=torch.contiguous_format)  # gloo has no reduce-scatter
        distributed.all_reduce(total)
        return total.chunk(world)[rank]
