"""What the processes of a run exchange: errors, labelled pixels, signals and sums."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ..batch import IGNORE, Batch
from ..data._loader import SampleBatch
from ..errors import DataError, KdcError


def fetch(fabric: Fabric, stream: Iterator[SampleBatch], step: int, count: int) -> tuple[list[Batch], KdcError | None]:
    """Return the micro-batches of a step, or the error of reading them, which ``agree`` tells the other ranks."""
    try:
        first = fabric.global_rank * count
        return [_to(fabric.device, next(stream), step, first + i) for i in range(count)], None
    except KdcError as error:
        return [], error


def _to(device: torch.device, sample: SampleBatch, step: int, part: int) -> Batch:
    images = sample["image"].to(device, non_blocking=True)
    return Batch(images, sample["label"].to(device, non_blocking=True).long(), step, part)


def agree(fabric: Fabric, micro: list[Batch], stop: int, error: KdcError | None) -> tuple[Tensor, int]:
    """Return the labelled pixels of the global batch, and the signal that any rank got.

    The count stays a whole number: Fabric turns floating-point inputs of the learner into the precision of autocast,
    where a count of pixels is rounded (bf16) or infinite (fp16).

    Raises:
        KdcError: this rank could not read its images, or another one could not; all ranks stop together.
    """
    counts = [(batch.labels != IGNORE).sum() for batch in micro]
    valid = torch.stack(counts).sum() if counts else torch.zeros((), dtype=torch.int64, device=fabric.device)
    if fabric.world_size == 1:
        if error:
            raise error
        return valid, stop

    signals = torch.stack([torch.full_like(valid, stop), torch.full_like(valid, error is not None)])
    strongest, failed = reduced(fabric, signals, "max")
    if failed:
        texts: list[Any] = [None] * fabric.world_size
        torch.distributed.all_gather_object(texts, str(error or ""))
        raise error or DataError("; ".join(text for text in texts if text))
    return reduced(fabric, valid, "sum"), int(strongest)


def reduced(fabric: Fabric, value: Tensor, how: str = "mean") -> Tensor:
    """Return the mean (or ``"sum"`` or ``"max"``) of a value over all processes."""
    return cast(Tensor, fabric.all_reduce(value, reduce_op=how)) if fabric.world_size > 1 else value
