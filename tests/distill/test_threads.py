"""The user's own number of threads is kept where no flag says another."""

import pytest
import torch

from kdc.distill.settings.config import resolve
from kdc.distill.threads import asked_threads
from kdc.distill.training.devices import launch


@pytest.mark.parametrize(("text", "number"), [("3", 3), ("", None), ("0", None), ("4,2", None), ("many", None)])
def test_only_a_number_is_one(text: str, number: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert asked_threads() == number


def test_training_takes_it_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = torch.get_num_threads()
    try:
        launch(resolve({}))
        assert torch.get_num_threads() == 3
        launch(resolve({"train.threads": 2}))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
