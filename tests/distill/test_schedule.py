"""Schedules of weights and temperatures, and the learning rate."""

from pathlib import Path

import numpy as np
import pytest

from kdc.distill.errors import UsageError
from kdc.distill.schedule import Schedule, poly

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (2, {0: 2.0, 10**6: 2.0}),
        ("2.5", {0: 2.5, 7: 2.5}),
        ("linear(4,1,10)", {0: 4.0, 5: 2.5, 10: 1.0, 99: 1.0}),
        (" step( 0, 3 , 1e1 ) ", {0: 0.0, 9: 0.0, 10: 3.0}),
    ],
)
def test_values(text, expected):
    schedule = Schedule.parse(text)
    assert {step: schedule(step) for step in expected} == expected


@pytest.mark.parametrize(
    "bad", ["cosine(1,2,3)", "linear(1,2)", "linear(1,2,0)", "step(1,2,2.5)", "abc", True, None, [1]]
)
def test_refused(bad):
    with pytest.raises(UsageError, match="accepted are a number, linear"):
        Schedule.parse(bad)


def test_zero_means_zero_at_every_step():
    assert Schedule.parse(0).zero and Schedule.parse("linear(0,0,5)").zero
    assert not Schedule.parse("step(0,1,100)").zero and not Schedule.parse("linear(1,0,5)").zero


@pytest.mark.parametrize("text", ["3", "linear(4,1,1000)", "step(0,0.5,10)"])
def test_text_reads_back(text):
    assert str(Schedule.parse(text)) == text and Schedule.parse(str(Schedule.parse(text))) == Schedule.parse(text)


def test_poly_is_the_published_rate():
    golden = np.load(GOLDEN / "poly_lr.npz")
    rates = [poly(0.02, int(step), 40000) for step in golden["in_iteration"]]
    np.testing.assert_allclose(rates, golden["out_lr"], rtol=2e-6)


def test_warm_up_rises_to_the_poly_rate():
    rates = [poly(1.0, step, 100, warmup=4) for step in range(6)]
    assert rates[:5] == sorted(rates[:5]) and rates[0] == pytest.approx(0.2)
    assert rates[4:] == [poly(1.0, 4, 100), poly(1.0, 5, 100)]
