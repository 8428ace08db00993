"""From a histogram to the range that the quantised grid covers: minmax, entropy, percentile, MSE.

Entropy is the threshold of the smallest Kullback-Leibler divergence (Migacz, "8-bit inference with TensorRT", GTC
2017).
"""

from collections.abc import Iterable, Mapping

import numpy as np
from onnx import TensorProto, helper

from ..distill.errors import UsageError, closest
from ..distill.training.fake_quantise import TOP
from .histograms import BINS, Histogram

CALIBRATORS = ("minmax", "entropy", "percentile", "mse")
#: share of the values that percentile keeps
KEPT = 0.9999
#: how many thresholds entropy and MSE try
_THRESHOLDS = 100
#: levels that entropy merges the bins of magnitudes into
_LEVELS = 128


def check_calibrator(calibrator: str, grid: str) -> None:
    """Refuse an unknown calibrator, or one that does not suit the grid, with a UsageError."""
    if calibrator not in CALIBRATORS:
        raise UsageError(
            f"calibrator '{calibrator}' is not known; accepted: {', '.join(CALIBRATORS)}"
            f"{closest(calibrator, CALIBRATORS)}"
        )
    if grid == "e4m3" and calibrator == "entropy":
        raise UsageError(
            "--calibrator entropy needs equal steps, which FP8 does not have; use minmax, percentile or mse"
        )


def ranges(histograms: Mapping[str, Histogram], calibrator: str, grid: str) -> dict[str, tuple[float, float]]:
    """Return the range of each tensor; every range holds zero."""
    check_calibrator(calibrator, grid)
    return {name: limits(each, calibrator, grid) for name, each in histograms.items()}


def limits(histogram: Histogram, calibrator: str, grid: str) -> tuple[float, float]:
    """Return the range ``(low, high)`` to represent on ``grid``; ``low <= 0 <= high``, within the observed values."""
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if calibrator == "minmax" or not histogram.counts.any():
        return low, high
    if calibrator == "percentile":
        below, above = _tails(histogram)
        return max(low, min(below, 0.0)), min(high, max(above, 0.0))
    find = _by_entropy if calibrator == "entropy" else _by_error
    threshold = find(histogram, low, high, grid)
    return max(low, -float(threshold)), min(high, float(threshold))


def _tails(histogram: Histogram) -> tuple[float, float]:
    """Cut half of the share beyond ``KEPT`` at each end, at the outer edge of the bin in which the cut falls."""
    counts = histogram.counts.copy()
    counts[BINS] += histogram.zeros
    beyond = (1 - KEPT) / 2 * counts.sum()
    up = np.cumsum(counts)
    first = int(np.searchsorted(up, beyond, side="right"))
    last = int(np.searchsorted(up, counts.sum() - beyond, side="left"))
    width = histogram.reach / BINS
    return (first - BINS) * width, (last + 1 - BINS) * width


def _by_entropy(histogram: Histogram, low: float, high: float, grid: str) -> float:
    counts = histogram.magnitudes().astype(np.float64)
    top = int(np.flatnonzero(counts)[-1]) + 1
    best, best_end = np.inf, top
    for end in _thresholds(_LEVELS, top):
        kept = counts[:end]
        clipped = kept.copy()
        clipped[-1] += counts[end:].sum()
        starts = np.arange(_LEVELS) * end // _LEVELS
        used = kept > 0
        level = np.add.reduceat(kept, starts) / np.maximum(np.add.reduceat(used, starts), 1)
        merged = np.repeat(level, np.diff(starts, append=end)) * used
        divergence = _divergence(clipped, merged)
        if divergence < best:
            best, best_end = divergence, end
    return best_end * histogram.reach / BINS


def _thresholds(least: int, top: int) -> Iterable[int]:
    """Return thresholds in bins; a tensor that fills fewer bins than there are levels keeps its whole range."""
    return np.unique(np.linspace(least, top, _THRESHOLDS).astype(int)) if top > least else [max(top, least)]


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    live = p > 0
    # the last bin may hold only clipped values: a small number keeps its divergence finite
    q = np.maximum(q[live], 1e-4)
    p, q = p[live] / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


def _by_error(histogram: Histogram, low: float, high: float, grid: str) -> float:
    used = np.flatnonzero(histogram.counts)
    centres = (used + 0.5 - BINS) * (histogram.reach / BINS)
    weight = histogram.counts[used].astype(np.float64)
    best, best_threshold = np.inf, max(-low, high)
    for share in np.linspace(1, 0.1, _THRESHOLDS):
        threshold = share * max(-low, high)
        kept = max(low, -threshold), min(high, threshold)
        error = float((weight * (rounded(centres, kept, grid) - centres) ** 2).sum())
        if error < best:
            best, best_threshold = error, threshold
    return best_threshold


def scale_of(kept: tuple[float, float], grid: str) -> float:
    """Return the step of the finest grid that covers a range."""
    low, high = kept
    return (high - low if grid == "u8" else max(-low, high)) / TOP[grid]


def rounded(values: np.ndarray, kept: tuple[float, float], grid: str) -> np.ndarray:
    """Round float64 values to a grid that covers the range ``kept``."""
    step = scale_of(kept, grid)
    if step == 0:
        return np.zeros_like(values)
    if grid == "e4m3":
        inside = np.clip(values / step, -TOP[grid], TOP[grid]).astype(np.float32)
        return inside.astype(helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)).astype(np.float64) * step
    if grid == "u8":
        zero = np.rint(-kept[0] / step)
        return (np.clip(np.rint(values / step) + zero, 0, TOP[grid]) - zero) * step
    return np.clip(np.rint(values / step), -TOP[grid], TOP[grid]) * step
