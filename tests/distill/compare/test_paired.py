"""The statistics of a comparison against printed tables, hand-computed numbers and a numerical integral."""

import math

import numpy as np
import pytest

from kdc.distill.compare.paired import Paired, holm, paired, t_quantile, t_within


@pytest.mark.parametrize(
    ("df", "two_sided_95", "two_sided_99"),
    [
        (1, 12.7062, 63.6567), (2, 4.3027, 9.9248), (3, 3.1824, 5.8409), (4, 2.7764, 4.6041), (5, 2.5706, 4.0321),
        (6, 2.4469, 3.7074), (9, 2.2622, 3.2498), (10, 2.2281, 3.1693), (30, 2.0423, 2.7500), (120, 1.9799, 2.6174),
    ],
)  # fmt: skip
def test_the_quantiles_are_those_of_printed_tables(df: int, two_sided_95: float, two_sided_99: float) -> None:
    assert t_quantile(0.975, df) == pytest.approx(two_sided_95, abs=5e-5)
    assert t_quantile(0.995, df) == pytest.approx(two_sided_99, abs=5e-5)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 8, 13, 40])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 2.5, 7.0])
def test_the_distribution_is_the_integral_of_its_density(df: int, t: float) -> None:
    constant = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    x = np.linspace(-t, t, 200_001)
    density = constant * (1 + x * x / df) ** (-(df + 1) / 2)
    assert t_within(t, df) == pytest.approx(float(np.trapezoid(density, x)), abs=1e-8)


def test_a_paired_comparison_by_hand() -> None:
    # differences 1, 2, 3: mean 2, sd 1, standard error 1 / sqrt 3, t = 2 sqrt 3, two degrees of freedom
    found = paired([1.0, 2.0, 3.0])
    assert found and (found.n, found.mean, found.sd) == (3, 2.0, 1.0)
    half = 4.302652729911275 / math.sqrt(3)
    assert found.low == pytest.approx(2 - half, abs=1e-9) and found.high == pytest.approx(2 + half, abs=1e-9)
    # with two degrees of freedom P(|T| > t) = 1 - t / sqrt(t^2 + 2), here t^2 = 12
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14), abs=1e-12)
    assert found.verdict == "not shown"


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.010, 0.011, 0.012], "gain"),
        ([-0.010, -0.011, -0.012], "loss"),
        ([0.010, -0.011, 0.012], "not shown"),
        ([0.010, 0.020], "not shown"),  # t of one degree of freedom is 12.7
        ([0.10], "not shown"),
        ([0.0, 0.0, 0.0], "not shown"),
        ([0.01, 0.01], "not shown"),
    ],
)
def test_nothing_whose_interval_holds_zero_is_a_gain(differences: list[float], verdict: str) -> None:
    found = paired(differences)
    assert found and found.verdict == verdict
    if found.low is not None and found.high is not None and found.p is not None:
        assert (found.p < 0.05) == (verdict != "not shown")  # the interval and the test are one


def test_an_interval_that_touches_zero_shows_nothing() -> None:
    assert Paired(3, 1.0, 0.4, 0.0, 2.0, 0.05).verdict == "not shown"


def test_one_difference_has_no_interval_and_none_no_result() -> None:
    assert paired([]) is None
    assert paired([0.25]) == Paired(1, 0.25, None, None, None, None)


def test_holm_by_hand() -> None:
    # sorted 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, each at least as large as the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
