"""The float16 cast: types, ranges and numbers."""

import sys
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdc.calib import autocast as modelopt
from kdc.calib.calibration import Calibration
from kdc.calib.cast import LARGEST, cast_half, cast_model
from kdc.calib.histograms import Statistics
from kdc.calib.low_precision import Form, LowPrecisionWriter, check_caster
from kdc.calib.onnx_graph import finished
from kdc.calib.qdq import place
from kdc.deploy.runtimes.open import open_runtime
from kdc.distill.errors import ExportError, WeightsError

RNG = np.random.default_rng(0)
HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def network(weight: np.ndarray | None = None) -> onnx.ModelProto:
    """Image -> Mul -> Conv -> Relu -> { ReduceMean -> Expand (by Shape), as it is } -> Add -> Resize -> logits."""
    weight = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32) if weight is None else weight
    constants = {
        "scale": np.array([0.017, 0.018, 0.019], np.float32).reshape(1, 3, 1, 1),
        "weight": weight,
        "bias": RNG.standard_normal(4).astype(np.float32),
        "axes": np.array([2, 3], np.int64),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    nodes = [
        helper.make_node("Mul", ["image", "scale"], ["scaled"], name="normalise"),
        helper.make_node("Conv", ["scaled", "weight", "bias"], ["conv"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"], name="relu"),
        helper.make_node("ReduceMean", ["relu", "axes"], ["mean"], name="mean"),
        helper.make_node("Shape", ["relu"], ["shape"], name="shape"),
        helper.make_node("Expand", ["mean", "shape"], ["wide"], name="expand"),
        helper.make_node("Add", ["relu", "wide"], ["sum"], name="add"),
        helper.make_node("Resize", ["sum", "", "scales"], ["logits"], name="resize", mode="linear"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", FLOAT, [1, 4, 16, 16])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {"kdc.head": '"logits"'})
    return model


def types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def ran(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": x})[0])


def test_types_stand_where_they_should() -> None:
    model = network()
    report = cast_model(model)
    kinds = types(model)
    assert (kinds["image"], kinds["scaled"], kinds["logits"]) == (
        FLOAT,
        FLOAT,
        FLOAT,
    )  # io, and what prepares the image
    assert all(kinds[name] == HALF for name in ("conv", "relu", "sum", "weight_fp16", "bias_fp16"))
    assert kinds["mean"] == FLOAT and kinds["wide"] == HALF  # the blocked sum, and what follows it
    assert kinds["scales"] == FLOAT  # Resize wants its scales in float32
    assert "weight" not in kinds, "the float32 weights must not stay behind"
    shape = next(node for node in model.graph.node if node.op_type == "Shape")
    assert list(shape.input) == ["relu"], "a shape needs no cast"
    assert sorted(report.float_nodes) == ["mean", "normalise"]
    assert report.half_nodes == 5 and report.initializers == 2
    assert report.casts == sum(node.op_type == "Cast" for node in model.graph.node) == 4


def test_numbers_stay(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "a.onnx")
    cast_half(tmp_path / "a.onnx", tmp_path / "b.onnx")
    x = RNG.uniform(0, 255, (1, 3, 8, 8)).astype(np.float32)
    half = onnx.load(tmp_path / "b.onnx")
    reference, candidate = ran(onnx.load(tmp_path / "a.onnx"), x), ran(half, x)
    apart = np.abs(candidate - reference).max()
    assert 0 < apart < 1e-2 * np.abs(reference).max(), "equal would mean that nothing was computed in float16"
    said = {prop.key: prop.value for prop in half.metadata_props}
    assert said == {"kdc.head": '"logits"', "kdc.precision": '"fp16"'}
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.onnx", "b.onnx"]


def test_values_beyond_the_range_are_clamped_and_told() -> None:
    weight = np.full((4, 3, 3, 3), 1e-9, np.float32)
    weight[0, 0, 0, 0], weight[1, 0, 0, 0], weight[2, 0, 0, 0] = 1e6, -7e4, 1.0
    model = network(weight)
    report = cast_model(model)
    cast = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "weight_fp16")
    assert (cast[0, 0, 0, 0], cast[1, 0, 0, 0], cast[2, 0, 0, 0]) == (LARGEST, -LARGEST, 1)
    assert report.clamped == {"weight": 2}
    assert report.flushed == weight.size - 3
    assert "CLAMPED to 65504 in 1 initialisers: weight (2)" in report.line()


def test_block_lists() -> None:
    model = network()
    cast_model(model, block_nodes=["resize"], block_ops=())
    kinds = types(model)
    assert kinds["mean"] == HALF and kinds["sum"] == HALF
    resize = next(node for node in model.graph.node if node.name == "resize")
    assert list(resize.output) == ["logits"] and kinds[resize.input[0]] == FLOAT


def test_an_output_that_is_also_used_inside() -> None:
    model = network()
    model.graph.output.append(helper.make_tensor_value_info("relu", FLOAT, [1, 4, 8, 8]))
    cast_model(model)
    kinds = types(model)
    assert kinds["relu"] == FLOAT and kinds["relu_fp16"] == HALF
    assert next(node for node in model.graph.node if node.name == "add").input[0] == "relu_fp16"


def test_what_it_refuses(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(WeightsError, match="not a readable ONNX file"):
        cast_half(tmp_path / "bad.onnx", tmp_path / "out.onnx")
    with pytest.raises(ExportError, match="no node named 'node_x'"):
        cast_model(network(), block_nodes=["node_x"])
    model = network()
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("If", ["cond"], ["y"], then_branch=body, else_branch=body))
    with pytest.raises(ExportError, match="control flow"):
        cast_model(model)


def test_bfloat16(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "a.onnx")
    report = cast_half(tmp_path / "a.onnx", tmp_path / "b.onnx", low="bf16")
    model = onnx.load(tmp_path / "b.onnx")
    assert model.opset_import[0].version == 22, "older opsets have no bfloat16 convolution"
    kinds = types(model)
    assert all(kinds[name] == TensorProto.BFLOAT16 for name in ("conv", "relu", "weight_bf16", "bias_bf16"))
    assert (kinds["image"], kinds["mean"], kinds["logits"]) == (FLOAT, FLOAT, FLOAT)
    whole = numpy_helper.to_array(
        next(t for t in onnx.load(tmp_path / "a.onnx").graph.initializer if t.name == "weight")
    )
    half = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "weight_bf16"))
    np.testing.assert_array_equal(half.astype(np.float32), whole.astype(ml_dtypes.bfloat16).astype(np.float32))
    assert report.line().startswith("5 nodes in bfloat16, 2 in float32, 4 casts")
    x = RNG.uniform(0, 255, (1, 3, 8, 8)).astype(np.float32)
    reference = ran(onnx.load(tmp_path / "a.onnx"), x)
    with open_runtime(tmp_path / "b.onnx") as runtime:
        assert (runtime.precision, runtime.provider) == ("bf16", "CPUExecutionProvider, bf16 simulated in float32")
        apart = np.abs(runtime.infer(x) - reference).max()
    assert 1e-4 * np.abs(reference).max() < apart < 3e-2 * np.abs(reference).max()


def test_a_range_beyond_float16_stays_in_float32_with_a_warning() -> None:
    largest = {"image": 255.0, "scaled": 5.0, "conv": 4e4, "relu": 3e4, "sum": 20.0, "logits": 21.0}
    model = network()
    report = cast_model(model, largest=largest)
    assert report.overflowing == {"conv": 4e4, "relu": 4e4} and next(iter(report.largest.items())) == ("conv", 4e4)
    kinds = types(model)
    assert kinds["conv"] == kinds["relu"] == FLOAT and kinds["sum"] == HALF
    assert "largest activation 4e+04 at conv; 2 nodes stay in float32 because of their range" in report.line()
    wide = network()
    assert not cast_model(wide, low="bf16", largest=largest).overflowing, "bfloat16 reaches as far as float32"
    assert types(wide)["conv"] == TensorProto.BFLOAT16


def test_quantised_graphs_keep_their_pairs_together() -> None:
    model = network()
    extra = helper.make_node("Conv", ["sum", "weight2"], ["conv2"], name="conv2")
    model.graph.node.insert(7, extra)
    model.graph.node[8].input[0] = "conv2"
    model.graph.initializer.append(
        numpy_helper.from_array(RNG.standard_normal((4, 4, 1, 1)).astype(np.float32), "weight2")
    )
    place(model, {"scaled": (-2.0, 2.0), "sum": (-9.0, 9.0)}, high="fp16")
    cast_model(model)
    model = finished(model, "int8+fp16")
    kinds, nodes = types(model), {node.name: node for node in model.graph.node}
    quantise, restore = nodes["quantize_scaled"], nodes["dequantize_scaled"]
    # Q as what it reads, DQ as what reads it: no cast parts a pair from its convolution
    assert kinds[quantise.input[0]] == kinds[quantise.input[1]] == FLOAT
    assert list(nodes["conv"].input)[:2] == [restore.output[0], "weight_dequantized"]
    assert kinds[restore.input[1]] == kinds[restore.output[0]] == kinds["weight_dequantized"] == HALF
    assert kinds[restore.input[0]] == TensorProto.INT8


@pytest.fixture
def fake_modelopt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stand-in for ModelOpt, which shares no environment with this ONNX Runtime."""
    folder = tmp_path / "site" / "modelopt" / "onnx" / "autocast"
    folder.mkdir(parents=True)
    for each in (folder, folder.parent, folder.parent.parent):
        (each / "__init__.py").write_text("")
    (folder / "__init__.py").write_text(
        "asked = {}\n"
        "def convert_to_mixed_precision(**given):\n"
        "    import onnx\n"
        "    from kdc.calib.cast import cast_model\n"
        "    asked.update(given)\n"
        "    model = onnx.load(given['onnx_path'])\n"
        "    del model.metadata_props[:]\n"
        "    cast_model(model, low=given['low_precision_type'])\n"
        "    return model\n"
    )
    real = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "modelopt"}
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    _forget_modelopt()
    yield tmp_path
    _forget_modelopt()  # what stays imported counts as installed in every later test
    sys.modules.update(real)


def _forget_modelopt() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "modelopt"]:
        del sys.modules[name]


def test_autocast_casts_where_it_is_installed(fake_modelopt: Path) -> None:
    onnx.save(network(), fake_modelopt / "a.onnx")
    assert modelopt.modelopt_version() == "of unknown version"
    settings = {"block_nodes": ["add"], "largest": {"wide": 6e4}}
    report = modelopt.autocast(fake_modelopt / "a.onnx", fake_modelopt / "b.onnx", low="fp16", **settings)
    asked = sys.modules["modelopt.onnx.autocast"].asked  # type: ignore[attr-defined]
    assert asked["nodes_to_exclude"] == ["^add$", "^normalise$", "^expand$"]
    assert asked["op_types_to_exclude"] == ["GlobalAveragePool", "ReduceMean", "ReduceSum"]
    assert (asked["keep_io_types"], asked["data_max"], asked["init_max"]) == (True, float("inf"), LARGEST)
    said = {prop.key: prop.value for prop in onnx.load(fake_modelopt / "b.onnx").metadata_props}
    assert said == {"kdc.head": '"logits"', "kdc.precision": '"fp16"'}
    assert (report.half_nodes, report.casts) == (5, 4) and report.overflowing == {"expand": 6e4, "add": 6e4}
    assert "(ModelOpt of unknown version AutoCast)" in report.line()
    assert sorted(path.name for path in fake_modelopt.iterdir()) == ["a.onnx", "b.onnx", "site"]


@pytest.mark.parametrize(("caster", "recorded"), [("kdc", "kdc"), ("modelopt", "ModelOpt of unknown version AutoCast")])
def test_modelopt_casts_only_on_request(fake_modelopt: Path, caster: str, recorded: str) -> None:
    onnx.save(network(), fake_modelopt / "a.onnx")
    calibration = Calibration(fake_modelopt / "a.onnx", [])
    vars(calibration)["statistics"] = Statistics({}, 0, "")
    check_caster(caster)
    report = LowPrecisionWriter(Form("fp16", "trt"), calibration, caster=caster).write(fake_modelopt / "b.onnx")
    assert report.to_dict()["caster"] == recorded


def test_a_caster_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelopt", None)
    with pytest.raises(ExportError, match=r"not installed .*pip install 'kdc\[modelopt\]'") as caught:
        check_caster("modelopt")
    assert caught.value.exit_code == 5
