"""How much a quantised network loses on images that neither its calibration nor its gate uses."""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..deploy.parity.difference import Difference
from ..deploy.runtimes.base import Runtime
from ..distill import console
from ..distill.errors import DataError
from ..distill.evaluation.fit import View
from ..distill.evaluation.metrics import Scores
from ..distill.run.records import Record

if TYPE_CHECKING:
    from ..distill.data import Dataset

#: images that calibrators and groups are compared on
IMAGES = 16


@dataclass(frozen=True)
class Outcome(Record):
    """Agreement and mIoU of a quantised network against the float32 one."""

    #: share of pixels with the same class
    agreement: float
    #: fraction; None on unlabelled images
    miou: float | None
    #: loss of mIoU in points of 100
    drop: float | None

    def short_of(self, agreement: float, drop: float | None) -> float:
        """Return by how many points it misses both limits, 0 within; mIoU is ignored on unlabelled images."""
        over = 0.0 if drop is None or self.drop is None else max(0.0, self.drop - drop)
        return max(0.0, 100 * (agreement - self.agreement)) + over

    @property
    def cells(self) -> list[str]:
        """Agreement, mIoU and its loss in percent and points, as text."""
        scores = [f"{100 * self.miou:.2f}", f"{self.drop:+.2f}"] if self.miou is not None else ["-", "-"]
        return [f"{100 * self.agreement:.3f}", *scores]


def held_out(dataset: "Dataset", used: Sequence[int], count: int = IMAGES, *, seed: int = 0) -> list[int]:
    """Draw images that were not calibrated on; all of them where fewer than ``count`` are left.

    Raises:
        DataError: every image was calibrated on.
    """
    calibrated = set(used)
    free = [int(i) for i in np.random.default_rng(seed).permutation(len(dataset)) if int(i) not in calibrated]
    if not free:
        raise DataError(
            f"calibration takes all {len(dataset)} images of {dataset.name} {dataset.split}; none is left for the "
            f"comparison: --images {max(1, len(dataset) - count)} leaves some"
        )
    if len(free) < count:
        console.warn(f"only {len(free)} images are left to compare on: the comparison is rough")
    return sorted(free[:count])


class HeldOut:
    """Held-out images with the float32 network's masks, which are computed once."""

    def __init__(self, reference: Runtime, dataset: "Dataset", indices: Sequence[int]) -> None:
        self._dataset, self._indices = dataset, list(indices)
        # read once, since every candidate is shown them
        self._views = [reference.fit.views(*dataset.read(i)) for i in self._indices]
        each = console.progress(self._views, len(self._views), "float32 on held-out images")
        self._masks = [_masks(reference, views) for views in each]

    def __len__(self) -> int:
        """Count the images."""
        return len(self._indices)

    @property
    def keys(self) -> list[str]:
        """Names of the images."""
        return [self._dataset.key(i) for i in self._indices]

    def some(self, count: int) -> "HeldOut":
        """Return so many of the images, evenly spread; all where there are no more."""
        places = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int))
        part = copy.copy(self)
        for name in ("_indices", "_views", "_masks"):
            setattr(part, name, [getattr(self, name)[place] for place in places])
        return part

    def score(self, runtime: Runtime) -> Outcome:
        """Run a candidate on the images and compare its masks."""
        masks = [_masks(runtime, views) for views in self._views]
        difference = Difference()
        for reference, candidate in zip(itertools.chain(*self._masks), itertools.chain(*masks), strict=True):
            difference.add_masks(reference[None], candidate[None])
        miou, before = self._miou_of(masks), self._miou_of(self._masks)
        return Outcome(difference.agreement, miou, None if miou is None or before is None else 100 * (before - miou))

    def _miou_of(self, masks: list[list[np.ndarray]]) -> float | None:
        if not self._dataset.labelled:
            return None
        scores = Scores.empty(self._dataset.classes)
        for view, mask in zip(itertools.chain(*self._views), itertools.chain(*masks), strict=True):
            assert view.label is not None
            scores.add(mask, view.label)
        return scores.miou


def _masks(runtime: Runtime, views: Sequence[View]) -> list[np.ndarray]:
    batch = runtime.spec.batch or 1
    return [runtime.masks(np.repeat(view.image[None], batch, axis=0))[0] for view in views]
