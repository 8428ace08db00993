"""The advice of a probe: the weight that its rule gives, in a form that can be typed, the furthest off first."""

import pytest

from kdc.distill.probe.suggested_weights import Felt, advise
from kdc.distill.settings.config import resolve


def felt(term: str = "m.a", weight: float = 1.0, ratio: float = 1.0, cosine: float | None = 0.5, **more) -> Felt:
    return Felt(term, weight, more.pop("constant", True), ratio, cosine, **more)


@pytest.mark.parametrize(
    ("given", "suggested", "setting"),
    [
        (felt(ratio=0.01), 100, "method.m.a=100"),
        (felt(ratio=0.01, cosine=0.0), 50, "method.m.a=50"),
        (felt(ratio=4, cosine=-0.5), 0.05, "method.m.a=0.05"),
        (felt(ratio=0.3, weight=1e-4), 3.3, "method.m.a=3.3"),
        (felt(ratio=2e-7), 5e6, "method.m.a=5e+06"),
        (felt(ratio=0.6), 1.0, None),
        (felt(ratio=1.9), 1.0, None),
        (felt(ratio=0, cosine=None), None, None),
        (felt(ratio=0.01, untrained="its critic"), None, None),
        (felt(ratio=0.01, constant=False), 100, None),
    ],
)
def test_advice(given: Felt, suggested: float | None, setting: str | None) -> None:
    (advice,) = advise([given])
    assert advice.suggested == (None if suggested is None else pytest.approx(suggested))
    assert advice.setting == setting and advice.share == pytest.approx(given.weight * given.ratio)
    if setting:  # the text is one that the configuration reads as a number
        value = resolve({}, [setting]).method.settings()["m"]["a"]
        assert float(value) == pytest.approx(suggested)


def test_a_schedule_is_scaled_rather_than_replaced() -> None:
    assert "scale the schedule by 25" in advise([felt(ratio=0.02, weight=2, constant=False)])[0].why
    assert "it begins at 0" in advise([felt(ratio=0.02, weight=0, constant=False)])[0].why


def test_the_furthest_off_comes_first() -> None:
    terms = [felt("m.near", ratio=1), felt("m.far", ratio=1e-3), felt("m.high", ratio=20), felt("m.none", cosine=None)]
    assert [advice.term for advice in advise(terms)] == ["m.far", "m.high", "m.near", "m.none"]
