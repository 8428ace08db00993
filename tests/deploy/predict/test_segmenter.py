"""What a network of one size does with images of others, and evaluation in the same tiles."""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from kdc.deploy.bench.accuracy import evaluate_source
from kdc.deploy.bench.evaluation_data import EvaluationData
from kdc.deploy.predict.segmenter import Segmenter, Windows, locate, open_segmenter
from kdc.distill import models
from kdc.distill.data import open_data
from kdc.distill.errors import UsageError, WeightsError
from kdc.distill.evaluation.evaluate import evaluate, model_predictor
from kdc.distill.evaluation.tiles import Tiling
from kdc.distill.preprocess import IMAGENET, POLICIES
from kdc.distill.run.checkpoint import load_student, save_student
from kdc.distill.run.folder import Run

from ..._made import Port, onnx_file

SIZE, K = (32, 64), 11


def channels(path: Path, head: str = "logits", batch: int = 1, fit: str | None = None) -> Path:
    """An ONNX file whose class is the strongest colour of each pixel: no window can change what it says."""
    weight = np.eye(K, 3, dtype=np.float32) * np.asarray(IMAGENET.std, np.float32)
    weight, bias = weight[:, :, None, None], np.full(K, -1e3, np.float32)
    bias[:3] = IMAGENET.mean
    nodes = [helper.make_node("Conv", ["image", "w", "b"], ["z"])]
    made: dict[str, Port] = {"z": [batch, K, *SIZE]}
    if head == "argmax":
        nodes.append(helper.make_node("ArgMax", ["z"], ["y"], axis=1, keepdims=0))
        made = {"y": ([batch, *SIZE], TensorProto.INT64)}
    facts = {"kdc.preprocess": IMAGENET.to_dict(), "kdc.classes": [str(k) for k in range(K)]}
    facts |= {"kdc.fit": fit} if fit else {}
    return onnx_file(path, nodes, {"image": [batch, 3, *SIZE]}, made, {"w": weight, "b": bias}, facts=facts)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blocks of 4x4 pixels, each with one clearly strongest channel."""
    classes = np.random.default_rng(seed).integers(0, 3, (-(-height // 4), -(-width // 4)))
    blocks = np.full((*classes.shape, 3), 60, np.uint8)
    np.put_along_axis(blocks, classes[..., None], 190, axis=2)
    return np.ascontiguousarray(blocks.repeat(4, 0).repeat(4, 1)[:height, :width])


def opened(path: Path, tile: str = "off", overlap: float = 1 / 3, blend: str = "smooth", **options) -> Segmenter:
    return open_segmenter(path, windows=Windows(tile, overlap, blend), **options)


def test_neighbouring_tiles_share_a_third_unless_told() -> None:
    assert Windows().overlap == pytest.approx(1 / 3)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on small built-in scenes."""
    model = models.build("pspnet-mv2_035", K, seed=0)
    data = {"source": "builtin", "options": {"size": [60, 100], "val_count": 2}, "size": SIZE}
    save_student(tmp_path / "checkpoints" / "best.safetensors", model, {"data": data})
    (tmp_path / "run.json").write_text(json.dumps({"data": data, "student": model.spec().to_dict()}))
    return tmp_path


@pytest.mark.parametrize(("head", "blend"), [("logits", "smooth"), ("logits", "uniform"), ("argmax", "smooth")])
def test_tiles_say_what_the_network_says_of_each_pixel(head, blend, tmp_path, capsys):
    segmenter = opened(channels(tmp_path / "net.onnx", head), "auto", 0.3, blend)
    assert segmenter.ran.to_dict()["tiling"] == {"size": [32, 64], "overlap": 0.3, "blend": blend}
    for size in ((80, 150), (20, 150), (100, 50), SIZE, (20, 20)):
        image = picture(*size)
        np.testing.assert_array_equal(segmenter.predict(image), image.argmax(2))
    said = capsys.readouterr().out
    assert said.count("windows of") == 1 and said.count("joined half way") == (head == "argmax")
    segmenter.close()


@pytest.mark.parametrize("policy", [None, *POLICIES])
def test_other_sizes_are_taken_as_the_file_declares_and_that_is_said_once(policy, tmp_path, capsys):
    segmenter = opened(channels(tmp_path / "net.onnx", fit=policy))
    assert segmenter.ran.fit == (policy or "pad")
    for size in ((30, 60), SIZE):
        np.testing.assert_array_equal(segmenter.predict(picture(*size)), picture(*size).argmax(2))
    assert "resized" not in capsys.readouterr().out
    for _ in range(2):
        large = picture(*SIZE).repeat(3, 0).repeat(3, 1)
        assert (segmenter.predict(large) == large.argmax(2)).mean() > (0.999 if policy == "tile" else 0.8)  # edges blur
    said = " ".join(capsys.readouterr().out.split())
    how = "tiles: 96x192 in" if policy == "tile" else "an image of 96x192 is resized to 32x64, and its mask back"
    assert said.count(f"made for 32x64: {how}") == 1
    assert ("--fit tile of kdc eval, predict and export onnx" in said) == (policy != "tile")
    assert segmenter.predict(picture(8, 16)).shape == (8, 16)


def test_the_flags_say_otherwise_than_the_file(tmp_path):
    path = channels(tmp_path / "net.onnx", fit="tile")
    for flags, want in ((("off", None), "tile"), (("off", "resize"), "resize"), (("auto", "tile"), "tile")):
        windows = Windows.from_flags(flags[0], None, None, flags[1])
        assert open_segmenter(path, windows=windows).ran.fit == want
    assert open_segmenter(path, windows=Windows.from_flags("off", 0.5, None, "tile")).ran.tiling == Tiling(SIZE, 0.5)
    with pytest.raises(UsageError, match="--fit square is not known; accepted: pad, resize, tile"):
        Windows.from_flags("off", None, None, "square")
    with pytest.raises(UsageError, match="--tile auto is --fit tile; leave out --fit pad, or --tile"):
        Windows.from_flags("auto", None, None, "pad")
    with pytest.raises(WeightsError, match=r"its kdc\.fit is 'square'; accepted: pad, resize, tile; export it again"):
        opened(channels(tmp_path / "odd.onnx", fit="square"))


def test_a_network_of_one_batch_takes_single_images(tmp_path, capsys):
    for head, tile in (("logits", "off"), ("argmax", "off"), ("logits", "auto")):
        segmenter = opened(channels(tmp_path / f"{head}-{tile}.onnx", head, batch=4), tile)
        for size in (SIZE, (80, 150)) if tile == "auto" else (SIZE, (20, 20)):
            np.testing.assert_array_equal(segmenter.predict(picture(*size)), picture(*size).argmax(2))
        said = " ".join(capsys.readouterr().out.split())
        assert said.count(f"{head}-{tile}.onnx is made for 4 images at once: each is taken 4 times") == 1


def test_a_checkpoint_takes_images_whole_or_in_the_same_tiles_as_evaluation(run):
    image, model = picture(70, 130), load_student(run)
    for tile, tiling in (("off", None), ("auto", Tiling(SIZE)), ("48x64", Tiling((48, 64)))):
        want = model_predictor(model, tiling=tiling)(image)
        np.testing.assert_array_equal(opened(Run(run).path / "checkpoints/best.safetensors", tile).predict(image), want)


def test_evaluation_of_a_file_in_tiles(run):
    path, data = channels(run / "net.onnx"), EvaluationData("builtin", limit=2)
    assert evaluate_source(path, data).to_dict()["fit"] == "pad"
    result = evaluate_source(path, data, windows=Windows("auto"))
    want = evaluate(lambda image: image.argmax(2).astype(np.uint8), open_data("builtin", "val", val_count=2))
    assert result.to_dict()["tiling"]["size"] == [32, 64]
    assert result.scores.miou == pytest.approx(want.miou, abs=1e-3)  # equal colours fall as they may


def test_evaluation_of_a_checkpoint_in_tiles(run):
    result = evaluate_source(run, windows=Windows("32x32", 0.5, "uniform"))
    predict = model_predictor(load_student(run), tiling=Tiling((32, 32), 0.5, "uniform"))
    assert result.scores.to_dict() == evaluate(predict, Run(run).open_data("val")).to_dict()
    assert result.to_dict()["tiling"]["blend"] == "uniform"
    assert "tiling" not in evaluate_source(run).to_dict()


def test_what_does_not_fit(run, tmp_path):
    with pytest.raises(UsageError, match="--overlap is about tiles"):
        Windows.from_flags("off", 0.5, None)
    with pytest.raises(UsageError, match="not HEIGHTxWIDTH"):
        Windows("large")
    with pytest.raises(UsageError, match="made for 32x64, not 16x16"):
        opened(channels(tmp_path / "net.onnx"), "16x16")
    with pytest.raises(UsageError, match="--fit pad is for exported files"):
        open_segmenter(Run(run), windows=Windows(fit="pad"))
    alone = tmp_path.parent / f"{tmp_path.name}.safetensors"
    save_student(alone, models.build("pspnet-mv2_035", 3, seed=0), {})
    with pytest.raises(UsageError, match="name it: --tile HxW"):
        opened(alone, "auto")
    with pytest.raises(WeightsError, match="does not exist"):
        locate("none.pt2")
