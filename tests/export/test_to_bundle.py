"""Bundles: one zip that runs with numpy and ONNX Runtime alone, and checks itself where it is unpacked."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdc import cli
from kdc.deploy.artefacts.beside import manifest_path
from kdc.deploy.artefacts.ledger import read_gates, write_gate
from kdc.deploy.artefacts.safe_onnx import save_own
from kdc.deploy.parity.gate import gate
from kdc.deploy.parity.golden import write_golden
from kdc.deploy.parity.tolerances import tolerances
from kdc.deploy.predict.segmenter import open_segmenter
from kdc.deploy.runtimes.open import open_runtime
from kdc.deploy.runtimes.said import Said
from kdc.distill.data import open_data
from kdc.distill.errors import UsageError, WeightsError
from kdc.distill.evaluation.fit import resized
from kdc.distill.preprocess import POLICIES, Policy, Preprocess
from kdc.distill.run.files import sha256, write_json
from kdc.distill.run.folder import Run
from kdc.export.runner import images as runner_images
from kdc.export.runner import network as runner_network
from kdc.export.runner import sizes as runner_sizes
from kdc.export.to_bundle import export_bundle

from .._made import chain
from ..deploy.runtimes.test_contract import HALF, IMAGE, KINDS, foreign

Files = Callable[..., Path]
#: what the runner must do without
FOREIGN = ("kdc", "torch", "onnx", "cv2", "PIL", "scipy", "matplotlib")


@pytest.fixture
def gated_file(exported: Files, tmp_path: Path) -> Callable[..., Path]:
    """Return a copy of a file that went through a gate (against itself) and so has its golden image."""

    def get(arch: str, head: str, input: str, data: str = "builtin") -> Path:
        path = tmp_path / "model.onnx"
        shutil.copyfile(exported(arch, head, input), path)
        dataset = open_data("builtin", "val", size=(60, 120), val_count=2)
        dataset.name, dataset.labelled = data, False  # its classes are not the network's
        with open_runtime(path) as runtime:
            result = gate(runtime, runtime, dataset, tolerances("fp32"))
        assert result.golden is not None
        write_golden(path, result.golden)
        write_gate(tmp_path, "onnx model", result, path.name)
        manifest_path(path).write_text(json.dumps({"sha256": sha256(path), "gate": result.to_dict(), "source": None}))
        return path

    return get


def unpacked(zipped: Path, folder: Path) -> Path:
    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(folder)
    return next(folder.iterdir())


def ran(folder: Path, *words: str, hide: tuple[str, ...] = ()) -> tuple[int, str, set[str]]:
    """Run the runner in a Python of its own: exit code, what it said, and which foreign packages it imported."""
    code = f"""
import runpy, sys
for name in {hide!r}:
    sys.modules[name] = None
sys.argv = ["run.py", *{words!r}]
try:
    runpy.run_path({str(folder / "run.py")!r}, run_name="__main__")
except SystemExit as error:
    sys.stdout.write(str(error.code or "") + "\\n")
    code = error.code if isinstance(error.code, int) else 1 if error.code else 0
else:
    code = 0
print([name for name in {FOREIGN!r} if sys.modules.get(name)])
sys.exit(code)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False, timeout=120, cwd=folder.parent
    )
    *said, last = done.stdout.strip().splitlines() or [done.stderr]
    assert last.startswith("["), done.stdout + done.stderr
    return done.returncode, "\n".join(said), set(json.loads(last.replace("'", '"')))


@pytest.mark.parametrize(
    ("head", "input"),
    [
        ("argmax", "uint8"),
        pytest.param("logits", "float", marks=pytest.mark.process),
        pytest.param("argmax", "float", marks=pytest.mark.slow),
    ],
)
def test_the_runner_computes_kdcs_masks_with_numpy_and_onnxruntime_alone(
    gated_file: Files, tmp_path: Path, head: str, input: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = gated_file("pspnet", head, input)  # it takes BGR, so that a channel order that is forgotten shows
    folder = unpacked(export_bundle(source, tmp_path / "b.zip").path, tmp_path / "there")
    assert {p.name for p in folder.iterdir()} >= {
        "model.onnx", "labels.txt", "palette.json", "preprocess.json", "gates.json", "golden.ppm", "golden_mask.pgm",
        "README.md", "run.py",
    }  # fmt: skip
    image = np.random.default_rng(0).integers(0, 256, (50, 100, 3), np.uint8)
    image[:, 50:] = 200
    np.save(tmp_path / "image.npy", image)
    with open_runtime(source) as runtime:
        expected = runtime.masks(image[None])[0]
    assert len(np.unique(expected)) > 1, "a constant mask tests nothing"
    code, said, foreign = ran(folder, str(tmp_path / "image.npy"), "--out", str(tmp_path / "mask.npy"))
    assert (code, foreign) == (0, set()), said
    assert "50x100" in said
    assert (np.load(tmp_path / "mask.npy") == expected).all()
    if head == "logits":
        return
    monkeypatch.setattr(runner_network, "HERE", folder)
    for name in ("mask.pgm", "mask.png"):
        runner_images.write_mask(tmp_path / name, expected, json.loads((folder / "palette.json").read_text()))
    assert (runner_images.read_pnm(tmp_path / "mask.pgm") == expected).all()
    coloured = cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_COLOR)
    assert coloured is not None
    palette = np.asarray(json.loads((folder / "palette.json").read_text()), np.uint8)
    assert (coloured[..., ::-1] == palette[expected]).all()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("head", ["logits", "argmax"])
def test_the_runner_takes_images_of_any_size_as_kdc_does(
    head: str, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = chain(tmp_path / "net.onnx", repeat=2, fit=policy)
    if head == "argmax":
        model = onnx.load(source)
        model.graph.node.append(helper.make_node("ArgMax", ["x2"], ["mask"], axis=1, keepdims=0))
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("mask", TensorProto.INT64, [1, 16, 24]))
        save_own(model, source)
    folder = unpacked(export_bundle(source, tmp_path / "b.zip").path, tmp_path / "there")
    monkeypatch.setattr(runner_network, "HERE", folder)
    runner, segmenter = runner_network.Network("CPUExecutionProvider", 1), open_segmenter(source)
    assert runner.facts.fit == policy and json.loads(manifest_path(tmp_path / "b.zip").read_text())["fit"] == policy
    for size in ((1, 1), (3, 40), (15, 20), (16, 24), (17, 24), (60, 9), (50, 130)):
        image = np.random.default_rng(size[0]).integers(0, 256, (*size, 3), np.uint8)
        got, want = runner.mask(image), segmenter.predict(image)
        assert got.shape == want.shape == size
        assert (got == want).mean() > 0.98, f"{size}: beyond what rounding to whole grey levels can change"
        np.testing.assert_array_equal(
            runner_sizes.resized(image, (16, 24)), resized(image, (16, 24)), err_msg=f"{size} is resized otherwise"
        )


@pytest.mark.parametrize("kind", [*KINDS, "half", "half labels", "half precision", "bgr bytes"])
def test_the_runner_reads_every_kind_of_output_as_kdc_does(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes, made, _ = KINDS["logits" if kind not in KINDS else kind]
    image: Any = (1, 3, 16, 24)
    outputs: Any = made
    if kind.startswith("half") and kind != "half precision":
        nodes, outputs = [*nodes, HALF], {"h": (1, 5, 8, 12)}
    if kind == "half labels":
        nodes = [*nodes, helper.make_node("ArgMax", ["h"], ["y"], axis=1, keepdims=0)]
        outputs = {"y": ((1, 8, 12), TensorProto.INT64)}
    if kind in ("half precision", "bgr bytes"):
        image = (image, TensorProto.FLOAT16 if kind == "half precision" else TensorProto.UINT8)
        nodes = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), *nodes]
        nodes[1] = helper.make_node("Conv", ["f", "w"], ["z"], pads=[1, 1, 1, 1])
    path = foreign(tmp_path / "net.onnx", *nodes, made=outputs, image=image, opset=13)
    said = Said(order="bgr" if kind == "bgr bytes" else None)

    folder = unpacked(export_bundle(path, said=said).path, tmp_path / "there")
    monkeypatch.setattr(runner_network, "HERE", folder)
    network = runner_network.Network("CPUExecutionProvider", 1)
    with open_runtime(path, said=said) as runtime:
        want = runtime.masks(IMAGE)[0]
    assert len(np.unique(want)) > 1
    np.testing.assert_array_equal(network.mask(IMAGE[0]), want)
    assert runner_network.check_golden(network).passed


def test_a_file_of_another_maker_is_bundled_by_its_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes, made = KINDS["small first"][:2]
    path = foreign(tmp_path / "net.onnx", *nodes, made=dict.fromkeys(made, (1, "k", "a", "b")), image=(1, 3, "h", "w"))
    assert cli.run(["export", "bundle", str(path)]) == 2
    assert "name the one to use: --size HxW" in capsys.readouterr().err
    flags = ["--size", "16x24", "--output-name", "h", "--scale", "1/255", "--bgr"]
    assert cli.run(["export", "bundle", str(path), *flags]) == 0
    folder = unpacked(tmp_path / "net.zip", tmp_path / "there")
    assert json.loads((folder / "preprocess.json").read_text()) == {"mean": [0] * 3, "std": [255] * 3, "order": "bgr"}
    assert json.loads((folder / "network.json").read_text())["output"] == "h"
    np.save(tmp_path / "image.npy", IMAGE[0])
    code, said, foreign_packages = ran(folder, str(tmp_path / "image.npy"), "--out", str(tmp_path / "mask.npy"))
    assert (code, foreign_packages) == (0, set()), said
    scaled = Preprocess((0, 0, 0), (255, 255, 255), "bgr")
    with open_runtime(path, size=(16, 24), said=Said("h", preprocess=scaled)) as runtime:
        np.testing.assert_array_equal(np.load(tmp_path / "mask.npy"), runtime.masks(IMAGE)[0])


@pytest.mark.process
def test_check_passes_on_its_network_and_fails_on_another(gated_file: Files, tmp_path: Path) -> None:
    folder = unpacked(export_bundle(gated_file("deeplabv3", "logits", "float")).path, tmp_path / "there")
    code, said, foreign = ran(folder, "--check")
    assert (code, foreign) == (0, set()) and "golden image: passed, 100.000 %" in said
    assert "CPUExecutionProvider" in said
    whole = (folder / "golden_mask.pgm").read_bytes()
    (folder / "golden_mask.pgm").write_bytes(whole[:-2000] + bytes((b + 1) % 5 for b in whole[-2000:]))
    code, said, _ = ran(folder, "--check")
    assert code == 6 and "golden image: FAILED" in said


@pytest.mark.process
def test_images_that_need_a_library_and_other_mistakes(gated_file: Files, tmp_path: Path) -> None:
    folder = unpacked(export_bundle(gated_file("deeplabv3", "argmax", "uint8")).path, tmp_path / "there")
    picture = tmp_path / "image.png"
    cv2.imwrite(str(picture), np.full((30, 40, 3), 90, np.uint8))
    code, _, foreign = ran(folder, str(picture), "--out", str(tmp_path / "m.npy"))
    assert code == 0 and "cv2" in foreign
    code, said, _ = ran(folder, str(picture), hide=("cv2", "PIL"))
    assert code and ".png files need opencv-python or pillow; without them give .npy or .ppm" in said
    np.save(tmp_path / "large.npy", np.zeros((65, 40, 3), np.uint8))
    np.save(tmp_path / "floats.npy", np.zeros((5, 5, 3), np.float32))
    (tmp_path / "cut.ppm").write_bytes(b"P6 10 10 255\nabc")
    (tmp_path / "words.ppm").write_bytes(b"P6 ten 10 255\nabc")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "large.npy").read_bytes()[:150])
    for name, why in (
        ("floats.npy", "uint8 (height, width, 3) is needed"),
        ("cut.ppm", "is cut off"),
        ("none.npy", "does not exist"),
        ("words.ppm", "run.py: ValueError: invalid literal"),
        ("cut.npy", "run.py: ValueError: "),
    ):
        code, said, _ = ran(folder, str(tmp_path / name))
        assert code and why in said and "\n" not in said
    code, said, _ = ran(folder, "--check", "--provider", "CUDAExecutionProvider")
    assert code and "CUDAExecutionProvider: this onnxruntime has " in said
    (tmp_path / "grey.pgm").write_bytes(b"P5 4 3 255\n" + bytes(range(12)))
    assert (runner_images.read_image(tmp_path / "grey.pgm")[2, 3] == 11).all()
    code, said, _ = ran(folder, str(tmp_path / "grey.pgm"), "--out", str(tmp_path / "nowhere" / "m.npy"))
    assert code and "run.py: FileNotFoundError" in said and "\n" not in said
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"more")
    code, said, _ = ran(folder, "--check")
    assert code and "model.onnx is not the file that was bundled" in said


def test_ppm_with_comments(tmp_path: Path) -> None:
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    (tmp_path / "a.ppm").write_bytes(b"P6\n# made by hand\n3 2\n255\n" + pixels.tobytes())
    assert (runner_images.read_image(tmp_path / "a.ppm") == pixels).all()


def test_equal_files_give_equal_bundles_with_a_manifest(gated_file: Files, tmp_path: Path) -> None:
    source = gated_file("pspnet", "logits", "float")
    first, second = (export_bundle(source, path).manifest for path in (None, tmp_path / "again.zip"))
    assert first.file == "model.zip" and first.sha256 == second.sha256 == sha256(tmp_path / "model.zip")
    assert json.loads(manifest_path(tmp_path / "model.zip").read_text())["onnx"]["sha256"] == sha256(source)


def test_an_image_of_the_user_is_said_and_can_be_left_out(
    gated_file: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = gated_file("deeplabv3", "logits", "float", data="mine")
    capsys.readouterr()
    assert not export_bundle(source).manifest.golden.generated
    said = " ".join(capsys.readouterr().out.split())
    assert "holds an image of your data" in said and "--no-golden-image" in said
    facts = export_bundle(source, tmp_path / "b.zip", golden_image=False).manifest.golden
    assert "your data" not in capsys.readouterr().out
    assert facts.generated and facts.reference.startswith("the file itself")
    folder = unpacked(tmp_path / "b.zip", tmp_path / "there")
    assert ran(folder, "--check")[0] == 0


def test_a_file_without_gate_or_golden_image_is_bundled_with_a_warning(
    exported: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "foreign.onnx"
    shutil.copyfile(exported("deeplabv3", "argmax", "uint8"), path)
    assert export_bundle(path).manifest.golden.generated
    said = " ".join(capsys.readouterr().out.split())
    assert "has no golden image" in said and "has passed no gate" in said


def test_no_gate_of_an_earlier_file_is_bundled(gated_run: Run, tmp_path: Path) -> None:
    path = gated_run.export / "model.onnx"
    (row,) = read_gates(gated_run)
    folder = unpacked(export_bundle(path, tmp_path / "a.zip").path, tmp_path / "a")
    assert json.loads((folder / "gates.json").read_text()) == [row.values]
    earlier = row.values | {"sha256": "00"}
    write_json(gated_run.path / "gates.json", [earlier])
    folder = unpacked(export_bundle(path, tmp_path / "b.zip").path, tmp_path / "b")
    assert json.loads((folder / "gates.json").read_text()) == []


def test_what_cannot_be_bundled(gated_file: Files, exported: Files, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a bundle holds an ONNX file"):
        export_bundle(tmp_path / "model.engine")
    path = gated_file("deeplabv3", "logits", "float")
    shutil.copyfile(exported("pspnet", "logits", "float"), path)
    with pytest.raises(WeightsError, match="belongs to another file"):
        export_bundle(path)
