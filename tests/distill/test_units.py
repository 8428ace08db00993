"""Numbers with units: the prefix suits the value, rounding never shows a thousand, nothing has a thousand twice."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdc.distill import units


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (1757.12, "1.76 s"),
        (999.6, "1 s"),
        (999.4, "999 ms"),
        (8.25, "8.25 ms"),
        (104.49, "104 ms"),
        (0.0314, "31.4 \u00b5s"),
        (0.0, "0 s"),
        (585000.0, "585 s"),
        (12_345_678.0, "12,346 s"),
    ],
)
def test_times(ms: float, text: str) -> None:
    assert units.milliseconds(ms) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 seconds"), (45, "45 seconds"), (119, "119 seconds"), (192, "3.2 minutes"), (9000, "2.5 hours")],
)
def test_waits(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("bytes_", "text"), [(1_600_000, "1.6 MB"), (512, "512 B"), (3_200, "3.2 kB"), (999_999, "1 MB"), (2.5e9, "2.5 GB")]
)
def test_sizes(bytes_: float, text: str) -> None:
    assert units.file_size(bytes_) == text


@pytest.mark.parametrize(
    ("mib", "text"), [(133.4, "133 MiB"), (1023.6, "1 GiB"), (1239, "1.21 GiB"), (0.25, "0.25 MiB"), (0, "0 MiB")]
)
def test_memory(mib: float, text: str) -> None:
    assert units.mebibytes(mib) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(24, "24"), (5524, "5.524 k"), (5_819_000, "5.819 M"), (384.44e9, "384.4 G"), (0, "0"), (0.5, "0.5")],
)
def test_counts(value: float, text: str) -> None:
    assert units.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1,234"), (12.345, "12.3"), (0.25, "0.25"), (3, "3"), (100, "100"), (-0.5, "\u22120.5"), (2e-5, "2e-05")],
)
def test_numbers(value: float, text: str) -> None:
    assert units.number(value) == text
    assert units.number(math.inf) == "inf" and units.number(-math.inf) == "\u2212inf"


def test_shares_and_changes() -> None:
    assert units.percent(0.61204) == "61.20" and units.percent(0.5, 1) == "50.0"
    assert [units.points(each) for each in (0.0123, -0.0123, 0.00001, -0.00001)] == [
        "+1.23",
        "\u22121.23",
        "0.00",
        "0.00",
    ]


@given(st.floats(1e-12, 1e15), st.sampled_from(["s", "B", ""]))
def test_a_quantity_is_within_rounding_and_has_at_most_one_prefix(value: float, unit: str) -> None:
    text = units.quantity(value, unit)
    digits, _, suffix = text.partition(" ")
    factor = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "m": 1e-3, "\u00b5": 1e-6, "n": 1e-9}.get(
        suffix.removesuffix(unit), 1.0
    )
    shown = float(digits.replace(",", ""))
    assert shown * factor == pytest.approx(value, rel=0.006)
    assert shown < 1000 or unit == "s" or factor == 1e12
