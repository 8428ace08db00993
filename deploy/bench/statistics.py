"""What latency samples say: percentiles, and ratios with their uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...distill.run.records import Record

RESAMPLES = 1000


@dataclass(frozen=True)
class Percentiles(Record):
    """Milliseconds of ``n`` runs, and their coefficient of variation ``cv``."""

    p50: float
    p90: float
    p95: float
    p99: float
    min: float
    mean: float
    cv: float
    n: int


@dataclass(frozen=True)
class PartTimes(Record):
    """Median and 95th percentile of a part of a query, in milliseconds."""

    p50: float
    p95: float


@dataclass(frozen=True)
class Ratio(Record):
    """How many times faster a row is than the row ``to``, with a 95 % bootstrap interval."""

    to: str
    value: float
    low: float
    high: float


def percentiles(samples: Sequence[Sequence[float]]) -> Percentiles:
    """Summarise the turns of one backend."""
    pooled = np.concatenate([np.asarray(turn, np.float64) for turn in samples])
    p50, p90, p95, p99 = (round(float(v), 4) for v in np.percentile(pooled, (50, 90, 95, 99)))
    mean = float(pooled.mean())
    cv = round(float(pooled.std()) / mean, 4)
    return Percentiles(p50, p90, p95, p99, round(float(pooled.min()), 4), round(mean, 4), cv, pooled.size)


def parts_summary(parts: dict[str, list[float]]) -> dict[str, PartTimes]:
    """Summarise the parts of a query."""
    pairs = {name: np.percentile(np.asarray(values), (50, 95)) for name, values in parts.items()}
    return {name: PartTimes(round(float(p50), 4), round(float(p95), 4)) for name, (p50, p95) in pairs.items()}


def ratio(to: str, first: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> Ratio:
    """Compare the turns of ``other`` with those of ``first``, whose row is called ``to``.

    The median over rounds of (median of ``first`` / median of ``other``) within the round: what slows a whole round
    down slows both sides of its ratio. Rounds are what is redrawn, since samples of one round are alike.
    """
    speeds = np.array([np.median(a) / np.median(b) for a, b in zip(first, other, strict=True)])
    drawn = np.random.default_rng(0).integers(0, len(speeds), (RESAMPLES, len(speeds)))
    low, high = np.percentile(np.median(speeds[drawn], axis=1), (2.5, 97.5))
    return Ratio(to, round(float(np.median(speeds)), 3), round(float(low), 3), round(float(high), 3))
