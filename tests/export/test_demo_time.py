"""The demo says how long it takes: from steps that are really taken, and without touching what follows."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from kdc import cli
from kdc.distill import console
from kdc.distill.data import recipe
from kdc.distill.settings.config import Config, resolve
from kdc.export import demo
from kdc.export.demo_time import REST, SHOWING, expected_seconds


def config(network: str, iters: int) -> Config:
    small = {"train.batch": 2, "train.crop": (32, 64), "train.threads": torch.get_num_threads()}
    return resolve({"model.student": network, "train.iters": iters, **small}, layers=[recipe("builtin")])


def fake_clock(*steps: float) -> Iterator[float]:
    """Each network's warm-up takes 100 s, its second step what is given."""
    now = 0.0
    for seconds in steps:
        for passed in (100.0, seconds):
            yield now
            now += passed
            yield now


def test_the_time_is_that_of_all_steps_and_the_rest() -> None:
    ticks = fake_clock(0.5, 0.25)
    seconds, step = expected_seconds(config("pspnet-mv2_050", 10), config("pspnet-mv2_035", 8), ticks.__next__)
    assert step == 0.5
    assert seconds == pytest.approx((1 + REST) * (10 * 0.5 + 8 * 0.25 + 8 * (0.25 + SHOWING * 0.5)))
    assert next(ticks, None) is None  # two steps of each network, no more


def global_state() -> list[object]:
    legacy = np.random.get_state(legacy=False)["state"]["key"].tolist()  # noqa: NPY002 - the one that libraries may draw from
    return [torch.get_rng_state().tolist(), legacy, random.getstate(), list(console.notes)]


def test_nothing_is_drawn_or_noted() -> None:
    before = global_state()
    expected_seconds(config("pspnet-mv2_050", 1), config("pspnet-mv2_035", 1))
    assert global_state() == before


@pytest.mark.parametrize(("seconds", "said"), [(170.0, "about 3 minutes"), (20.0, "about 1 minute")])
def test_the_demo_says_it_before_its_first_step(
    seconds: float, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "expected_seconds", lambda *_: (seconds, 0.214))
    monkeypatch.setattr(demo, "run_job", stop)
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo()
    lines = capsys.readouterr().out.splitlines()
    assert f"{said} on this machine (one teacher step takes 0.21 s)" in lines[:2]


def test_a_dry_run_says_what_the_demo_would_do_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "expected_seconds", lambda *_: (170.0, 0.214))
    assert cli.run(["demo", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "about 3 minutes" in out and all(f"[{i}/8] {text}" in out for i, text in enumerate(demo.STEPS, 1))
    assert cli.run(["demo", "--dry-run", "--seed", "3", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["seed"] == 3 and plan["seconds"] == 170.0 and plan["steps"] == list(demo.STEPS)
    assert not [*tmp_path.iterdir()]
