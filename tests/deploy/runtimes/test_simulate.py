"""The float32 twin computes what a typed graph's numbers are: against numpy's and ml_dtypes' own rounding."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdc.deploy.runtimes.ort_runtime import OrtRuntime, read_info
from kdc.deploy.runtimes.simulate import COMPUTED, twin

from ..._made import onnx_file

HALVES = {"bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16), "fp16": (TensorProto.FLOAT16, np.float16)}
RNG = np.random.default_rng(0)
X = RNG.uniform(-9, 9, (1, 3, 8, 8)).astype(np.float32)
WEIGHT = RNG.standard_normal((4, 3, 1, 1)).astype(np.float32)


def saved(path: Path, nodes: list[onnx.NodeProto], stored: list[TensorProto]) -> Path:
    return onnx_file(path, nodes, {"image": X.shape}, {"logits": [1, 4, 8, 8]}, stored, opset=22)


def raw(name: str, kind: int, values: np.ndarray) -> TensorProto:
    return helper.make_tensor(name, kind, list(values.shape), values.tobytes(), raw=True)


def conv(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.einsum("nchw,oc->nohw", x.astype(np.float64), weight[:, :, 0, 0].astype(np.float64))


def test_bfloat16_is_rounded_where_it_is_made(tmp_path: Path) -> None:
    kind, dtype = HALVES["bf16"]
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=kind),
        helper.make_node("Conv", ["x", "w"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("Cast", ["z"], ["logits"], to=TensorProto.FLOAT),
    ]
    path = saved(tmp_path / "m.onnx", nodes, [raw("w", kind, WEIGHT.astype(dtype))])
    runtime = OrtRuntime(path)
    assert (runtime.precision, runtime.provider) == ("bf16", "CPUExecutionProvider, bf16 simulated in float32")
    wanted = np.maximum(conv(X.astype(dtype), WEIGHT.astype(dtype)), 0).astype(np.float32).astype(dtype)
    np.testing.assert_array_equal(runtime.infer(X), wanted.astype(np.float32))
    assert np.abs(wanted.astype(float) - np.maximum(conv(X, WEIGHT), 0)).max() > 1e-3, "nothing was rounded"


@pytest.mark.parametrize("high", ["fp32", "fp16"])
def test_fp8_pairs(tmp_path: Path, high: str) -> None:
    kind, f8 = TensorProto.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn
    dtype = np.float32 if high == "fp32" else np.float16
    scale = np.asarray(7 / 448, dtype)  # X reaches 9: what lies beyond is clipped
    steps = (np.abs(WEIGHT).max((1, 2, 3)) / 448).astype(dtype)
    levels = (WEIGHT / steps.astype(np.float32)[:, None, None, None]).clip(-448, 448).astype(f8)
    stored = [
        raw("w8", kind, levels),
        numpy_helper.from_array(np.asarray(scale), "s"),
        numpy_helper.from_array(steps, "ws"),
    ]
    stored += [raw("z", kind, np.zeros((), f8)), raw("wz", kind, np.zeros(4, f8))]
    first, last = ("x", "y") if high == "fp16" else ("image", "logits")
    nodes = [
        helper.make_node("QuantizeLinear", [first, "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="d"),
        helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["w"], name="wd", axis=0),
        helper.make_node("Conv", ["d", "w"], [last]),
    ]
    if high == "fp16":
        nodes.insert(0, helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT16))
        nodes.append(helper.make_node("Cast", ["y"], ["logits"], to=TensorProto.FLOAT))
    path = saved(tmp_path / "m.onnx", nodes, stored)
    assert read_info(path).precision == ("fp8" if high == "fp32" else "fp8+fp16")
    runtime = OrtRuntime(path)
    x = X.astype(dtype).astype(np.float32) / scale.astype(np.float32)
    restored = x.clip(-448, 448).astype(f8).astype(np.float64) * float(scale)
    wanted = conv(restored, levels.astype(np.float64) * steps.astype(np.float64)[:, None, None, None])
    got = runtime.infer(X)
    np.testing.assert_allclose(
        got, wanted, rtol=2e-5 if high == "fp32" else 1.1e-3, atol=1e-4 if high == "fp32" else 2e-2
    )
    assert np.abs(got - conv(X, WEIGHT)).max() > 0.05


def test_an_overflow_of_float16_is_seen(tmp_path: Path) -> None:
    """INT8 beside float16: a value that float16 does not hold becomes infinite in the twin, too."""
    dtype = np.float16
    levels = np.full((4, 3, 1, 1), 127, np.int8)
    stored = [raw("w8", TensorProto.INT8, levels), numpy_helper.from_array(np.full(4, 100, dtype), "ws")]
    stored += [raw("wz", TensorProto.INT8, np.zeros(4, np.int8)), numpy_helper.from_array(np.asarray(0.1, dtype), "s")]
    stored += [raw("z", TensorProto.INT8, np.zeros((), np.int8))]
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT16),
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["w"], axis=0),
        helper.make_node("Conv", ["d", "w"], ["y"]),
        helper.make_node("Cast", ["y"], ["logits"], to=TensorProto.FLOAT),
    ]
    path = saved(tmp_path / "m.onnx", nodes, stored)
    assert read_info(path).precision == "int8+fp16"
    assert np.isinf(OrtRuntime(path).infer(np.full_like(X, 9))).all()


def test_metadata_stay_and_plain_files_have_no_twin(tmp_path: Path) -> None:
    kind, dtype = HALVES["fp16"]
    nodes = [helper.make_node("Cast", ["image"], ["x"], to=kind), helper.make_node("Conv", ["x", "w"], ["y"])]
    nodes += [helper.make_node("Cast", ["y"], ["logits"], to=TensorProto.FLOAT)]
    path = saved(tmp_path / "m.onnx", nodes, [raw("w", kind, WEIGHT.astype(dtype))])
    model = onnx.load(str(path))
    helper.set_model_props(model, {"kdc.head": '"logits"'})
    assert [prop.key for prop in twin(model).metadata_props] == ["kdc.head"]
    runtime = OrtRuntime(path)
    assert runtime.precision in COMPUTED and runtime.provider == "CPUExecutionProvider"
