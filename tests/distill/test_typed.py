"""Values of JSON that are of another type than a record's field: said, not carried on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from kdc.distill.network_spec import NetworkSpec
from kdc.distill.preprocess import IMAGENET, Preprocess
from kdc.distill.run.records import Record


@dataclass(frozen=True)
class Inner(Record):
    n: int


@dataclass(frozen=True)
class Outer(Record):
    count: int = 0
    share: float | None = None
    name: str = ""
    on: bool = False
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, int] = (0, 0)
    rest: Sequence[str] = ()
    by_name: dict[str, list[float]] = field(default_factory=dict)
    inner: Inner | None = None
    many: list[Inner] = field(default_factory=list)
    whatever: Any = None


WHOLE = {"count": 3, "share": 1, "name": "x", "on": True, "kind": "b", "pair": [1, 2], "rest": ["a"]}
WHOLE |= {"by_name": {"a": [0.5, 1]}, "inner": {"n": 1}, "many": [{"n": 2}], "whatever": [{"a": None}]}


def test_a_whole_one_is_read() -> None:
    read = Outer.from_dict(WHOLE)
    assert (read.pair, read.inner, read.many, read.share) == ((1, 2), Inner(1), [Inner(2)], 1)
    assert Outer.from_dict(read.to_dict()) == read
    assert Outer.from_dict({"share": "inf"}).share == "inf"  # as a failed gate is written


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("count", value) for value in (1.5, True, "3", [], {})),
        *(("share", value) for value in ("0.5", False, [0.5], {})),
        *(("name", value) for value in (3, ["x"], {"x": 1}, True)),
        *(("on", value) for value in (1, "yes", [])),
        *(("kind", value) for value in ("c", 1, [])),
        *(("pair", value) for value in ([1], [1, 2, 3], [1, "2"], "12", {"a": 1}, 5)),
        *(("rest", value) for value in ("a", [1], {"a": 1})),
        *(("by_name", value) for value in ([], {"a": 1}, {"a": ["x"]}, {"a": [None]}, "a")),
        *(("inner", value) for value in ([], "x", 3, {"n": "1"}, {"n": []})),
        *(("many", value) for value in ({"n": 1}, [1], [{"n": None}, {"n": "x"}])),
    ],
)
def test_another_type_is_named(name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"expected|missing"):
        Outer.from_dict(WHOLE | {name: value})


@pytest.mark.parametrize(
    "change",
    [
        *({"mean": value} for value in (None, 1, "abc", [1, 2], [1, 2, "3"], [1, 2, float("nan")], {})),
        *({"std": value} for value in ([1, 1, 0], [1, 1, float("inf")], [[1], 1, 1])),
        *({"order": value} for value in ("grb", 1, None, [])),
        *({"bits": value} for value in ("8", 7, 17, 8.5, [])),
    ],
)
def test_how_images_are_prepared(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|accepted|finite|say"):
        Preprocess.from_dict(IMAGENET.to_dict() | change)


@pytest.mark.parametrize("change", [{"name": 3}, {"num_classes": "3"}, {"aux": 1}, {"preprocess": []}, {"heads": None}])
def test_networks(change: dict[str, Any]) -> None:
    whole = NetworkSpec("deeplabv3-r18", 3).to_dict()
    assert NetworkSpec.from_dict(whole) == NetworkSpec("deeplabv3-r18", 3)
    with pytest.raises(ValueError, match="expected"):
        NetworkSpec.from_dict(whole | change)
