"""Where the Q/DQ pairs stand, what their scales are, and that the graph computes what they say."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, numpy_helper

from kdc.calib.calibrators import ranges, rounded
from kdc.calib.histograms import collect
from kdc.calib.onnx_graph import finished, load_named
from kdc.calib.qdq import inspect, least_opset, place, precision_of

#: made-up multiply-adds of the layers
WORK = dict.fromkeys(("stem", "one_a", "one_b", "two_a", "two_b", "two_d", "project"), 9) | {"classifier": 7}
Built = tuple[onnx.ModelProto, dict[str, tuple[float, float]]]


@pytest.fixture
def built(tmp_path: Path, network: Any, images: Any) -> Built:
    """The float32 graph and the ranges of its activations."""
    path = network(tmp_path / "m.onnx")
    return load_named(str(path)), ranges(collect(path, images(4)).tensors, "minmax", "s8")


def pairs(graph: onnx.GraphProto) -> dict[str, str]:
    """Tensor -> the scale with which it is quantised."""
    return {node.input[0]: node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"}


def tensors(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def test_pairs_stand_where_tensorrt_wants_them(built: Built) -> None:
    model, kept = built
    place(model, kept)
    graph = finished(model, "int8").graph
    quantised = pairs(graph)
    # in front of convolutions, of the pooling, of what is concatenated; b3 is the short cut's branch of the second sum
    assert set(quantised) == {"image", "s1", "p", "a1", "low", "b1", "b3", "b5", "up", "cat"}
    nodes = {node.name: node for node in graph.node}
    for name in ("stem", "one_a", "one_b", "two_a", "two_b", "two_d", "project"):
        assert nodes[name].input[0].endswith("_dequantized") and nodes[name].input[1].endswith("weight_dequantized")
        assert nodes[name].input[2] in {tensor.name for tensor in graph.initializer}, "the bias is not quantised"
    # the residual sums: one branch comes straight from its convolution, the other one quantised
    assert list(nodes["one_add"].input) == ["a2", "p_dequantized"]
    assert list(nodes["two_add"].input) == ["b3_dequantized", "b2"]
    # nothing between a convolution, or a sum, and its activation
    for name, given in (("stem_relu", "s0"), ("one_out", "a3"), ("two_out", "b4"), ("project_relu", "c0")):
        assert list(nodes[name].input) == [given]
    assert list(nodes["classifier"].input) == ["c1", "model.head.classifier.weight", "model.head.classifier.bias"]
    assert nodes["full"].input[0] == "small"
    assert nodes["pool"].input[0] == "s1_dequantized" and nodes["up"].input[0] == "b5_dequantized"
    counts = inspect(graph, WORK)
    assert (counts.products, counts.quantised_products, counts.left_high) == (8, 7, ["classifier"])
    assert counts.share == 0.9


def test_scales(built: Built) -> None:
    model, kept = built
    weights = tensors(model.graph)
    place(model, kept)
    values = tensors(model.graph)
    # what is concatenated has one scale, as have both sides of a pooling and of a resize
    shared = max(max(-kept[name][0], kept[name][1]) for name in ("low", "up", "cat", "b5"))
    for name in ("low", "up", "cat", "b5"):
        assert values[f"{name}_scale"] == np.float32(shared / 127)
    assert values["s1_scale"] == values["p_scale"] == np.float32(max(kept["s1"][1], kept["p"][1]) / 127)
    assert values["image_scale"] == np.float32(max(-kept["image"][0], kept["image"][1]) / 127)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in ("model.stem.weight", "model.layer2.0.downsample.0.weight"):
        amax = np.abs(weights[name]).max((1, 2, 3))
        np.testing.assert_allclose(values[f"{name}_scale"], amax / 127, rtol=1e-7)
        assert stored[f"{name}_quantized"].data_type == TensorProto.INT8
        assert np.abs(values[f"{name}_quantized"].astype(int)).max((1, 2, 3)).tolist() == [127] * len(amax)
        restored = values[f"{name}_quantized"] * values[f"{name}_scale"][:, None, None, None]
        assert (np.abs(restored - weights[name]).max((1, 2, 3)) <= amax / 254 * 1.001).all()
        assert name not in stored, "the float32 weights must not stay behind"
    zeros = [values[name] for name in values if name.endswith("_zero")]
    assert zeros and not any(zero.any() for zero in zeros)
    assert {node.attribute[0].i for node in model.graph.node if "weight" in node.name} == {0}


def test_kept_nodes_stay_unchanged(built: Built) -> None:
    model, kept = built
    place(model, kept, keep=["one_a", "two_b", "cat", "project"])
    nodes = {node.name: node for node in model.graph.node}
    assert nodes["one_a"].input[0] == "p" and nodes["two_b"].input[1] == "model.layer2.0.conv2.weight"
    # nothing is fused into the convolution of the short cut's partner now: the sum is fused with the other
    assert list(nodes["two_add"].input) == ["b3", "b2_dequantized"]
    assert list(nodes["cat"].input) == ["low", "up"] and "up" not in pairs(model.graph)
    assert inspect(model.graph, WORK).left_high == ["one_a", "two_b", "project", "classifier"]


def test_the_graph_computes_what_the_pairs_say(built: Built, images: Any) -> None:
    """Against convolutions of torch in float64 on numbers rounded by numpy."""
    model, kept = built
    plain_model = onnx.ModelProto()
    plain_model.CopyFrom(model)
    w = {name: torch.from_numpy(value.copy()).double() for name, value in tensors(model.graph).items()}
    place(model, kept)
    model = finished(model, "int8")
    scales = tensors(model.graph)

    def q(x: torch.Tensor, name: str) -> torch.Tensor:
        amax = float(scales[f"{name}_scale"]) * 127
        return torch.from_numpy(rounded(x.numpy(), (-amax, amax), "s8"))

    def conv(x: torch.Tensor, layer: str, **how: Any) -> torch.Tensor:
        step = torch.from_numpy(scales[f"model.{layer}.weight_scale"].copy()).double()[:, None, None, None]
        weight = (w[f"model.{layer}.weight"] / step).round().clamp(-127, 127) * step
        return F.conv2d(x, weight, w[f"model.{layer}.bias"], **how)

    x = (np.stack(images(1)).transpose(0, 3, 1, 2) / 64 - 2).astype(np.float32)
    s1 = conv(q(torch.from_numpy(x).double(), "image"), "stem", padding=1, stride=2).relu()
    p = F.max_pool2d(q(s1, "s1"), 3, 1, 1)
    a1 = conv(q(p, "p"), "layer1.0.conv1", padding=1).relu()
    low = (conv(q(a1, "a1"), "layer1.0.conv2", padding=1) + q(p, "p")).relu()
    b1 = conv(q(low, "low"), "layer2.0.conv1", padding=1, stride=2).relu()
    short = conv(q(low, "low"), "layer2.0.downsample.0", stride=2)
    b5 = (q(short, "b3") + conv(q(b1, "b1"), "layer2.0.conv2", padding=1)).relu()
    for name, wanted in (("low", low), ("b5", b5)):
        got = ran(model, x, name)
        # a value between two levels may be rounded either way, which moves single outputs by a level
        apart = np.abs(got - wanted.numpy())
        assert np.quantile(apart, 0.98) < 1e-6 * np.abs(got).max()
        assert apart.max() < 3 * scales[f"{name}_scale"]
        plain = np.abs(ran(plain_model, x, name) - wanted.numpy())
        assert apart.mean() < 0.02 * plain.mean(), "as far from it as the float32 network"


def ran(model: onnx.ModelProto, x: np.ndarray, output: str) -> np.ndarray:
    """Run a graph as it is written, nothing fused."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.append(onnx.ValueInfoProto(name=output))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([output], {"image": x})[0])


def test_fp8_is_for_convolutions_alone(built: Built) -> None:
    model, kept = built
    place(model, kept, grid="e4m3")
    graph = finished(model, "fp8").graph
    assert set(pairs(graph)) == {"image", "p", "a1", "low", "b1", "cat"}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    assert stored["model.stem.weight_quantized"].data_type == TensorProto.FLOAT8E4M3FN
    assert stored["image_zero"].data_type == TensorProto.FLOAT8E4M3FN
    assert tensors(graph)["low_scale"] == np.float32(kept["low"][1] / 448)
    largest = np.abs(tensors(graph)["model.stem.weight_quantized"].astype(float)).max((1, 2, 3))
    assert set(largest) == {448}


def test_scales_are_exact_in_the_type_of_the_rest(built: Built) -> None:
    model, kept = built
    dead = next(tensor for tensor in model.graph.initializer if tensor.name == "model.stem.weight")
    weights = numpy_helper.to_array(dead).copy()
    weights[0] = 1e-9
    dead.CopyFrom(numpy_helper.from_array(weights, dead.name))
    place(model, kept, high="fp16")
    scales = {name: value for name, value in tensors(model.graph).items() if name.endswith("_scale")}
    for value in scales.values():
        np.testing.assert_array_equal(value.astype(np.float16).astype(np.float32), value)
        assert (value >= 2.0**-14).all(), "a dead channel must not get a scale that float16 flushes to zero"
    assert precision_of("s8", "fp16") == "int8+fp16" and precision_of("e4m3", "fp32") == "fp8"
    assert precision_of("u8", "fp32") == "int8"


def test_the_opset_that_a_form_needs() -> None:
    assert least_opset(None, "fp32") == 0, "what is cast, and what NNCF quantises, stays as it is"
    assert least_opset("u8", "fp32") == least_opset("s8", "fp32") == 13, "a scale for each channel"
    assert least_opset("s8", "fp16") == least_opset("e4m3", "fp32") == 19, "scales in float16, and 8-bit floats"


def test_a_normalisation_in_the_graph_stays_high(tmp_path: Path, network: Any, images: Any) -> None:
    path = network(tmp_path / "m.onnx", uint8=True)
    model = load_named(str(path))
    place(model, ranges(collect(path, images(1)).tensors, "minmax", "s8"))
    assert "x" in pairs(model.graph) and not {"f", "centred", "d"} & set(pairs(model.graph))
