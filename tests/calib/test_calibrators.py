"""Calibrators against what they mean, computed directly from the values."""

import ml_dtypes
import numpy as np
import pytest

from kdc.calib.calibrators import CALIBRATORS, KEPT, limits, ranges, rounded, scale_of
from kdc.calib.histograms import BINS, Histogram
from kdc.distill.errors import UsageError

RNG = np.random.default_rng(1)


def seen(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.add(values.astype(np.float32))
    return histogram


NORMAL = RNG.standard_normal(70_000)
RELU = np.maximum(RNG.standard_normal(70_000), 0)
OUTLIER = np.concatenate([RELU, [30.0]])


@pytest.mark.parametrize("values", [NORMAL, RELU, OUTLIER, -RELU, NORMAL + 3])
@pytest.mark.parametrize("grid", ["s8", "u8", "e4m3"])
def test_every_range_holds_zero_and_nothing_unseen(values: np.ndarray, grid: str) -> None:
    histogram = seen(values)
    for calibrator in CALIBRATORS if grid != "e4m3" else ("minmax", "percentile", "mse"):
        low, high = limits(histogram, calibrator, grid)
        assert min(histogram.low, 0) <= low <= 0 <= high <= max(histogram.high, 0) and low < high
        assert type(low) is type(high) is float


def test_minmax_is_what_was_seen() -> None:
    assert limits(seen(NORMAL), "minmax", "s8") == (NORMAL.astype(np.float32).min(), NORMAL.astype(np.float32).max())
    assert limits(seen(RELU + 1), "minmax", "u8")[0] == 0


@pytest.mark.parametrize("values", [NORMAL, RELU, OUTLIER])
def test_percentile_is_that_of_the_values_to_a_bin(values: np.ndarray) -> None:
    histogram = seen(values)
    beyond = 100 * (1 - KEPT) / 2
    width = histogram.reach / BINS
    # of the two values between which it falls
    below, above = np.percentile(values, (beyond, 100 - beyond), method="lower")
    low, high = limits(histogram, "percentile", "s8")
    nearest = np.abs(low - np.minimum(values, 0)).min(), np.abs(high - values).min()
    assert max(nearest) <= width
    assert (values < low).mean() <= beyond / 100 <= (values < low + 2 * width).mean() or below >= 0 == low
    assert (values > high).mean() <= beyond / 100 <= (values > high - 2 * width).mean() + 1 / values.size
    assert high >= above


@pytest.mark.parametrize("grid", ["s8", "u8", "e4m3"])
@pytest.mark.parametrize("values", [NORMAL, RELU, OUTLIER])
def test_mse_beats_or_ties_every_other_range(values: np.ndarray, grid: str) -> None:
    histogram = seen(values)

    def error(kept: tuple[float, float]) -> float:
        return float(((rounded(values, kept, grid) - values) ** 2).mean())

    own = error(limits(histogram, "mse", grid))
    for share in np.linspace(0.1, 1, 40):
        top = share * np.abs(values).max()
        kept = max(histogram.low, -top), min(histogram.high, top)
        assert own <= error((min(kept[0], 0.0), kept[1])) * 1.02


def test_entropy_is_the_smallest_divergence_and_cuts_an_outlier_off() -> None:
    low, high = limits(seen(OUTLIER), "entropy", "s8")
    assert low == 0 and 2 < high < 6
    assert limits(seen(RELU), "entropy", "s8")[1] == pytest.approx(high, abs=0.6)
    # uniform values lose by any clipping
    uniform = RNG.uniform(0, 1, 200_000)
    assert limits(seen(uniform), "entropy", "s8")[1] > 0.97


def test_entropy_of_few_levels_keeps_them_all() -> None:
    assert limits(seen(np.array([0.0, 1e-3, 2.0])), "entropy", "s8")[1] == 2.0
    assert limits(seen(np.zeros(3)), "entropy", "s8") == (0.0, 0.0)


def test_grids_round_as_the_hardware_does() -> None:
    kept = (-2.0, 4.0)
    values = np.array([-5, -2, -1.01, 0, 0.5, 3.99, 9.0])
    s8 = np.clip(np.rint(values / (4 / 127)), -127, 127) * (4 / 127)
    np.testing.assert_allclose(rounded(values, kept, "s8"), s8, rtol=1e-12)
    step = 6 / 255
    u8 = (np.clip(np.rint(values / step) + 85, 0, 255) - 85) * step
    np.testing.assert_allclose(rounded(values, kept, "u8"), u8, rtol=1e-12)
    scale = 4 / 448
    f8 = np.clip(values / scale, -448, 448).astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(float) * scale
    np.testing.assert_allclose(rounded(values, kept, "e4m3"), f8, rtol=1e-12)
    for grid in ("s8", "u8", "e4m3"):
        assert rounded(np.zeros(1), kept, grid) == 0, "zero is exact: it pads"
        assert scale_of(kept, grid) > 0
    assert rounded(values, (0.0, 0.0), "s8").tolist() == [0] * 7


def test_what_it_refuses() -> None:
    with pytest.raises(UsageError, match=r"'minmx' is not known.*did you mean 'minmax'"):
        ranges({}, "minmx", "s8")
    with pytest.raises(UsageError, match="entropy needs equal steps"):
        ranges({}, "entropy", "e4m3")
