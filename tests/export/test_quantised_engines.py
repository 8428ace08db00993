"""What NVIDIA's builder takes computes the same network; test_engine_matrix.py builds every form."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from kdc.calib.calibration import Calibration
from kdc.calib.low_precision import Form, LowPrecisionWriter
from kdc.deploy.runtimes.open import open_runtime
from kdc.deploy.runtimes.ort_runtime import read_info
from kdc.distill.errors import ExportError
from kdc.export.to_trt import BuildFlags, build_engine

pytestmark = [
    pytest.mark.trt,
    pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"),
]
Files = Callable[..., Path]
FORMS = {
    "int8": Form("int8", "trt"),
    "int8+fp16": Form("int8", "trt", "fp16"),
    "fp8": Form("fp8", "trt"),
    "fp8+fp16": Form("fp8", "trt", "fp16"),
    "bf16": Form("bf16", "trt"),
    "fp16": Form("fp16", "trt"),
}


@pytest.fixture(scope="module")
def calibrations() -> dict[Path, Calibration]:
    return {}


@pytest.fixture
def make(calibrations: dict[Path, Calibration], tmp_path: Path) -> Callable[..., Path]:
    """Return the typed file of a float32 one; its statistics are collected once."""

    def made(source: Path, precision: str, **how: Any) -> Path:
        if source not in calibrations:
            images = np.random.default_rng(0).integers(0, 256, (3, 64, 128, 3), np.uint8)
            calibrations[source] = Calibration(source, list(images))
        path = FORMS[precision].path(tmp_path / "model.onnx")
        LowPrecisionWriter(FORMS[precision], calibrations[source]).write(path, **how)
        return path

    return made


#: share of the logits' variance that rounding may add: networks of random weights on noise amplify it manyfold
NOISE = {"fp16": 2e-3, "bf16": 0.15, "int8": 0.4, "int8+fp16": 0.4, "fp8": 0.6, "fp8+fp16": 0.6}


@pytest.mark.process
@pytest.mark.parametrize(
    "arch", ["deeplabv3", *(pytest.param(arch, marks=pytest.mark.slow) for arch in ("pspnet", "deeplabv3plus"))]
)
def test_what_builds_is_still_the_network(arch: str, exported: Files, make: Any, tmp_path: Path) -> None:
    source = exported(arch, "logits", "float")
    image = np.random.default_rng(1).integers(0, 256, (1, 64, 128, 3), np.uint8)
    with open_runtime(source) as runtime:
        whole = runtime.infer(runtime.prepare(image)).astype(np.float64)
    noise = {}
    for precision in FORMS:
        path = make(source, precision)
        assert read_info(path).precision == precision
        with open_runtime(path) as runtime:
            apart = runtime.infer(runtime.prepare(image)) - whole
        noise[precision] = np.square(apart).mean() / np.square(whole - whole.mean()).mean()
        assert 0 < noise[precision] < NOISE[precision]
    assert noise["fp16"] < noise["bf16"] < min(noise["int8"], noise["fp8"])
    assert noise["int8+fp16"] == pytest.approx(noise["int8"], rel=0.5)
    for precision in ("int8+fp16", "fp8+fp16"):
        path = FORMS[precision].path(tmp_path / "model.onnx")
        assert build_engine(path, tmp_path / "m.engine", BuildFlags(flavour_name="tensorrt_rtx")).precision == precision


def test_groups_left_high_build_too(exported: Files, make: Any, tmp_path: Path) -> None:
    from kdc.calib.onnx_graph import groups, load_named

    source = exported("deeplabv3", "logits", "float")
    blocks = groups(load_named(str(source)).graph)
    keep = [node for name in list(blocks)[::3] for node in blocks[name]]
    path = make(source, "int8+fp16", keep=keep)
    assert build_engine(path, tmp_path / "m.engine", BuildFlags(flavour_name="tensorrt_rtx")).precision == "int8+fp16"


def test_the_builder_would_refuse_a_zero_point(exported: Files, make: Any, tmp_path: Path) -> None:
    """These tests are worth something only if a wrong file is refused."""
    path = make(exported("deeplabv3", "logits", "float"), "int8")
    model = onnx.load(str(path))
    zero = next(tensor for tensor in model.graph.initializer if tensor.name == "image_zero")
    zero.CopyFrom(numpy_helper.from_array(np.asarray(3, np.int8), zero.name))
    onnx.save(model, str(path))
    with pytest.raises(ExportError, match="refused"):
        build_engine(path, tmp_path / "m.engine", BuildFlags(flavour_name="tensorrt_rtx"))
