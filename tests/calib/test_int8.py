"""INT8 for ONNX Runtime: what is quantised, how, and that the result still is the same network."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdc.calib.calibrate import calibrate_run
from kdc.calib.commands import calib
from kdc.calib.int8 import inspect, quantise_int8
from kdc.deploy.runtime import open_runtime
from kdc.distill.errors import ExportError, NumbersError, UsageError, WeightsError
from kdc.distill.preprocess import IMAGENET
from kdc.distill.run import Run

K, H, W = 11, 32, 64


def network(path: Path, *, uint8: bool = False, batch: int = 1) -> Path:
    """Write three convolutions, an addition and a resize; with ``uint8`` the normalisation stands in the graph."""
    rng = np.random.default_rng(0)
    widths = {"a": (16, 3), "b": (16, 16), "c": (K, 16)}
    weights = {
        name: (rng.standard_normal((o, i, 3, 3)) / np.sqrt(9 * i)).astype(np.float32) for name, (o, i) in widths.items()
    }
    weights |= {"scales": np.array([1, 1, 2, 2], np.float32)}
    weights["a"][3] *= 40  # one channel far wider than the others: what per-channel scales are for
    node = helper.make_node
    nodes = []
    if uint8:
        weights |= {"mean": np.array(IMAGENET.mean, np.float32), "std": np.array(IMAGENET.std, np.float32)}
        nodes += [node("Cast", ["image"], ["f"], to=TensorProto.FLOAT), node("Sub", ["f", "mean"], ["s"])]
        nodes += [node("Div", ["s", "std"], ["d"]), node("Transpose", ["d"], ["x"], perm=[0, 3, 1, 2])]
    first = "x" if uint8 else "image"
    nodes += [
        node("Conv", [first, "a"], ["ca"], name="one", pads=[1] * 4, strides=[2, 2]),
        node("Relu", ["ca"], ["ra"]),
    ]
    nodes += [node("Conv", ["ra", "b"], ["cb"], name="two", pads=[1] * 4), node("Add", ["cb", "ra"], ["sum"])]
    nodes += [node("Relu", ["sum"], ["rb"]), node("Conv", ["rb", "c"], ["low"], name="classifier", pads=[1] * 4)]
    nodes += [node("Resize", ["low", "", "scales"], ["logits"], name="up", mode="linear")]
    shape, kind = ([batch, H, W, 3], TensorProto.UINT8) if uint8 else ([batch, 3, H, W], TensorProto.FLOAT)
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, K, H, W])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    classes = [f"c{k}" for k in range(K)]
    properties = {"kdc.preprocess": json.dumps(IMAGENET.to_dict()), "kdc.classes": json.dumps(classes)}
    helper.set_model_props(model, properties)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def images(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.integers(0, 256, (H, W, 3), np.uint8) for _ in range(count)]


def tensor(graph: onnx.GraphProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(t) for t in graph.initializer if t.name == name)


def test_scheme_is_unsigned_activations_and_signed_channel_weights(tmp_path):
    report = quantise_int8(network(tmp_path / "m.onnx"), tmp_path / "q.onnx", iter(images(5)))
    assert (report.images, report.convolutions, report.quantised_convolutions) == (5, 3, 2)
    assert report.left_high[0] == "classifier"
    graph = onnx.load(str(tmp_path / "q.onnx")).graph
    kinds = {node.name: node for node in graph.node}
    makers = {name: node for node in graph.node for name in node.output}
    assert kinds["classifier"].input[1] not in makers  # its weights are the float32 ones
    activation, weight = (makers[name] for name in kinds["one"].input[:2])
    assert tensor(graph, activation.input[2]).dtype == np.uint8
    zero = tensor(graph, weight.input[2])
    assert zero.dtype == np.int8
    assert zero.shape == (16,)
    assert not zero.any()
    assert report.line().startswith("2 of 3 convolutions in INT8 from 5 images (minmax)")


@pytest.mark.parametrize("uint8", [False, True])
def test_quantised_network_agrees_and_keeps_its_contract(tmp_path, uint8):
    full, small = network(tmp_path / "m.onnx", uint8=uint8), tmp_path / "q.onnx"
    quantise_int8(full, small, images(8))
    with open_runtime(full) as a, open_runtime(small) as b:
        assert b.precision == "int8"
        assert b.spec == a.spec
        unseen = np.stack(images(9)[8:])
        assert (a.masks(unseen) == b.masks(unseen)).mean() > 0.95
        assert not np.array_equal(a.infer(a.prepare(unseen)), b.infer(b.prepare(unseen)))  # it is another network
    nodes = onnx.load(str(small)).graph.node
    makers = {name: node.op_type for node in nodes for name in node.output}
    for node in nodes:  # the normalisation of the image stays in float32
        if node.op_type in ("Sub", "Div"):
            assert all(makers.get(name) != "DequantizeLinear" for name in node.input)


def test_classifier_and_named_nodes(tmp_path):
    full = network(tmp_path / "m.onnx")
    assert quantise_int8(full, tmp_path / "q.onnx", images(2), keep_classifier=False).quantised_convolutions == 3
    kept = quantise_int8(full, tmp_path / "q.onnx", images(2), keep=["one"])
    assert kept.quantised_convolutions == 1
    assert "one" in kept.left_high


def test_last_batch_is_filled(tmp_path):
    report = quantise_int8(network(tmp_path / "m.onnx", batch=2), tmp_path / "q.onnx", images(3))
    assert report.images == 3


def test_narrow_weights_where_products_saturate(tmp_path, monkeypatch):
    monkeypatch.setattr("kdc.calib.int8.has_vnni", lambda: False)
    report = quantise_int8(network(tmp_path / "m.onnx"), tmp_path / "q.onnx", images(2))
    assert report.reduced_range
    assert "7-bit weights" in report.line()
    graph = onnx.load(str(tmp_path / "q.onnx")).graph
    weights = [
        numpy_helper.to_array(t) for t in graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 4
    ]
    assert weights
    assert max(int(np.abs(w.astype(int)).max()) for w in weights) <= 64


def test_refusals(tmp_path):
    full = network(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="accepted: ort"):
        quantise_int8(full, tmp_path / "q.onnx", images(1), target="trt")
    with pytest.raises(UsageError, match="accepted: minmax, percentile"):
        quantise_int8(full, tmp_path / "q.onnx", images(1), calibrator="mean")
    with pytest.raises(UsageError, match="no node 'clasifier'; did you mean 'classifier'"):
        quantise_int8(full, tmp_path / "q.onnx", images(1), keep=["clasifier"])
    with pytest.raises(UsageError, match="no calibration images"):
        quantise_int8(full, tmp_path / "q.onnx", [])
    assert not (tmp_path / "q.onnx").exists()
    quantise_int8(full, tmp_path / "q.onnx", images(1))
    with pytest.raises(WeightsError, match="is int8 already"):
        quantise_int8(tmp_path / "q.onnx", tmp_path / "r.onnx", images(1))
    assert inspect(onnx.load(str(full)).graph).quantised_convolutions == 0


@pytest.fixture
def run(tmp_path) -> Run:
    options = {"size": [H, W], "count": 6, "val_count": 4, "seed": 0}
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"data": {"source": "builtin", "options": options}}))
    return Run(folder)


def test_run_gets_a_gated_file_with_a_manifest(run):
    with pytest.raises(ExportError, match="kdc export onnx run"):
        calibrate_run(run)
    network(run.export / "model.onnx")
    done = calibrate_run(run, images=4, agreement=0.5, miou_drop=100)
    assert done.path == run.export / "model.int8.ort.onnx"
    assert done.gate.passed
    manifest = json.loads((run.export / "model.int8.ort.onnx.json").read_text())
    assert manifest["precision"] == "int8"
    assert manifest["int8"]["quantised_convolutions"] == 2
    assert len(manifest["calibration"]["keys"]) == 4
    assert (run.calib / "model.int8.ort.json").exists()
    (entry,) = json.loads((run.path / "gates.json").read_text())
    assert entry["stage"] == "onnx model.int8.ort"
    assert entry["passed"]


def test_failed_gate_leaves_no_file(run):
    network(run.export / "model.onnx")
    with pytest.raises(NumbersError, match="did not pass its gate and was removed"):
        calibrate_run(run, images=2, agreement=1.0, miou_drop=-100)
    assert [path.name for path in run.export.iterdir()] == ["model.onnx"]
    with pytest.raises(UsageError, match="accepted: int8, fp16"):
        calibrate_run(run, to="int4")
    with pytest.raises(UsageError, match="accepted: ort"):
        calibrate_run(run, target="trt")


def test_flags_of_a_calibration_do_not_go_with_a_cast(run):
    network(run.export / "model.onnx")
    with pytest.raises(UsageError, match="nothing is calibrated: leave out --images, --split, --calibrator, --seed"):
        calib(str(run.path), to="fp16", images=128, split="train", calibrator="minmax", seed=0)
    assert [path.name for path in run.export.iterdir()] == ["model.onnx"]


def test_half_precision_twin(run):
    network(run.export / "model.onnx")
    done = calibrate_run(run, to="fp16", agreement=0.9)
    assert done.path.name == "model.fp16.onnx"
    with open_runtime(done.path) as runtime:
        assert runtime.precision == "fp16"
