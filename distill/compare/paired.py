"""Paired comparisons of a few runs: Student's t interval and test of the differences, and Holm's correction.

The t distribution with a whole number of degrees of freedom is a finite sum (Abramowitz and Stegun 26.7.3 and 26.7.4).
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

#: of every interval
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Paired:
    """Differences of the same quantity between two treatments of the same seeds, in the unit of the differences."""

    n: int
    mean: float
    #: over n - 1; None of one difference, as are the interval and the p-value
    sd: float | None
    low: float | None
    high: float | None
    #: two-sided, of the mean being 0
    p: float | None

    @property
    def verdict(self) -> str:
        """``gain`` or ``loss`` where the interval leaves out 0, else ``not shown``, as without any spread."""
        if not self.sd or self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "not shown"
        return "gain" if self.mean > 0 else "loss"


def paired(differences: Sequence[float]) -> Paired | None:
    """Return mean, standard deviation, 95 % interval and p-value of the differences; None of an empty list."""
    n = len(differences)
    if n == 0:
        return None
    mean = statistics.fmean(differences)
    if n == 1:
        return Paired(1, mean, None, None, None, None)
    sd = statistics.stdev(differences)
    error = sd / math.sqrt(n)
    half = t_quantile(0.5 + CONFIDENCE / 2, n - 1) * error
    # without any spread there is no estimate of chance
    p = 1 - t_within(abs(mean) / error, n - 1) if error else 1.0
    return Paired(n, mean, sd, mean - half, mean + half, p)


def t_within(t: float, df: int) -> float:
    """Return P(-t <= T <= t) of Student's t with ``df`` degrees of freedom, at least 1; ``t`` is not negative."""
    theta = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = df % 2
    # sum of cos^k with coefficients 1, 2/3, 2/3 4/5, ... (odd df) or 1, 1/2, 1/2 3/4, ... (even df)
    term = total = (cosine if odd else 1.0) if df > 1 else 0.0
    for k in range(2 + odd, df, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (theta + sine * total) if odd else sine * total


def t_quantile(p: float, df: int) -> float:
    """Return the ``t`` that Student's t stays below with probability ``p``, which is between 0.5 and 1."""
    within = 2 * p - 1
    high = 1.0
    while t_within(high, df) < within:
        high *= 2
    low = 0.0
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, df) < within else (low, middle)
    return (low + high) / 2


def holm(values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values, in the order given: each valid whatever the others' truth."""
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, i in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = largest
    return adjusted
