"""Data whose images have many sizes, from training to measurements: one declared policy, sizes that are accepted."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdc import cli
from kdc.api import calibrate, evaluate, export_onnx
from kdc.deploy.artefacts.beside import manifest_of
from kdc.distill.data import open_data
from kdc.distill.run.folder import Run

SIZES = [(90, 60), (80, 80), (120, 160)]


def made(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    """Write images of some sizes, each in both splits, labelled by their brightness."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i, (h, w) in enumerate(sizes):
            label = rng.integers(0, 3, (-(-h // 16), -(-w // 16)), np.uint8).repeat(16, 0).repeat(16, 1)[:h, :w]
            picture = np.repeat(80 * label[..., None] + rng.integers(0, 40, (h, w, 1), np.uint8), 3, 2).astype(np.uint8)
            Image.fromarray(picture).save(folder / "images" / split / f"{i}.png")
            Image.fromarray(label).save(folder / "labels" / split / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    ("sizes", "usual"),
    [
        (SIZES, (120, 160)),
        ([(80, 80)] * 3, (80, 80)),
        ([(90, 60), (60, 90)], (90, 90)),
        ([*SIZES, (1200, 1600)], (120, 160)),  # a single huge one does not count
        ([(50, 70)] * 9 + [(90, 71)], (50, 70)),
    ],
)
def test_the_usual_size(tmp_path: Path, sizes: list[tuple[int, int]], usual: tuple[int, int]) -> None:
    assert open_data(str(made(tmp_path, sizes)), "val").size() == usual


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step on images of three sizes, to be tiled."""
    folder = tmp_path_factory.mktemp("mixed")
    data = made(folder / "data", SIZES)
    flags = f"--data {data} --student deeplabv3-mv2_050 --iters 1 --batch 2 --crop 32x32 --workers 0 --out {folder}/run"
    assert cli.run(["train", *flags.split(), "--set", "data.fit=tile", "--set", "train.threads=1"]) == 0
    return folder / "run"


def test_the_plan_has_the_usual_size_and_the_declared_fit(trained: Path) -> None:
    plan = export_onnx(str(trained), dry_run=True)
    assert (tuple(plan.size), plan.fit) == ((120, 160), "tile")
    assert export_onnx(str(trained), dry_run=True, fit="resize").fit == "resize"


@pytest.mark.slow
def test_what_was_declared_holds_from_the_manifest_to_the_measurement(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file smaller than two of the three images."""
    (full,) = export_onnx(str(trained), size="80x80", images=3).to_dict()["files"]
    assert full["fit"] == "tile" and full["gate"]["passed"] and full["gate"]["images"] == 3
    path = Run(trained).export / "model.onnx"
    low = calibrate(str(trained), to="int8", target="ort", images=1, agreement=0.1, max_drop=100.0)
    for file in (path, low.path):
        assert manifest_of(file).values["fit"] == "tile"
        result = evaluate(str(file))
        assert result.scores.images == 3 and result.to_dict()["tiling"]["size"] == [80, 80]
    assert cli.run(["eval", str(path), "--size", "90x60"]) == 2
    words = capsys.readouterr().err.partition("make another: kdc ")[2].split()
    assert cli.run([*words[:2], str(trained), *words[2:], "--dry-run"]) == 0
    capsys.readouterr()

    assert cli.run(["bench", "latency", str(path), "--seconds", "0.1", "--rounds", "2", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "model.onnx takes an image of 120x160 in 6 passes (tile); one is of 80x80" in out + err
    assert json.loads(out.splitlines()[-1])["size"] == [80, 80]
