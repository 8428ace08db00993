"""The golden image: what it holds, that it travels, and what it notices."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from kdc import cli
from kdc.deploy.artefacts.beside import golden_path
from kdc.deploy.artefacts.ledger import discard
from kdc.deploy.parity.gate import Tolerances, gate
from kdc.deploy.parity.golden import (
    GRID,
    NO_CLASS,
    GoldenFacts,
    capture,
    check_golden,
    compare_with_golden,
    hand_on,
    read_golden,
    write_golden,
)
from kdc.deploy.runtimes.open import open_runtime
from kdc.distill import console
from kdc.distill.data import Dataset
from kdc.distill.errors import WeightsError
from kdc.distill.preprocess import BGR_MEAN, IMAGENET
from kdc.distill.run.files import sha256

from ..._made import Port, onnx_file

K, H, W = 3, 16, 24
FACTS = GoldenFacts("image0")


def network(path: Path, scale: float = 1.0, preprocess: Any = IMAGENET, argmax: bool = False) -> Path:
    """Write one convolution (and an argmax), its weights times ``scale``."""
    weights = np.random.default_rng(0).standard_normal((K, 3, 3, 3)).astype(np.float32) * scale
    nodes = [helper.make_node("Conv", ["image", "w"], ["z"], pads=[1, 1, 1, 1])]
    made: dict[str, Port] = {"z": [1, K, H, W]}
    if argmax:
        nodes.append(helper.make_node("ArgMax", ["z"], ["long"], axis=1, keepdims=0))
        nodes.append(helper.make_node("Cast", ["long"], ["mask"], to=TensorProto.UINT8))
        made = {"mask": ([1, H, W], TensorProto.UINT8)}
    facts = {"kdc.preprocess": preprocess.to_dict(), "kdc.classes": ["a", "b", "c"]}
    return onnx_file(path, nodes, {"image": [1, 3, H, W]}, made, {"w": weights}, facts=facts)


class Images(Dataset):
    """The first image is of one colour, so that another one tests more."""

    split, classes = "val", ("a", "b", "c")

    def __init__(self, name: str = "builtin") -> None:
        self.name = name
        self.images = np.random.default_rng(0).integers(0, 256, (3, H - 4, W, 3), np.uint8)
        self.images[0] = 128

    def __len__(self) -> int:
        return len(self.images)

    def key(self, i: int) -> str:
        return f"image{i}"

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        return self.images[i], np.zeros((H - 4, W), np.uint8)


def gated(folder: Path, data: Dataset | None = None, tolerances: Tolerances | None = None, **other: Any) -> Path:
    """Return a file that passed its gate against a reference."""
    reference, file = network(folder / "reference.onnx"), network(folder / "model.onnx", **other)
    with open_runtime(reference) as one, open_runtime(file) as two:
        result = gate(one, two, data or Images(), tolerances or Tolerances(1e-4))
    assert result.passed and result.golden is not None
    write_golden(file, result.golden)
    return file


def test_a_file_that_passed_gets_one(tmp_path: Path) -> None:
    file = gated(tmp_path)
    golden = read_golden(file)
    data = Images()
    index = int(golden.facts.key.removeprefix("image"))
    np.testing.assert_array_equal(golden.image, data.images[index])
    assert golden.facts.size == [H, W]
    with open_runtime(tmp_path / "reference.onnx") as runtime:
        logits = runtime.infer(runtime.prepare(golden.image[None]))[0]
        classes = [len(np.unique(runtime.masks(image[None]))) for image in data.images]
    assert classes[index] == max(classes) > min(classes), "the image with the most classes tests most"
    np.testing.assert_array_equal(golden.mask, logits.argmax(0)[: H - 4])
    assert golden.logits.shape == (GRID, GRID, K) and (golden.second == NO_CLASS).all()
    np.testing.assert_array_equal(golden.logits[-1, -1], logits[:, H - 5, -1])
    facts = golden.facts
    assert facts.sha256 == sha256(file) and facts.agreement == 1 and facts.generated
    assert golden_path(file).stat().st_size < 10_000
    result = check_golden(file)
    assert result.passed and result.agreement == 1 and result.max_relative == 0
    assert "on the golden image (image" in result.line()
    json.dumps(result.to_dict(), allow_nan=False)


def test_near_ties_count_where_products_are_rounded_to_tf32_alone(tmp_path: Path) -> None:
    file = gated(tmp_path)
    golden = read_golden(file)
    with open_runtime(file) as runtime:
        logits = runtime.infer(runtime.prepare(golden.image[None]))
        first = golden.mask.astype(int)
        second = (first + 1) % K
        rows, columns = np.indices(first.shape)
        top = logits[0, first, rows, columns]
        logits[0, :, : first.shape[0]] = np.minimum(logits[0, :, : first.shape[0]], top - 1)
        logits[0, first, rows, columns], logits[0, second, rows, columns] = top, top - 1e-4
        masks = (golden.mask, golden.mask)
        again = capture(golden.image, masks, logits[0, :, : first.shape[0]], 0.0, golden.facts)
        assert (again.second == second).all() and again.facts.agreement == 1
        logits[0, second, rows, columns] = top + 1e-4
        runtime.infer = lambda x: logits  # every pixel falls to the other side
        assert not compare_with_golden(runtime, again).passed
        runtime.tf32 = True
        found = compare_with_golden(runtime, again)
        assert found.passed and found.tied == 1


def test_a_file_that_is_removed_takes_it_along(tmp_path: Path) -> None:
    file = gated(tmp_path)
    discard(tmp_path, [file])
    assert not golden_path(file).exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scale": 1.01}, "logits differ by"),
        ({"scale": -1.0}, "% of pixels agree"),
        ({"scale": np.nan}, "not finite"),
        ({"preprocess": BGR_MEAN}, "prepares images differently"),
    ],
)
def test_a_changed_file_is_noticed(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    file = gated(tmp_path)
    network(file, **change)
    result = check_golden(file)
    assert not result.passed
    assert "sha256" in result.reasons[0] and any(said in reason for reason in result.reasons[1:])
    json.dumps(result.to_dict(), allow_nan=False)


def test_masks_are_compared_where_there_are_no_logits(tmp_path: Path) -> None:
    file = gated(tmp_path, argmax=True)
    result = check_golden(file)
    assert result.passed and result.max_relative is None
    network(file, scale=-1.0, argmax=True)
    assert not check_golden(file).passed


def test_ties_count_apart_and_an_image_may_be_worse_than_the_set(tmp_path: Path) -> None:
    logits = np.zeros((2, 4, 8), np.float32)
    logits[0, 0, :4] = 1e-4
    logits[0, 1:] = 1
    mask = logits.argmax(0).astype(np.uint8)
    flipped = mask.copy()
    flipped[0] = 1
    image = np.zeros((4, 8, 3), np.uint8)
    golden = capture(image, (mask, flipped), logits, 1e-3, FACTS)
    assert (golden.second[0] == 1 - mask[0]).all() and (golden.second[1:] == NO_CLASS).all()
    assert golden.facts.agreement == 1
    assert capture(image, (mask, flipped), logits, 0.0, FACTS).facts.agreement == 0.75
    assert capture(image, (mask, flipped), None, 1e-3, FACTS).logits.size == 0
    file = gated(tmp_path, scale=1.0001, tolerances=Tolerances(None, 0.5))
    stored = read_golden(file)
    assert stored.facts.tolerances.agreement == 0.5


def test_a_tie_is_with_the_class_that_is_as_good_not_with_any(tmp_path: Path) -> None:
    logits = np.zeros((3, 4, 8), np.float32)
    logits[0], logits[1], logits[2] = 1, 1 - 1e-4, -5
    mask, image = np.zeros((4, 8), np.uint8), np.zeros((4, 8, 3), np.uint8)
    assert capture(image, (mask, mask + 1), logits, 1e-3, FACTS).facts.agreement == 1
    assert capture(image, (mask, mask + 2), logits, 1e-3, FACTS).facts.agreement == 0
    # the reference says another class on every pixel, and that a third one or the file's own is as good
    file = gated(tmp_path, tolerances=Tolerances(tie=1e-3))
    golden = read_golden(file)
    for step, share in ((2, 0), (0, 1)):
        write_golden(file, replace(golden, mask=(golden.mask + 1) % K, second=(golden.mask + step) % K))
        result = check_golden(file)
        assert (result.agreement, result.tied, result.passed) == (0, share, share == 1)


def test_an_image_much_smaller_than_the_input(tmp_path: Path) -> None:
    data = Images()
    data.images = data.images[:, :4, :6]
    data.read = lambda i: (data.images[i], np.zeros((4, 6), np.uint8))  # pyright: ignore[reportAttributeAccessIssue]
    file = gated(tmp_path, data)
    golden = read_golden(file)
    assert golden.image.shape == (4, 6, 3) and golden.mask.shape == (4, 6) and check_golden(file).passed
    other = (golden.mask + 1) % K
    write_golden(file, replace(golden, mask=other))
    result = check_golden(file)
    assert result.agreement == 0 and not result.passed, "the padding is no agreement"


def test_one_of_an_older_kdc_is_whole_and_has_no_ties(tmp_path: Path) -> None:
    file = gated(tmp_path)
    with open_runtime(file) as runtime:
        image = runtime.pad(read_golden(file).image[None])[0]
        mask = runtime.masks(image[None])[0]
    write_golden(file, replace(read_golden(file), image=image, mask=mask, logits=np.zeros((0, 0, 0))))
    rewrite(file, without=("size",), drop="second")
    golden = read_golden(file)
    assert golden.facts.size == [H, W] and golden.mask.shape == (H, W) and (golden.second == NO_CLASS).all()
    assert check_golden(file).passed


def test_an_engine_gets_that_of_its_source(tmp_path: Path) -> None:
    file = gated(tmp_path)
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"plan")
    hand_on(file, engine)
    assert read_golden(engine).facts.sha256 == sha256(engine)


def test_an_image_of_the_users_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "notes", [])
    for data in (None, Images("camvid"), Images("camvid")):
        gated(tmp_path, data)
        said = [line for line in console.notes if "golden" in line]
        assert data or not said
    assert len(said) == 1 and "model.onnx.golden.npz holds an image of your data (image" in said[0]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", None])
def test_broken_or_missing(tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]) -> None:
    file = gated(tmp_path)
    if content is None:
        golden_path(file).unlink()
    else:
        golden_path(file).write_bytes(content)
    with pytest.raises(WeightsError, match="copy it along" if content is None else "cannot be read"):
        check_golden(file)
    assert cli.run(["parity", str(file)]) == 4
    assert capsys.readouterr().err.count("\n") == 1


def rewrite(file: Path, without: tuple[str, ...] = (), drop: str = "", **facts: Any) -> None:
    """Change what the golden image of a file says."""
    with np.load(golden_path(file)) as archive:
        arrays = {key: archive[key] for key in archive.files if key != drop}
    said = json.loads(arrays["facts"].tobytes()) | facts
    said = {key: value for key, value in said.items() if key not in without}
    arrays["facts"] = np.frombuffer(json.dumps(said).encode(), np.uint8)
    np.savez(golden_path(file), allow_pickle=False, **arrays)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        *(({"without": (key,)}, f"does not say {key}") for key in ("sha256", "tolerances", "agreement", "key", "data")),
        ({"tolerances": {"agreement": 0.9, "speed": 1}}, "no tolerance is called speed; accepted: agreement, max_diff"),
        ({"tolerances": {"agreement": float("nan")}}, "agreement nan is not accepted"),
        ({"tolerances": {"agreement": "much"}}, "cannot be read"),
        ({"tolerances": {}}, "holds no tolerances"),
        ({"tolerances": 3}, "holds no tolerances"),
        ({"agreement": "much"}, "could not convert"),
        ({"agreement": 7}, "an agreement of 7"),
        ({"size": [1]}, "something else than a golden image"),
        ({"size": "large"}, "cannot be read"),
        ({"drop": "logits"}, "logits"),
    ],
)
def test_a_golden_image_that_says_too_little_or_nonsense(
    tmp_path: Path, change: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = gated(tmp_path)
    rewrite(file, **change)
    capsys.readouterr()
    assert cli.run(["parity", str(file)]) == 4
    err = " ".join(capsys.readouterr().err.split())
    assert said in err and golden_path(file).name in err and "export the file again" in err


def test_a_file_of_other_classes_is_noticed(tmp_path: Path) -> None:
    file = gated(tmp_path)
    golden = read_golden(file)
    write_golden(file, replace(golden, logits=np.zeros((GRID, GRID, K + 2), np.float32)))
    assert f"it gives {K} classes, {K + 2} are needed" in check_golden(file).reasons


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = gated(tmp_path)
    capsys.readouterr()
    assert cli.run(["parity", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"]
    network(file, scale=2.0)
    assert cli.run(["parity", str(file), "--json"]) == 6
    out, err = capsys.readouterr()
    assert not json.loads(out)["passed"] and "is not what passed its gate" in err
    assert cli.run(["parity", str(file), "--explain"]) == 2
    assert cli.run(["parity", str(tmp_path / "none.onnx")]) == 4
