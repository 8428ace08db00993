"""Activation maps: the right number at the right place, of the right network, beside further runs; magnitude plots."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from kdc import cli
from kdc.deploy.report.activations import activation, activations, default_tap, heat, legend
from kdc.deploy.report.charts import charts
from kdc.deploy.report.records import read_lines
from kdc.deploy.report.report import collect
from kdc.distill import models
from kdc.distill.data import open_data
from kdc.distill.errors import UsageError
from kdc.distill.output import Output
from kdc.distill.run.checkpoint import save_student
from kdc.distill.run.folder import Run
from kdc.distill.settings.config import Config, resolve

SIZE = (48, 96)


@pytest.fixture(scope="module")
def data():
    return open_data("builtin", "val", size=SIZE, val_count=4)


def network(seed: int, name: str = "pspnet-mv2_035"):
    return models.build(name, 11, seed=seed).eval()


def make_run(root: Path, name: str, seed: int, **card: Any) -> Run:
    """Leave what a finished run leaves, with random weights."""
    student = network(seed)
    options = {"size": SIZE, "val_count": 4}
    train = open_data("builtin", "train", **options)
    source = {"name": "builtin", "source": "builtin", "options": train.options, "fingerprint": train.fingerprint()}
    source |= {"classes": list(train.classes), "palette": [list(c) for c in train.palette], "num_classes": 11}
    values = {"kind": "distill", "status": "finished", "data": source, "student": student.spec().to_dict()} | card
    settings = {f"data.{key}": value for key, value in options.items()} | {"method.name": values.get("method", "none")}
    run = Run.create(name, resolve(settings), out=root / name, **values)
    save_student(run.checkpoints / "best.safetensors", student, {})
    run.unlock()
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    root = tmp_path_factory.mktemp("runs")
    alone = make_run(root, "alone", 1, kind="train", method=None)
    made = {"first": make_run(root, "first", 2, method="lad+kd", baseline=str(alone.path)), "alone": alone}
    return made | {name: make_run(root, name, seed, method="cad") for name, seed in (("second", 3), ("third", 4))}


def picture(uri: str) -> np.ndarray:
    found = cv2.imdecode(np.frombuffer(base64.b64decode(uri.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    assert found is not None
    return cv2.cvtColor(found, cv2.COLOR_BGR2RGB)


def test_a_map_is_the_mean_square_over_channels_spread_over_0_to_1() -> None:
    feature = torch.tensor([[[[1.0, 2.0]], [[3.0, -4.0]]]])  # mean squares 5 and 10
    other = torch.tensor([[[[2.0, 0.0, 1.0]]]])  # 4, 0, 1
    output = Output(torch.zeros(1, 2, 1, 2), features={"dec": feature, "bb": other, "bb3": torch.full((1, 3, 2, 2), 7)})
    assert activation(output, "dec").tolist() == [[0, 1]]
    assert activation(output, "bb").tolist() == [[1, 0, 0.25]]
    assert activation(output, "bb3").tolist() == [[0, 0], [0, 0]]  # nowhere more than elsewhere
    assert activation(Output(torch.ones(1, 2, 3, 4)), "logits").shape == (3, 4)


def test_heat_lies_where_the_feature_is() -> None:
    image = np.full((40, 80, 3), 128, np.uint8)
    values = np.zeros((4, 8), np.float32)
    values[1, 6] = 1.0
    shown = heat(image, values)
    assert shown.shape == image.shape and shown.dtype == np.uint8
    bright = cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY).astype(int)
    y, x = np.unravel_index(bright.argmax(), bright.shape)
    assert 10 <= y < 20 and 60 <= x < 70
    assert bright.max() - bright.min() > 100
    ramp = heat(np.zeros((1, 256, 3), np.uint8), np.linspace(0, 1, 256, dtype=np.float32)[None])
    assert (np.diff(cv2.cvtColor(ramp, cv2.COLOR_RGB2LAB)[0, :, 0].astype(int)) >= -1).all()
    # what is in the image is seen through the map
    assert (heat(np.full_like(image, 255), values).astype(int) > shown).all()


def test_the_legend_goes_from_the_lowest_to_the_highest_colour() -> None:
    stops = [bytes.fromhex(colour) for colour in re.findall("#([0-9a-f]{6})", legend())]
    assert legend().startswith("linear-gradient(90deg, #000004, #420a68, ") and legend().endswith(", #fcffa4)")
    assert len(stops) == 6 and sum(stops[0]) < 10 and sum(stops[-1]) > 600


@pytest.mark.parametrize(
    ("settings", "tap"),
    [
        ({"method.name": "lad"}, "bb"),
        ({"method.name": "kd+cad"}, "bb"),
        ({"method.name": "cwd+kd"}, "dec"),
        ({"method.name": "lad", "method.lad.at": "dec"}, "dec"),
        ({"method.name": "pad", "method.pad.at": "logits"}, "logits"),
        ({"method.name": "kt"}, "dec"),
        ({"method.name": "kd"}, "dec"),
        ({"method.name": "none"}, "dec"),
    ],
)
def test_the_tap_that_the_method_compares(settings: dict[str, str], tap: str) -> None:
    assert default_tap(resolve(settings).method) == tap


def test_every_network_has_its_own_map(data) -> None:
    nets = {"teacher": network(5, "deeplabv3-mv2_050"), "after": network(2)}
    names = {"teacher": "the teacher", "before": "alone", "after": "distilled"}
    (strip,) = activations(data, [(2, "typical")], nets, names, "bb")
    assert (strip.index, strip.why, strip.key) == (2, "typical", data.key(2))
    assert [panel.name for panel in strip.panels] == ["image", "truth", *names.values()]
    assert strip.panels[3].uri is None
    image = data.read(2)[0]
    for role, panel in (("teacher", strip.panels[2]), ("after", strip.panels[4])):
        with torch.no_grad():
            values = nets[role](torch.from_numpy(image).permute(2, 0, 1)[None]).tap("bb")[0].square().mean(0).numpy()
        expected = heat(image, (values - values.min()) / (values.max() - values.min()))
        assert panel.uri
        assert np.abs(picture(panel.uri).astype(int) - expected).mean() < 6  # JPEG
        assert not nets[role]._forward_hooks
    assert strip.panels[2].uri != strip.panels[4].uri


def test_a_tap_that_one_lacks_and_one_that_all_lack(data) -> None:
    nets = {"teacher": network(5, "pspnet-r18"), "after": network(2)}  # MobileNets have no auxiliary head
    (strip,) = activations(data, [(0, "typical")], nets, {"teacher": "t", "after": "s"}, "aux")
    assert strip.panels[2].uri and strip.panels[3].uri is None
    with pytest.raises(UsageError, match=r"--features ear: .*there are .*bb, .*logits.*RUN is named before"):
        activations(data, [(0, "typical")], nets, {"teacher": "t", "after": "s"}, "ear")


def test_further_runs_stand_beside_the_run(runs: dict[str, Run]) -> None:
    page = collect(runs["first"], features="", others=[runs["second"], runs["third"], runs["alone"]])
    assert page.tap == "bb"
    further = {"cad": "second", "cad, third": "third", "trained alone": "alone"}
    assert page.further == further
    for strip, maps in zip(page.strips, page.maps, strict=True):
        assert (strip.index, strip.why) == (maps.index, maps.why)
        roles = ["teacher", "student alone", "distilled", *further]
        assert [panel.name for panel in strip.panels] == ["image", "truth", *roles, "errors"]
        assert [panel.name for panel in maps.panels] == ["image", "truth", *roles]
        shown = {panel.name: panel.uri for panel in maps.panels}
        assert shown["trained alone"] == shown["student alone"] and shown["teacher"] is None
        assert len({shown[name] for name in ("distilled", "cad", "cad, third", "trained alone")}) == 4
        assert all(panel.score is not None for panel in strip.panels if panel.name in further)
    bare = collect(runs["first"])
    assert bare.further == {} and bare.maps == []
    assert collect(runs["alone"], features="", others=[runs["second"]]).strips[0].panels[3].name == "cad"


def test_other_data_is_refused(runs: dict[str, Run], tmp_path: Path) -> None:
    other = make_run(tmp_path, "other", 5, method="kd")
    other.record(data=other.card.data.to_dict() | {"fingerprint": "another"})
    with pytest.raises(UsageError, match="--with other: it was trained on other data than first"):
        collect(runs["first"], others=[other])


def test_the_command(runs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (str(runs[name].path) for name in ("first", "second"))
    assert cli.run(["report", first, "--features", "--with", second, "--json"]) == 0
    page = Path(json.loads(capsys.readouterr().out)["path"]).read_text()
    assert "Where the feature bb is active" in page and "cad is second" in page and "linear-gradient" in page
    assert len(page) < 2_000_000
    assert cli.run(["report", first, "--features", "dec"]) == 0
    page = Path(runs["first"].path / "report.html").read_text()
    assert "Where the feature dec is active" in page and "Further networks" not in page
    assert cli.run(["report", first]) == 0
    assert "is active" not in Path(runs["first"].path / "report.html").read_text()
    assert cli.run(["report", first, "--features", "ear"]) == 2
    assert "no network of this run has that tap" in capsys.readouterr().err


def test_magnitudes_are_plotted_over_the_steps(tmp_path: Path) -> None:
    run = Run.create("run", Config(), out=tmp_path / "run")
    lines: list[dict[str, Any]] = [{"step": 5, "stage": "coder", "loss": 1.0, "features": {}}]
    for step in (1, 10, 20):
        features = {"lad": {"m": 100.0, "n": 50.0 + step, "mn/N": 0.5 + step / 100}, "cwd": {"m": 3, "n": 2, "mn/N": 1}}
        lines.append({"step": step, "stage": "main", "loss": 1.0, "features": features})
    lines.append({"step": 20, "stage": "main", "val": {"miou": 0.5}})
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = {chart.title: str(chart.svg) for chart in charts(read_lines(run), [], None, {"after": "distilled"})}
    svg = found["lad: magnitudes of the features"]
    assert "teacher m ends at 100, student n ends at 70" in svg and svg.count("<polyline") == 2
    assert "mn/N ends at 0.7" in found["lad: mn/N, the weight of the angle"]
    assert "cwd: magnitudes of the features" in found
    (run.path / "metrics.jsonl").write_text(json.dumps({"step": 1, "stage": "main", "loss": 1.0}) + "\n")
    assert not any("magnitude" in chart.title for chart in charts(read_lines(run), [], None, {"after": "distilled"}))
