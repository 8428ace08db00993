"""Which images each step of each stage sees, on each rank."""

import os
from collections.abc import Iterator

from lightning_fabric import Fabric

from ..data import Dataset
from ..data._loader import Order, SampleBatch, TrainSamples, loader
from ..settings.config import Config


class Batches:
    """The endless, seeded stream of training batches of one rank."""

    def __init__(self, data: Dataset, config: Config, fabric: Fabric) -> None:
        self.data, self.config, self.fabric = data, config, fabric

    def stream(self, stage: str, step: int, iters: int) -> Iterator[SampleBatch]:
        """Yield the micro-batches of optimiser steps ``step`` to ``iters``."""
        options = self.config.train
        seed = options.seed if stage == "main" else options.seed + 1
        samples = TrainSamples(self.data, seed, options.crop, options.scale, options.flip, options.jitter)
        parts = options.accumulate
        rank, world = self.fabric.global_rank, self.fabric.world_size
        order = Order(len(self.data), options.batch // parts, seed, step * parts, iters * parts, rank, world)
        pinned = self.fabric.device.type == "cuda"
        return iter(loader(samples, order, self.workers, pinned, options.worker_timeout))

    @property
    def workers(self) -> int:
        """Loader processes of a rank."""
        options = self.config.train
        if options.workers is not None:
            return options.workers
        cuda = self.fabric.device.type == "cuda"
        return min(8, max((os.cpu_count() or 1) // options.devices, 1)) if cuda else 0
