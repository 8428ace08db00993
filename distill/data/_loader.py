"""From a dataset to training batches; every random choice comes from (seed, epoch, index), never from a worker."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, TypedDict

import cv2
import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from ..errors import DataError, ResourceError, UsageError
from . import Dataset
from ._transforms import jitter, view

_ORDER, _VIEWS = 1, 2  # what a generator is for: the same seed must not give both the same numbers
Place = tuple[int, int]  # (epoch, index): which sample, and which of its random views


class TrainSample(TypedDict):
    """One random view: image, uint8 (3, H, W) in channels-last memory, and label, uint8 (H, W)."""

    image: torch.Tensor
    label: torch.Tensor
    key: str


class SampleBatch(TypedDict):
    """Views side by side: images, uint8 (B, 3, H, W) in channels-last memory, and labels, uint8 (B, H, W)."""

    image: torch.Tensor
    label: torch.Tensor
    key: list[str]


class TrainSamples(TorchDataset):
    """Random training views of a labelled split: ``samples[epoch, index]`` is a ``TrainSample``."""

    def __init__(
        self,
        dataset: Dataset,
        seed: int,
        crop: tuple[int, int],
        scale: tuple[float, float] = (0.5, 2.0),
        flip: bool = True,
        jitter: float = 0.0,
    ) -> None:
        if not dataset.labelled:
            raise DataError(f"{dataset.name} {dataset.split} has no labels: it can be predicted, not trained on")
        if len(dataset) == 0:
            raise DataError(f"{dataset.name} {dataset.split} holds no samples")
        if min(crop) < 1:
            raise UsageError(f"train.crop = {crop}: expected height and width of at least 1")
        if not 0 < scale[0] <= scale[1]:
            raise UsageError(f"train.scale = {scale}: expected 0 < smallest <= largest")
        self.dataset, self.seed, self.crop = dataset, seed, (int(crop[0]), int(crop[1]))
        self.scale, self.flip, self.jitter = scale, flip, jitter

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: Place) -> TrainSample:
        epoch, index = place
        image, label = self.dataset.read(index)
        assert label is not None  # the split is labelled
        rng = np.random.default_rng((_VIEWS, self.seed, epoch, index))
        image, label = view(image, label, rng, crop=self.crop, scale=self.scale, flip=self.flip)
        image = jitter(image, rng, self.jitter)
        return {
            "image": torch.from_numpy(image).permute(2, 0, 1),
            "label": torch.from_numpy(label),
            "key": self.dataset.key(index),
        }

    def __getitems__(self, places: list[Place]) -> list[TrainSample] | DataError:
        """Read a batch; a bad sample's error is returned, for torch would turn a raised one into a traceback."""
        try:
            return [self[place] for place in places]
        except DataError as error:
            return error


@lru_cache(maxsize=4)
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((_ORDER, seed, epoch)).permutation(length)


class Order(Sampler[list[Place]]):
    """Which samples each step sees.

    Global batch t is positions [t*batch, (t+1)*batch) of an endless chain of permutations, one an epoch. Rank r takes
    the r-th of ``world`` equal slices of it, so the global batch does not depend on the number of devices.
    Starting at step ``start`` costs nothing: positions are computed, not counted up to.
    """

    def __init__(
        self, length: int, batch: int, seed: int, start: int = 0, stop: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        if length < 1:
            raise DataError("no samples to draw from")
        if batch < 1 or batch % world:
            raise UsageError(f"train.batch = {batch} cannot be shared by {world} devices; take a multiple of {world}")
        self.length, self.batch, self.seed = length, batch, seed
        self.start, self.stop, self.rank, self.world = start, stop, rank, world

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def places(self, step: int) -> list[Place]:
        """Return the (epoch, index) pairs of this rank at ``step``."""
        share = self.batch // self.world
        first = step * self.batch + self.rank * share
        chain = (divmod(position, self.length) for position in range(first, first + share))
        return [(epoch, int(_permutation(self.length, self.seed, epoch)[at])) for epoch, at in chain]

    def __iter__(self) -> Iterator[list[Place]]:
        return (self.places(step) for step in range(self.start, self.stop))


class Loader(DataLoader):
    """A DataLoader whose workers' data errors arrive as they were raised; a dead or stuck one is lack of resources."""

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        batches = super().__iter__()
        workers: list[Any] = getattr(batches, "_workers", [])
        try:
            for batch in batches:
                if isinstance(batch, DataError):
                    raise batch
                yield batch
        except RuntimeError as error:
            if "DataLoader timed out" in str(error):
                states = ", ".join(_state(worker.pid) for worker in workers)
                for worker in workers:  # one that is stopped does not heed a softer end, and would be waited for
                    worker.kill()
                raise ResourceError(
                    f"no images came from the loader processes within {self.timeout:g} s ({states}); let them run "
                    "(kill -CONT PID), use fewer --workers, or set train.worker_timeout"
                ) from error
            if "DataLoader worker" not in str(error):
                raise
            raise ResourceError(f"a loader process died ({error}); try fewer --workers") from error


def _state(pid: int) -> str:
    try:
        return f"process {pid} is {psutil.Process(pid).status()}"
    except psutil.Error:
        return f"process {pid} is gone"


def _collate(samples: list[TrainSample] | DataError) -> SampleBatch | DataError:
    if isinstance(samples, DataError):
        return samples
    # stacked as H,W,3 and then viewed as 3,H,W: channels-last memory without a transposing copy
    images = torch.stack([sample["image"].permute(1, 2, 0) for sample in samples]).permute(0, 3, 1, 2)
    return {
        "image": images,
        "label": torch.stack([sample["label"] for sample in samples]),
        "key": [sample["key"] for sample in samples],
    }


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)


def loader(
    samples: TrainSamples, order: Order, workers: int = 0, pin_memory: bool = False, timeout: float = 0
) -> Loader:
    """Return the batches of ``order``, each a ``SampleBatch``.

    ``timeout`` is how long the processes may give nothing, in seconds; 0 for ever.

    Iterating draws nothing from the global generators of torch, numpy or python.

    Raises (while iterating):
        DataError: a sample cannot be used.
        ResourceError: a worker process died, or gave nothing for too long.
    """
    return Loader(
        samples,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_start_worker,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        timeout=timeout if workers else 0,
        generator=torch.Generator().manual_seed(0),  # DataLoader draws its workers' base seed; not from the global one
    )
