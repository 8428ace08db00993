"""INT8 of networks that are no plain chain of convolutions: matrix products, attention, old opsets, other files."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper

from kdc import cli
from kdc.calib.calibrate import Settings, calibrate_run
from kdc.calib.calibration import Calibration
from kdc.calib.low_precision import Form, LowPrecisionWriter
from kdc.calib.onnx_graph import groups, layers, load_named, tail
from kdc.calib.qdq import Quantised
from kdc.deploy.artefacts.beside import artefact_bytes
from kdc.deploy.runtimes.open import open_runtime
from kdc.distill.errors import ExportError, NumbersError
from kdc.distill.preprocess import IMAGENET
from kdc.distill.run.folder import Run
from kdc.export.to_trt import BuildFlags, build_engine

from .._made import onnx_file

H, W, K, C, TOKENS = 32, 64, 11, 16, 32
LOOSE: dict[str, Any] = {"images": 4, "agreement": 0.3, "max_drop": 100}
node = helper.make_node
needs_rtx = pytest.mark.skipif(not importlib.util.find_spec("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
needs_openvino = pytest.mark.skipif(
    not (importlib.util.find_spec("openvino") and importlib.util.find_spec("nncf")),
    reason="openvino or nncf is not installed",
)
ORT, OPENVINO, TRT, HALF, FP8 = (
    Form("int8", "ort"),
    Form("int8", "openvino"),
    Form("int8", "trt"),
    Form("int8", "trt", "fp16"),
    Form("fp8", "trt", "fp16"),
)
TO_TRT = [TRT, HALF, FP8]


def write(path: Path, nodes: list[NodeProto], stored: dict[str, np.ndarray], opset: int = 20) -> Path:
    facts = {"kdc.preprocess": IMAGENET.to_dict(), "kdc.classes": [f"c{k}" for k in range(K)]}
    return onnx_file(path, nodes, {"image": [1, 3, H, W]}, {"logits": [1, K, H, W]}, stored, opset=opset, facts=facts)


def drawn(*shape: int, inputs: int) -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    return (rng.standard_normal(shape) / np.sqrt(inputs)).astype(np.float32)


def transformer(path: Path, opset: int = 20) -> Path:
    """A block as SegFormer's: patches, norm, attention, GELU between a product and a Gemm, and a classifier."""
    stored = {
        "patch.weight": drawn(C, 3, 8, 8, inputs=192),
        **{f"block.{x}.bias": drawn(C, inputs=4) for x in "qkvo"},
        **{x: drawn(C, C, inputs=C) for x in "qkvo"},
        "gamma": 1 + drawn(C, inputs=16),
        "beta": drawn(C, inputs=16),
        # as an exporter leaves it that folds nothing: turned in the graph
        "fc1.weight": drawn(4 * C, C, inputs=C),
        "fc2.weight": drawn(C, 4 * C, inputs=4 * C),
        "fc2.bias": drawn(C, inputs=4),
        "up.weight": drawn(C, C, 8, 8, inputs=C),
        "classifier.weight": drawn(K, C, 1, 1, inputs=C),
        "rows": np.array([1, C, TOKENS]),
        "flat": np.array([TOKENS, C]),
        "plain": np.array([1, C, H // 8, W // 8]),
        "root": np.float32(np.sqrt(C)),
        **{name: np.float32(value) for name, value in (("two", np.sqrt(2)), ("one", 1), ("half", 0.5))},
    }
    nodes = [
        node("Conv", ["image", "patch.weight"], ["p"], name="patch", strides=[8, 8]),
        node("Reshape", ["p", "rows"], ["r"]),
        node("Transpose", ["r"], ["x"], perm=[0, 2, 1]),
        node("LayerNormalization", ["x", "gamma", "beta"], ["n"], name="norm"),
        *(part for x in "qkv" for part in linear("n", x)),
        node("Transpose", ["k_out"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q_out", "kt"], ["scores"], name="scores"),
        node("Div", ["scores", "root"], ["scaled"]),
        node("Softmax", ["scaled"], ["weights"], axis=-1),
        node("MatMul", ["weights", "v_out"], ["y"], name="mix"),
        *linear("y", "o"),
        node("Add", ["x", "o_out"], ["x1"], name="residual"),
        node("Transpose", ["fc1.weight"], ["fc1"], perm=[1, 0]),
        node("MatMul", ["x1", "fc1"], ["h"], name="fc1"),
        *(node("Div", ["h", "two"], ["e0"]), node("Erf", ["e0"], ["e1"]), node("Add", ["e1", "one"], ["e2"])),
        *(
            node("Mul", ["h", "e2"], ["e3"]),
            node("Mul", ["e3", "half"], ["g"]),
            node("Squeeze", ["g", "first"], ["g2"]),
        ),
        node("Gemm", ["g2", "fc2.weight", "fc2.bias"], ["f"], name="fc2", transB=1),
        node("Transpose", ["f"], ["ft"], perm=[1, 0]),
        node("Reshape", ["ft", "plain"], ["map"]),
        node("ConvTranspose", ["map", "up.weight"], ["u"], name="up", strides=[8, 8]),
        node("Relu", ["u"], ["ru"]),
        node("Conv", ["ru", "classifier.weight"], ["logits"], name="classifier"),
    ]
    return write(path, nodes, stored | {"first": np.array([0])}, opset)


def linear(given: str, x: str) -> list[NodeProto]:
    return [
        node("MatMul", [given, x], [f"{x}_raw"], name=x),
        node("Add", [f"{x}_raw", f"block.{x}.bias"], [f"{x}_out"]),
    ]


def chain(path: Path, opset: int = 20, kernel: int = 3) -> Path:
    """Two convolutions and a classifier."""
    stored = {
        "a.weight": drawn(8, 3, kernel, kernel, inputs=27),
        "b.weight": drawn(8, 8, kernel, kernel, inputs=72),
        "c.weight": drawn(K, 8, 1, 1, inputs=8),
    }
    pads = [kernel // 2] * 4
    nodes = [
        node("Conv", ["image", "a.weight"], ["a"], name="first", pads=pads),
        node("Relu", ["a"], ["ar"], name="relu"),
        node("Conv", ["ar", "b.weight"], ["b"], name="second", pads=pads),
        node("Relu", ["b"], ["br"]),
        node("Conv", ["br", "c.weight"], ["logits"], name="classifier"),
    ]
    return write(path, nodes, stored, opset)


def made(source: Path, form: Form, images: Any, keep: Any = ()) -> tuple[Path, Quantised, float]:
    """Write a form; return the file, its report, and how far its logits are from float32's, in decibels."""
    out = form.path(source)
    report = LowPrecisionWriter(form, Calibration(source, images(4))).write(out, calibrator="minmax", keep=keep)
    assert isinstance(report, Quantised)
    with open_runtime(source) as full, open_runtime(out) as low:
        x = full.prepare(np.stack(images(1)))
        wanted, got = full.infer(x), low.infer(x)
    return out, report, 10 * float(np.log10((wanted**2).mean() / ((wanted - got) ** 2).mean()))


HIGH = {"scores", "mix", "classifier"}


@pytest.mark.parametrize(
    ("form", "lowest"),
    [(ORT, 25), (TRT, 25), (HALF, 25), (FP8, 18), pytest.param(OPENVINO, 25, marks=needs_openvino)],
)
def test_products_with_weights_are_quantised(form: Form, lowest: float, tmp_path: Path, images: Any) -> None:
    out, report, decibels = made(transformer(tmp_path / "m.onnx"), form, images)
    # ONNX Runtime has no transposed convolution of integers; what attends, NNCF quantises too
    high = {"ort": {"scores", "mix", "up", "classifier"}, "openvino": {"classifier"}}.get(form.target, HIGH)
    assert set(report.left_high) == high and all(name in report.line() for name in high)
    count = 9 if form.target == "openvino" else 11  # three products of one input are one there
    assert (report.products, report.quantised_products) == (count, count - len(high)) and 0.05 < report.share < 1
    assert lowest < decibels < 60, "rounded, and still the same network"
    if form.target == "trt":
        graph = onnx.load(out).graph
        axes = {each.name: each.attribute[0].i for each in graph.node if each.op_type[0] == "D" and each.attribute}
        sizes = {each.name.removesuffix("_fp16"): list(each.dims) for each in graph.initializer}
        for name, axis in (("q", 1), ("fc1", 1), ("fc2.weight", 0), ("up.weight", 1), ("patch.weight", 0)):
            assert axes[f"dequantize_{name}"] == axis, "a scale for each output channel"
            assert sizes[f"{name}_scale"] == [4 * C if name == "fc1" else C]


@needs_rtx
@pytest.mark.trt
@pytest.mark.parametrize("form", TO_TRT)
def test_tensorrt_builds_a_transformer(form: Form, tmp_path: Path, images: Any) -> None:
    out = made(transformer(tmp_path / "m.onnx", 17), form, images)[0]
    assert build_engine(out, tmp_path / "m.engine", BuildFlags(flavour_name="tensorrt_rtx"))


def test_the_structure_of_a_transformer(tmp_path: Path) -> None:
    graph = load_named(str(transformer(tmp_path / "m.onnx"))).graph
    assert layers(graph) == {
        **dict.fromkeys(("patch", "fc2", "classifier"), 0),
        **dict.fromkeys(("q", "k", "v", "o", "fc1", "up"), 1),
    }
    assert tail(graph) == ["classifier"]
    assert groups(graph)["block.q"] and "patch" in groups(graph), "named by weights, else by the bias that is added"


def test_a_pooling_written_as_a_product_is_left_alone(tmp_path: Path, images: Any) -> None:
    stored = {
        "a.weight": drawn(K, 3, 1, 1, inputs=3),
        "mean": np.eye(W, dtype=np.float32),
        "v": drawn(K, K, 1, 1, inputs=K),
    }
    nodes = [
        node("Conv", ["image", "a.weight"], ["a"], name="first"),
        node("MatMul", ["a", "mean"], ["m"], name="pool"),
        node("Conv", ["m", "v"], ["b"], name="second"),
        node("Conv", ["b", "v"], ["logits"], name="classifier"),
    ]
    path = write(tmp_path / "m.onnx", nodes, stored)
    for form in (ORT, TRT):
        report = made(path, form, images)[1]
        assert (report.products, report.left_high) == (3, ["classifier"])


@pytest.mark.parametrize("form", [ORT, TRT, HALF, FP8])
def test_an_old_opset_is_raised(form: Form, tmp_path: Path, images: Any) -> None:
    out, report, decibels = made(chain(tmp_path / "m.onnx", opset=11), form, images)
    model = onnx.load(out)
    assert model.opset_import[0].version == (19 if form in (HALF, FP8) else 13)
    assert report.left_high == ["classifier"] and decibels > 18
    assert {"kdc.preprocess", "kdc.classes", "kdc.precision"} <= {each.key for each in model.metadata_props}
    scales = [each for each in model.graph.initializer if each.name.startswith("b.weight") and "scale" in each.name]
    assert scales and list(scales[0].dims) == [8], "a scale for each channel"


def test_what_cannot_be_raised_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no adapter\nat version_conversion.h:72")

    path = chain(tmp_path / "m.onnx", opset=11)
    monkeypatch.setattr("onnx.version_converter.convert_version", fail)
    with pytest.raises(ExportError, match=r"of opset 11, this needs 13, .* \(no adapter\); export it again") as caught:
        load_named(str(path), 13)
    assert "\n" not in str(caught.value)


def test_a_network_of_one_layer_is_quantised_itself(tmp_path: Path, images: Any) -> None:
    """A classifier that is the whole network does not stay high, or nothing would be INT8 about the file."""
    one = [node("Conv", ["image", "w"], ["logits"], name="only")]
    path = write(tmp_path / "m.onnx", one, {"w": drawn(K, 3, 1, 1, inputs=3)})
    for form in (ORT, TRT):
        assert made(path, form, images)[1].share == 1


def in_run(run: Run, write: Callable[[Path], Path]) -> Path:
    (run.export / "model.onnx").unlink()
    return write(run.export / "model.onnx")


@pytest.mark.parametrize(("to", "target"), [("int8", "ort"), ("int8", "trt"), ("fp16", "trt")])
def test_less_than_half_is_refused_and_allowed(
    run: Run, to: str, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second convolution has 8/11 of what the first two compute."""
    in_run(run, chain)
    line = [
        "calib",
        str(run.path),
        "--to",
        to,
        "--for",
        target,
        "--images",
        "4",
        "--agreement",
        "0.1",
        "--keep",
        "second",
    ]
    assert cli.run([*line, "--max-drop", "100"] if to == "fp16" else line) == 6
    out = capsys.readouterr().err
    assert f"of the multiply-adds would be in {to.upper()}, at least 50% are needed: left in" in out
    assert "second" in out and len(out.strip().splitlines()) == 1
    assert [path.name for path in run.export.glob("*.onnx")] == ["model.onnx"]
    assert cli.run([*line, "--allow-partial"]) == 0
    manifest = json.loads(next(run.export.glob(f"model.{to}*.onnx.json")).read_text())
    assert 0 < manifest["cast" if to == "fp16" else "int8"]["share"] < 0.5


def test_half_of_the_layers_may_be_most_of_the_work(run: Run) -> None:
    in_run(run, chain)
    done = calibrate_run(run, Settings(keep=["first"], **LOOSE))
    assert done.manifest.to_dict()["int8"]["share"] == pytest.approx(576 / (216 + 576 + 88))
    with pytest.raises(NumbersError, match="only 25% of the multiply-adds"):
        calibrate_run(run, Settings(keep=["second"], **LOOSE))


def test_sizes_count_the_weights_beside_a_file(run: Run) -> None:
    full = in_run(run, chain)
    whole = full.stat().st_size
    onnx.save(onnx.load(full), full, save_as_external_data=True, location="model.weights", size_threshold=64)
    assert full.stat().st_size < whole / 2 and artefact_bytes(full) >= 0.9 * whole
    done = calibrate_run(run, Settings(**LOOSE))
    report = done.manifest.to_dict()["int8"]
    assert report["bytes_before"] == artefact_bytes(full) and report["bytes_after"] == done.path.stat().st_size
    assert TensorProto.EXTERNAL not in {each.data_location for each in onnx.load(done.path).graph.initializer}
