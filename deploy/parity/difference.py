"""How far two forms of one network are apart: what is measured, what may differ, and the record of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...distill.errors import NumbersError
from ...distill.evaluation.metrics import Scores, iou_of
from ...distill.run.records import Record
from .tolerances import Tolerances


@dataclass(frozen=True)
class WorstClass(Record):
    """The labelled class that lost most IoU, and how much, in points of 100."""

    name: str
    drop: float


@dataclass
class Difference:
    """How far two runtimes are apart, summed up image by image."""

    images: int = 0
    pixels: int = 0
    #: pixels whose class is the same, and those that differ between classes which the reference scores alike
    same: int = 0
    ties: int = 0
    #: largest ``|d|`` and ``|d| / max(1, |z|)``; None until logits were seen, inf where one side is not finite
    max_diff: float | None = None
    max_relative: float | None = None
    #: logits that are NaN or infinite, of the reference and of the candidate
    not_finite: tuple[int, int] = (0, 0)
    _sum: float = 0.0
    _finite: int = 0

    @property
    def agreement(self) -> float:
        """Share of pixels with the same class."""
        return self.same / max(self.pixels, 1)

    @property
    def tied(self) -> float:
        """Share of pixels that differ at a tie."""
        return self.ties / max(self.pixels, 1)

    @property
    def mean_diff(self) -> float | None:
        """Mean ``|d|`` over the logits that are finite on both sides; None until logits were seen."""
        return None if self.max_diff is None else self._sum / max(self._finite, 1)

    def add_logits(self, reference: np.ndarray, candidate: np.ndarray) -> None:
        """Compare logits ``(N, K, H, W)``.

        Raises:
            NumbersError: the shapes differ.
        """
        _refuse_other_shape(reference, candidate)
        wide = reference.astype(np.float64)
        with np.errstate(invalid="ignore"):
            apart = np.abs(candidate - wide)
        finite = np.isfinite(apart)
        self._sum += float(apart[finite].sum())
        self._finite += int(finite.sum())
        bad = tuple(int(each.size - np.isfinite(each).sum()) for each in (reference, candidate))
        self.not_finite = (self.not_finite[0] + bad[0], self.not_finite[1] + bad[1])
        apart[~finite] = np.inf
        scale = np.maximum(1, np.abs(np.where(np.isfinite(wide), wide, 0)))
        self.max_diff = max(self.max_diff or 0.0, float(apart.max()))
        self.max_relative = max(self.max_relative or 0.0, float((apart / scale).max()))

    def add_masks(
        self, reference: np.ndarray, candidate: np.ndarray, logits: np.ndarray | None = None, tie: float = 0.0
    ) -> None:
        """Compare class masks ``(N, H, W)``; with the reference's ``logits``, differences within ``tie`` are ties.

        Raises:
            NumbersError: the shapes differ.
        """
        _refuse_other_shape(reference, candidate)
        self.images += len(reference)
        self.pixels += reference.size
        n, y, x = np.nonzero(reference != candidate)
        self.same += reference.size - len(n)
        if logits is not None and tie and len(n):
            best, other = (logits[n, mask[n, y, x], y, x].astype(np.float64) for mask in (reference, candidate))
            self.ties += int((best - other <= tie * np.maximum(1, np.abs(best))).sum())


def add_scores(both: tuple[Scores, Scores], masks: Sequence[np.ndarray], truths: Sequence[np.ndarray | None]) -> None:
    """Score the masks ``(N, H, W)`` of reference and candidate on labels of N images, which may be smaller."""
    for n, truth in enumerate(truths):
        if truth is not None:
            for scores, mask in zip(both, masks, strict=True):
                scores.add(np.ascontiguousarray(mask[n, : truth.shape[0], : truth.shape[1]]), truth)


def reasons(
    difference: Difference, both: tuple[Scores, Scores] | None, preprocess: dict[str, str], tolerances: Tolerances
) -> list[str]:
    """Say why a candidate fails; nothing if it passes. ``both`` are the scores, where there are labels."""
    faults, apart, allowed = [], difference.max_relative, tolerances.max_diff
    if preprocess["reference"] != preprocess["candidate"]:
        faults.append(
            "the two prepare images differently (mean, deviation or channel order): their masks do not compare"
        )

    for side, count in zip(("reference", "candidate"), difference.not_finite, strict=True):
        if count:
            faults.append(f"the {side} gives values that are not finite ({count} logits)")
    if not any(difference.not_finite) and apart is not None and allowed is not None and apart > allowed:
        faults.append(f"logits differ by {apart:.2g} x max(1, |z|), {allowed:.2g} is allowed")

    share = difference.agreement + difference.tied
    if share < tolerances.agreement:
        faults.append(f"{100 * share:.3f} % of pixels agree, {100 * tolerances.agreement:.2f} % is needed")
    if tolerances.miou_drop is not None and both is not None:
        drop = 100 * (both[0].miou - both[1].miou)
        if drop > tolerances.miou_drop:
            faults.append(f"mIoU falls by {drop:.2f} points, {tolerances.miou_drop:.2f} is allowed")
    return faults


def worst_class(reference: Scores, candidate: Scores) -> WorstClass | None:
    """Return the labelled class that lost most IoU; None where nothing is labelled."""
    labelled = reference.confusion.sum(1) > 0
    if not labelled.any():
        return None
    lost = 100 * (iou_of(reference.confusion)[0] - iou_of(candidate.confusion)[0])
    worst = int(np.where(labelled, lost, -np.inf).argmax())
    return WorstClass(reference.classes[worst], float(lost[worst]))


def boundary_drop(reference: Scores, candidate: Scores) -> float | None:
    """Return the loss of mIoU along boundaries, in points of 100, over the classes labelled there; None without any.

    The same classes on both sides: one stray pixel of another must not change what is averaged over.
    """
    labelled = reference.band_confusion.sum(1) > 0
    if not labelled.any():
        return None
    before, after = (iou_of(each.band_confusion)[0][labelled].mean() for each in (reference, candidate))
    return float(100 * (before - after))


def _refuse_other_shape(reference: np.ndarray, candidate: np.ndarray) -> None:
    if reference.shape != candidate.shape:
        shapes = ("x".join(map(str, array.shape)) for array in (candidate, reference))
        raise NumbersError("the candidate gives {}, the reference {}: not the same network".format(*shapes))
