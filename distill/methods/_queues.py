"""CIRKD's memory of the teacher's features: a ring of unit vectors for every class (CIRKD losses/cirkd_memory.py).

Everything is written by index arithmetic: how often a class occurs never has to reach the host.
"""

import torch
from torch import Tensor, nn

from ..losses import unit
from ._gram import full_float32


class Queue(nn.Module):
    """One ring for each of ``classes``, ``slots`` long, of unit vectors of ``channels``; random ones at first."""

    slots: Tensor
    pointer: Tensor

    def __init__(self, classes: int, slots: int, channels: int, rng: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("slots", torch.empty(classes, slots, channels))
        self.register_buffer("pointer", torch.zeros(classes, dtype=torch.long))
        for ring in self.slots:  # class by class: the temporaries of hundreds of MiB would double them
            ring.copy_(unit(ring.normal_(generator=rng), 1))
        self.shape = f"{classes} x {slots} x {channels}"

    def push(self, vectors: Tensor, counts: Tensor) -> None:
        """Write, for each class, the first ``counts`` ``(K,)`` of ``vectors`` ``(K, n, C)``, n at most ``slots``.

        Where they reach the ring's end they take its last slots, and the pointer goes to 0.
        """
        length = self.slots.shape[1]
        ends = self.pointer + counts >= length
        start = torch.where(ends, length - counts, self.pointer)
        step = torch.arange(vectors.shape[1], device=counts.device)
        rows, columns = torch.arange(len(counts), device=counts.device)[:, None], (start[:, None] + step) % length
        # what a class has too little of is overwritten by itself
        new = (step < counts[:, None]).unsqueeze(2)
        self.slots[rows, columns] = torch.where(new, vectors.to(self.slots.dtype), self.slots[rows, columns])
        self.pointer.copy_(torch.where(ends, 0, self.pointer + counts))

    def index(self, count: int, rng: torch.Generator) -> Tensor:
        """Draw ``count`` different slots ``(count,)``, or all if there are fewer; on the CPU."""
        return torch.randperm(self.slots.shape[1], generator=rng)[:count]

    def take(self, index: Tensor) -> Tensor:
        """Return the slots ``index`` ``(n,)`` of every class: ``(K * n, C)``, class by class."""
        return self.slots.index_select(1, index).flatten(0, 1)


def by_class(
    features: Tensor, labels: Tensor, order: Tensor, classes: int, count: int, *, official: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a queue remembers of one image: up to ``count`` pixels of each class, and its region.

    Args:
        features: unit features ``(C, N)``.
        labels: int64 ``(N,)``; values that are no class belong to none.
        order: a random permutation of ``range(N)``: of a class's positions those with the lowest numbers are taken.
        classes: K.
        count: pixels of a class at most.
        official: take a class's pixels from the image's first positions, as many as the class has, as published.

    Returns:
        pixels ``(K, min(count, N), C)``, how many of them count ``(K,)``, and the classes' unit mean ``(K, C)``.
    """
    positions = len(labels)
    mask = labels == torch.arange(classes, device=labels.device)[:, None]
    total = mask.sum(1)
    eligible = torch.arange(positions, device=labels.device) < total[:, None] if official else mask
    picks = torch.where(eligible, order, positions).topk(min(count, positions), largest=False).indices
    with full_float32():
        mean = mask.to(features.dtype) @ features.t() / total.clamp(min=1)[:, None]
    return features[:, picks].permute(1, 2, 0), total.clamp(max=count), unit(mean, 1)
