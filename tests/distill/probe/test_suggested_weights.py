"""The advice of a probe: the weight that its rule gives, in a form that can be typed, the furthest off first."""

import pytest

from kdc.distill.probe.records import Term
from kdc.distill.probe.suggested_weights import advise
from kdc.distill.settings.config import resolve


def term(
    name: str = "m.a",
    weight: float = 1.0,
    ratio: float = 1.0,
    cosine: float | None = 0.5,
    constant: bool = True,
    untrained: str | None = None,
) -> Term:
    """Return a term whose unweighted value and gradient are 1."""
    return Term(
        term=name,
        value=1.0,
        value_spread=0.0,
        weight=weight,
        schedule=str(weight),
        constant=constant,
        weighted=weight,
        norm=1.0,
        ratio=ratio,
        share=weight * ratio,
        share_spread=0.0,
        cosine=cosine,
        cosine_spread=None if cosine is None else 0.0,
        untrained=untrained,
    )


@pytest.mark.parametrize(
    ("gradient", "suggested", "setting"),
    [
        (term(ratio=0.01), 100, "method.m.a=100"),
        (term(ratio=0.01, cosine=0.0), 50, "method.m.a=50"),
        (term(ratio=4, cosine=-0.5), 0.05, "method.m.a=0.05"),
        (term(ratio=0.3, weight=1e-4), 3.3, "method.m.a=3.3"),
        (term(ratio=2e-7), 5e6, "method.m.a=5e+06"),
        (term(ratio=0.6), 1.0, None),
        (term(ratio=1.9), 1.0, None),
        (term(ratio=0, cosine=None), None, None),
        (term(ratio=0.01, untrained="its critic"), None, None),
        (term(ratio=0.01, constant=False), 100, None),
    ],
)
def test_advice(gradient: Term, suggested: float | None, setting: str | None) -> None:
    (advice,) = advise([gradient])
    assert advice.suggested == (None if suggested is None else pytest.approx(suggested))
    assert advice.setting == setting and advice.share == pytest.approx(gradient.weight * gradient.ratio)
    if setting:  # the text is one that the configuration reads as a number
        value = resolve({}, [setting]).method.settings()["m"]["a"]
        assert float(value) == pytest.approx(suggested)


def test_a_schedule_is_scaled_rather_than_replaced() -> None:
    assert "scale the schedule by 25" in advise([term(ratio=0.02, weight=2, constant=False)])[0].why
    assert "it begins at 0" in advise([term(ratio=0.02, weight=0, constant=False)])[0].why


def test_the_furthest_off_comes_first() -> None:
    terms = [term("m.near", ratio=1), term("m.far", ratio=1e-3), term("m.high", ratio=20), term("m.none", cosine=None)]
    assert [advice.term for advice in advise(terms)] == ["m.far", "m.high", "m.near", "m.none"]
