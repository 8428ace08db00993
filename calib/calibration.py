"""The calibration of a float32 ONNX file: its images, and the statistics of its tensors on them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..distill import console
from .histograms import Statistics, cache_path, collect, fingerprint
from .images import CalibrationSet

if TYPE_CHECKING:
    from ..distill.data import Dataset


class Pictures:
    """Chosen images of a dataset, uint8 RGB ``(H, W, 3)``, read anew at every pass."""

    def __init__(self, dataset: "Dataset", indices: list[int]) -> None:
        self._dataset, self._indices = dataset, indices

    def __len__(self) -> int:
        """Count them."""
        return len(self._indices)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Read them."""
        return (self._dataset.read(i)[0] for i in self._indices)


@dataclass
class Calibration:
    """Images and statistics of one float32 file; the statistics are collected when they are first needed."""

    source: Path
    images: Sequence[np.ndarray] | Pictures
    #: name of the images
    data: str = "given arrays"
    #: of the file and the images
    fingerprint: str = ""
    #: where the statistics are kept
    cache: Path | None = None

    @classmethod
    def of(cls, source: Path, dataset: "Dataset", images: CalibrationSet, folder: Path | None) -> "Calibration":
        """Calibrate a file on chosen images of a dataset, and keep the statistics in a folder, if any."""
        name = fingerprint(source, images.fingerprint, images.keys)
        return cls(source, Pictures(dataset, images.indices), images.data, name, folder and cache_path(folder, name))

    @cached_property
    def statistics(self) -> Statistics:
        """Of every tensor on the images: those of the cache, or new ones."""
        if self.cache and (known := Statistics.load(self.cache, self.fingerprint)):
            console.say(f"statistics of {known.images} images of {self.data} from {self.cache.name}")
            return known
        console.say(f"calibrating {self.source.name} on {len(self.images)} images of {self.data}")
        images = console.progress(self.images, len(self.images), "calibrating")
        statistics = collect(self.source, images, self.fingerprint)
        if self.cache:
            statistics.save(self.cache)
        return statistics
