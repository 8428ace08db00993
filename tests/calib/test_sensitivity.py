"""The block that quantisation breaks is found, and left high; calibrators are told apart on images held out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdc.calib import effort
from kdc.calib.calibration import Calibration, Pictures
from kdc.calib.heldout import HeldOut, Outcome, held_out
from kdc.calib.low_precision import Form, LowPrecisionWriter
from kdc.calib.onnx_graph import groups, resolve
from kdc.calib.sensitivity import best, compare, rescue
from kdc.deploy.runtimes.open import open_runtime
from kdc.distill import console
from kdc.distill.data import open_data
from kdc.distill.errors import DataError

OPTIONS = {"size": [32, 64], "count": 8, "val_count": 2, "seed": 0}


def writer_of(path: Path, form: Form, count: int = 4) -> tuple[LowPrecisionWriter, HeldOut]:
    data = open_data("builtin", "train", **OPTIONS)
    writer = LowPrecisionWriter(form, Calibration(path, Pictures(data, list(range(count)))))
    with open_runtime(path) as reference:
        return writer, HeldOut(reference, data, held_out(data, range(count), 4))


@pytest.fixture
def fragile(tmp_path: Path, network: Any) -> Path:
    """A network whose first block gives one channel a thousand times the others' range, and takes it away again."""
    rng = np.random.default_rng(3)
    first, second = (rng.standard_normal((16, 16, 3, 3)).astype(np.float32) / 12 for _ in range(2))
    first[5] *= 1000
    second[:, 5] /= 1000
    weights = {"model__layer1__0__conv1__weight": first, "model__layer1__0__conv2__weight": second}
    return network(tmp_path / "m.onnx", **weights)


@pytest.mark.parametrize("form", [Form("int8", "trt"), Form("int8", "trt", "fp16"), Form("int8", "ort")])
def test_the_block_that_breaks_is_rescued(fragile: Path, form: Form, capsys: pytest.CaptureFixture[str]) -> None:
    writer, images = writer_of(fragile, form)
    found = rescue(writer, images, agreement=0.985, drop=None, calibrator="minmax")
    assert found.everything.agreement < 0.985, "nothing to rescue"
    assert found.costs[0].group == "layer1.0" and found.costs[0].agreement > 1
    assert found.rescued[0] == "layer1.0" and found.holds
    assert [each.agreement for each in found.steps][-1] >= 0.985
    assert {each.group for each in found.costs} == {"stem", "layer1.0", "layer2.0", "head.project"}
    assert found.costs == sorted(found.costs, key=lambda each: -each.cost)
    out = " ".join(capsys.readouterr().out.split())
    assert f"left in {form.high}" in out and "what leaving one group high wins back" in out
    kept = resolve(writer.model.graph, ["layer1.0"])
    assert writer.score(images, calibrator="minmax", keep=kept) == found.steps[0]
    assert found.to_dict()["costs"][0]["group"] == "layer1.0"


class Slow(LowPrecisionWriter):
    """A writer on a slow machine: a pass takes 2 s, and 1 s for each image, by a clock that only this moves."""

    def __init__(self, writer: LowPrecisionWriter, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(writer.form, writer.calibration)
        self.now, self.passes = 0.0, 0
        monkeypatch.setattr(console, "clock", lambda: self.now)

    def score(self, images: HeldOut, *, calibrator: str = "mse", keep: Sequence[str] = ()) -> Outcome:
        self.now += 2 + len(images)
        self.passes += 1
        return super().score(images, calibrator=calibrator, keep=keep)


def test_a_short_time_is_kept_by_fewer_images_and_groups_and_said(
    fragile: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, images = writer_of(fragile, Form("int8", "ort"))
    images = images.some(2)
    monkeypatch.setattr(effort, "LEAST_IMAGES", 1)
    monkeypatch.setattr(effort, "LEAST_GROUPS", 2)
    limits: dict[str, Any] = {"agreement": 1.0, "drop": None, "calibrator": "minmax"}

    slow = Slow(writer, monkeypatch)
    found = rescue(slow, images, **limits, minutes=0.25)
    plan = found.effort
    assert (plan.images, plan.images_of, plan.groups, plan.blocks, plan.whole) == (1, 2, 3, 4, False)
    assert slow.now <= 3 + 3 + 4 + 0.25 * 60, "the passes that are timed, and those that there is time for"
    assert {block for each in found.costs for block in each.blocks} == set(groups(writer.model.graph))
    pair = next(each for each in found.costs if len(each.blocks) == 2)
    assert pair.group == " to ".join(pair.blocks)
    assert len(resolve(writer.model.graph, pair.blocks)) == pair.nodes
    said = " ".join(capsys.readouterr().out.split())
    assert "sensitivity: 4 blocks, each left high once on 2 images" in said and "about 20 seconds" in said
    assert "! that is too much for --budget 0.25: measured on 1 of 2 images, 4 blocks in 3 groups" in said

    enough = int(said.partition("all of it takes --budget ")[2].split()[0])
    assert rescue(Slow(writer, monkeypatch), images, **limits, minutes=enough).effort.whole
    assert "too much" not in capsys.readouterr().out


def test_tries_that_there_is_no_time_for_are_said(
    fragile: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, images = writer_of(fragile, Form("int8", "ort"))
    limits: dict[str, Any] = {"agreement": 1.0, "drop": None, "calibrator": "minmax"}
    slow = Slow(writer, monkeypatch)
    assert not rescue(slow, images, **limits, minutes=0.7).holds
    assert slow.passes == 3 + 1 + 4 + 2
    said = capsys.readouterr().out
    assert "the time is up before all groups were tried; more: --budget 2" in said
    rescue(Slow(writer, monkeypatch), images, **limits, minutes=2)
    assert "the time is up" not in capsys.readouterr().out


def test_limits_that_hold_cost_nothing_and_those_that_cannot_are_said(
    tmp_path: Path, network: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    writer, images = writer_of(network(tmp_path / "m.onnx"), Form("int8", "ort"))
    fine = rescue(writer, images, agreement=0.5, drop=50, calibrator="mse", keep=["stem", "stem_relu", "pool"])
    assert (fine.rescued, fine.steps, fine.holds) == ([], [], True)
    assert "stem" not in {each.group for each in fine.costs}, "what is kept anyway is not measured"
    never = rescue(writer, images, agreement=1.0, drop=-100, calibrator="mse")
    assert never.rescued and not never.holds
    agreements = [each.agreement for each in (never.everything, *never.steps)]
    assert agreements[-1] > agreements[0] and agreements[-1] > 0.99
    assert "THE LIMITS STILL DO NOT HOLD" in capsys.readouterr().out


def test_calibrators_are_compared_and_the_best_is_named(
    tmp_path: Path, network: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    writer, images = writer_of(network(tmp_path / "m.onnx"), Form("int8", "trt"))
    found = compare(writer, images)
    assert list(found) == ["minmax", "entropy", "percentile", "mse"]
    assert found[best(found)].agreement == max(each.agreement for each in found.values())
    assert len({each.agreement for each in found.values()}) > 1
    out = capsys.readouterr().out
    assert "calibrators for int8 on trt, 4 held-out images" in out and all(name in out for name in found)
    fp8, images = writer_of(network(tmp_path / "m.onnx"), Form("fp8", "trt"))
    assert list(compare(fp8, images)) == ["minmax", "percentile", "mse"]


def test_images_that_are_held_out(capsys: pytest.CaptureFixture[str]) -> None:
    data = open_data("builtin", "train", **OPTIONS)
    drawn = held_out(data, [0, 1, 2], 3)
    assert len(drawn) == 3 and not {0, 1, 2} & set(drawn) and drawn == held_out(data, [0, 1, 2], 3)
    assert len(held_out(data, range(6), 4)) == 2
    assert "only 2 images are left" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"takes all 8 images of builtin train;.*--images 4 leaves some"):
        held_out(data, range(8), 4)


def test_outcomes() -> None:
    good, unlabelled = Outcome(0.99, 0.5, 0.2), Outcome(0.99, None, None)
    assert good.short_of(0.99, 0.2) == good.short_of(0.9, None) == unlabelled.short_of(0.99, 0.0) == 0
    assert good.short_of(0.991, 0.2) == pytest.approx(0.1) and good.short_of(0.991, 0.1) == pytest.approx(0.2)
    assert (good.cells, unlabelled.cells) == (["99.000", "50.00", "+0.20"], ["99.000", "-", "-"])
