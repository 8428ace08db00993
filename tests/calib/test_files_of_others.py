"""``kdc calib`` on an ONNX file that belongs to no run: made ready, calibrated on named data, gated, and read again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from kdc.api import (
    calibrate,
    distill,
    evaluate,
    export_aoti,
    export_onnx,
    export_openvino,
    export_triton,
    parity,
    predict,
    report,
)
from kdc.calib import calibrate as calibrating
from kdc.deploy.artefacts.safe_onnx import save_own
from kdc.deploy.runtimes.adopt import adopted
from kdc.deploy.runtimes.open import open_runtime
from kdc.deploy.runtimes.ort_runtime import read_info
from kdc.deploy.runtimes.said import Said
from kdc.distill.errors import DataError, ExportError, UsageError, WeightsError
from kdc.distill.preprocess import Preprocess
from kdc.export import to_openvino

from .._made import onnx_file

SIZE = (32, 48)
SCALED = Preprocess((0, 0, 0), (255, 255, 255), "bgr")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, told apart by one colour."""
    from PIL import Image

    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 256, (*SIZE, 3), np.uint8)
            image[..., 0] = np.where(rng.random((SIZE[0] // 8, SIZE[1] // 8)).repeat(8, 0).repeat(8, 1) > 0.5, 220, 30)
            Image.fromarray(image).save(root / "images" / split / f"{i}.png")
            Image.fromarray((image[..., 0] > 128).astype(np.uint8)).save(root / "labels" / split / f"{i}.png")
    return root


def one_channel(path: Path, size: tuple[int | str, int | str] = ("h", "w")) -> Path:
    """Write a network that is right on these data, has an auxiliary output first, free axes, and one channel."""
    blue_last = np.zeros((4, 3, 3, 3), np.float32)
    blue_last[:, 2, 1, 1] = (1, 0.5, 2, 1.5)
    stored = {"w": blue_last, "v": np.full((1, 4, 1, 1), 0.2, np.float32), "b": np.array([-0.5], np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["f"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["f"], ["r"]),
        helper.make_node("Conv", ["r", "v", "b"], ["y"]),
        helper.make_node("Neg", ["y"], ["aux"]),
    ]
    made = {"aux": ["n", 1, *size], "y": ["n", 1, *size]}
    return onnx_file(path, nodes, {"x": ["n", 3, *size]}, made, stored, opset=13)


def test_a_file_is_made_ready_in_a_copy(tmp_path: Path) -> None:
    path = one_channel(tmp_path / "net.onnx")
    before = path.read_bytes()
    with adopted(path, SIZE, Said(preprocess=SCALED)) as copy:
        info = read_info(copy)
        assert (info.size, info.shape[0], info.outputs[0].name) == (SIZE, None, "y")
        assert info.outputs[0].shape == (None, 1, *SIZE)
        with open_runtime(copy) as runtime:  # nothing has to be said again
            assert (runtime.spec.preprocess, runtime.spec.answer.name) == (SCALED, "y")
            assert runtime.spec.answer.classes == 2
    assert path.read_bytes() == before
    assert not copy.exists()


@pytest.mark.parametrize("to", ["int8", "fp16"])
def test_calib_takes_any_file_with_its_data(tmp_path: Path, data: Path, to: str) -> None:
    path = one_channel(tmp_path / "net.onnx")
    flags = {"scale": "1/255", "bgr": True}
    result = calibrate(str(path), to=to, target="ort", data=str(data), size="32x48", images=4, agreement=0.9, **flags)
    assert result.path.parent == tmp_path
    manifest = json.loads(Path(f"{result.path}.json").read_text())
    assert manifest["gate"]["passed"] and manifest["source"]["file"] == "net.onnx"
    scores = evaluate(str(result.path), data=str(data)).scores  # no flag any more
    assert scores.miou > 0.95
    with pytest.raises(UsageError, match="in no run, so its data are unknown; name them: --data NAME"):
        calibrate(str(path), size="32x48")
    with pytest.raises(UsageError, match="takes any image size; name the one to use: --size HxW"):
        calibrate(str(path), data=str(data))
    with pytest.raises(UsageError, match="--qat trains the network of a run on"):
        calibrate(str(path), data=str(data), size="32x48", qat=True)


def test_the_flags_reach_every_command_that_runs_a_file(tmp_path: Path, data: Path) -> None:
    path = one_channel(tmp_path / "net.onnx")
    right = evaluate(str(path), data=str(data), size="32x48", scale="1/255", bgr=True)
    assert right.scores.miou > 0.95
    assert right.to_dict()["contract"]["answer"]["how"]["preprocess"] == "said by you"
    image = str(next((data / "images" / "val").glob("*.png")))
    done = predict([str(path), image], out=tmp_path / "p", size="32x48", scale="1/255", bgr=True)
    assert list(done.classes) == ["class 0", "class 1"]


def test_openvino_takes_any_file_with_its_data(tmp_path: Path, data: Path) -> None:
    pytest.importorskip("openvino")
    path = one_channel(tmp_path / "net.onnx")
    flags: dict[str, Any] = {"scale": "1/255", "bgr": True, "size": "32x48", "data": str(data)}
    (made,) = export_openvino(str(path), out=tmp_path / "there", **flags).to_dict()["files"]
    assert made["gate"]["passed"] and made["onnx"]["file"] == "net.onnx" and made["source"] is None
    assert evaluate(str(tmp_path / "there" / "net.xml"), data=str(data)).scores.miou > 0.95  # no flag any more
    with pytest.raises(UsageError, match="name them: --data"):
        export_openvino(str(path), size="32x48")
    with pytest.raises(UsageError, match="has a form already: leave out --head, --which"):
        export_openvino(str(path), head="argmax", which="last", **flags)
    with pytest.raises(ExportError, match=r"make it with: kdc calib .*net.onnx --data .* --to int8 --for openvino"):
        export_openvino(str(path), precision="int8", **flags)


def test_parity_of_a_file_alone_is_between_its_runtimes(tmp_path: Path, data: Path) -> None:
    pytest.importorskip("openvino")
    path = one_channel(tmp_path / "net.onnx")
    flags: dict[str, Any] = {"scale": "1/255", "bgr": True, "size": "32x48", "data": str(data)}
    (outcome,) = parity(str(path), **flags).to_dict()["arrows"]
    assert (outcome["from"], outcome["to"], outcome["passed"]) == ("net.onnx", "openvino", True)
    assert outcome["miou_reference"] > 0.95 and outcome["images"] == 2
    with pytest.raises(WeightsError, match=r"net.onnx.golden.npz along, or name data .*: kdc parity .* --data NAME"):
        parity(str(path))
    with pytest.raises(DataError, match="the network has 2 classes, builtin has 11"):
        parity(str(path), **{**flags, "data": "builtin"})


def test_a_folder_that_cannot_be_written_to_is_refused_first(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = one_channel(tmp_path / "net.onnx")
    monkeypatch.setattr(calibrating, "prepared", lambda *_: pytest.fail("work was done before"))
    monkeypatch.setattr(to_openvino, "adopted", lambda *_: pytest.fail("work was done before"))
    (tmp_path / "file").touch()
    for command in (calibrate, export_openvino):
        with pytest.raises(UsageError, match="file cannot be written to; name another folder: --out DIR"):
            command(str(path), data=str(data), size="32x48", out=tmp_path / "file")


def test_a_file_where_a_run_is_needed_is_one_line(tmp_path: Path) -> None:
    path = str(one_channel(tmp_path / "net.onnx"))
    for command in (report, export_aoti):
        with pytest.raises(UsageError, match=r"net.onnx is in no run, and one is needed; of files: kdc eval") as caught:
            command(path)
        assert "\n" not in str(caught.value)


def test_what_is_said_of_a_file_is_written_into_another(tmp_path: Path, data: Path) -> None:
    path = one_channel(tmp_path / "net.onnx")
    flags: dict[str, Any] = {"scale": "1/255", "bgr": True, "size": "32x48", "data": str(data)}
    full, half = export_onnx(str(path), precision="both", fit="tile", agreement=0.9, **flags).to_dict()["files"]
    assert (full["file"], half["file"]) == ("net.kdc.onnx", "net.kdc.fp16.onnx")
    assert full["gate"]["passed"] and full["fit"] == "tile" and full["source"]["file"] == "net.onnx"
    for name in (full["file"], half["file"]):  # no flag any more
        assert evaluate(str(tmp_path / name), data=str(data)).scores.miou > 0.95
    model = export_triton(str(tmp_path / full["file"]), out=tmp_path / "triton", name="net")
    assert 'name: "y"' in model.config and model.facts.answer is not None and model.facts.answer.scores == "logits"
    again = export_triton(str(path), out=tmp_path / "triton", name="other", size="32x48", scale="1/255", bgr=True)
    assert again.config.partition("\n")[2] == model.config.partition("\n")[2]

    with pytest.raises(UsageError, match="name them: --data"):
        export_onnx(str(path), size="32x48")
    with pytest.raises(UsageError, match="has a form already: leave out --opset"):
        export_onnx(str(path), opset=18, **flags)
    with pytest.raises(UsageError, match="takes any image size; name the one to use: --size HxW"):
        export_triton(str(path))
    own = one_channel(tmp_path / "own.onnx", SIZE)
    proto = onnx.load(own)
    helper.set_model_props(proto, {"kdc.preprocess": json.dumps(SCALED.to_dict()), "kdc.head": '"logits"'})
    save_own(proto, own)
    with pytest.raises(UsageError, match="was exported by kdc and says all of itself"):
        export_onnx(str(own), data=str(data))


def test_an_exported_file_does_not_teach_yet(tmp_path: Path) -> None:
    path = str(one_channel(tmp_path / "net.onnx"))
    with pytest.raises(
        UsageError, match=r"--teacher .*net.onnx is an exported file, which cannot teach yet; accepted:"
    ):
        distill(teacher=path, student="deeplabv3-mv2", data="builtin", size="32x48", dry_run=True)
