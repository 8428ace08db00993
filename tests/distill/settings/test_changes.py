"""Edited settings of a run: which are taken on resume, which are refused, and that the advised cure is accepted."""

import re

import pytest

from kdc.distill.errors import UsageError
from kdc.distill.settings.changes import changes, described, resumed
from kdc.distill.settings.config import Config, resolve

BEGAN = {"train.lr": 0.02, "method.name": "kt", "method.kt.T": 2.0, "data.classes": ["a", "b"]}


def edited(**keys: object) -> Config:
    return resolve({**BEGAN, **{key.replace("__", "."): value for key, value in keys.items()}})


def test_changes_name_keys_at_any_depth_with_both_values() -> None:
    found = changes(edited(), edited(method__kt__T=3.0, train__crop=(64, 96), gates__int8__agreement=0.5))
    assert found == {
        "method.kt.T": (2.0, 3.0),
        "train.crop": ([512, 512], [64, 96]),
        "gates.int8.agreement": (0.99, 0.5),
    }
    assert "method.kt.T (2.0, now 3.0)" in described(found)
    assert changes(edited(), edited()) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [("train.workers", 3), ("train.save_every", 7), ("train.log_every", 2), ("gates.fp16.agreement", 0.9)],
)
def test_harmless_edits_are_taken(key: str, value: float) -> None:
    assert changes(edited(), resumed(edited(), resolve({**BEGAN, key: value}), [])).keys() == {key}


@pytest.mark.parametrize(("key", "value"), [("train.lr", 0.5), ("method.kt.T", 3.0), ("task.aux_weight", 0.1)])
def test_other_edits_are_refused_until_they_are_repeated_as_the_message_says(key: str, value: float) -> None:
    other = resolve({**BEGAN, key: value})
    with pytest.raises(UsageError, match=re.escape(f"{key} (")) as refused:
        resumed(edited(), other, [])
    repeated = str(refused.value).rpartition("--set ")[2]
    assert resumed(edited(), other, [repeated]) == other


def test_what_is_asked_for_without_an_edit_is_taken() -> None:
    assert resumed(edited(), edited(), ["train.lr=0.1"]) == edited(train__lr=0.1)


@pytest.mark.parametrize("text", ["model.student=pspnet-mv2", "data.source=x", "method.name=kd"])
def test_another_network_data_set_or_method_is_another_run(text: str) -> None:
    with pytest.raises(UsageError, match="cannot change within a run"):
        resumed(edited(), edited(), [text])
    key, _, value = text.partition("=")
    with pytest.raises(UsageError):
        resumed(edited(), resolve({**BEGAN, key: value}), [])
