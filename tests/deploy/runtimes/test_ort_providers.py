"""ONNX Runtime's providers beside the CPU's: asked for by name, never fallen back from, each with its cure."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from onnx import helper

from kdc.deploy.runtimes.open import open_runtime
from kdc.distill.errors import ExportError, UsageError

from ..._made import onnx_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    import numpy as np

    nodes, weights = [helper.make_node("Conv", ["image", "w"], ["z"])], {"w": np.ones((4, 3, 1, 1), np.float32)}
    return onnx_file(tmp_path / "a.onnx", nodes, {"image": [1, 3, 8, 8]}, {"z": [1, 4, 8, 8]}, weights)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let ONNX Runtime list every provider and give a CPU session for each; return what it was asked for."""
    names = [f"{name}ExecutionProvider" for name in ("Tensorrt", "CUDA", "OpenVINO", "CPU")]
    real, seen = onnxruntime.InferenceSession, []

    def session(file: str, options: Any, providers: list[Any]) -> Any:
        seen.extend(providers)
        return real(file, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return seen


@pytest.mark.parametrize(
    ("provider", "device", "cure"),
    [
        ("TensorrtExecutionProvider", "cuda", r"pip install 'kdc\[gpu\]'"),
        ("CUDAExecutionProvider", "cuda", r"pip install 'kdc\[gpu\]'"),
        ("OpenVINOExecutionProvider", "cpu", "--provider openvino runs the file in OpenVINO"),
    ],
)
def test_a_provider_that_this_wheel_lacks(path: Path, provider: str, device: str, cure: str) -> None:
    if provider in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has it")
    with pytest.raises(ExportError, match=f"this ONNX Runtime has no {provider}.*{cure}"):
        open_runtime(path, provider=provider, device=device)


@pytest.mark.parametrize(
    ("provider", "device", "why"),
    [
        ("TensorrtExecutionProvider", "cuda", "libnvinfer.so.10"),
        ("CUDAExecutionProvider", "cuda", "CUDA's or cuDNN's libraries are missing"),
        ("OpenVINOExecutionProvider", "cpu", "OpenVINO's libraries are missing"),
    ],
)
def test_a_silent_fall_back_is_refused(path: Path, asked: list[Any], provider: str, device: str, why: str) -> None:
    with pytest.raises(ExportError, match=f"{provider} was asked for, .* fell back to CPUExecutionProvider: .*{why}"):
        open_runtime(path, provider=provider, device=device)
    assert (asked[0][0] if isinstance(asked[0], tuple) else asked[0]) == provider


def test_openvinos_provider_is_set_to_float32(path: Path, asked: list[Any]) -> None:
    with pytest.raises(ExportError):
        open_runtime(path, provider="OpenVINOExecutionProvider")
    assert asked[0] == ("OpenVINOExecutionProvider", {"device_type": "CPU", "precision": "FP32"})


@pytest.mark.parametrize(
    ("provider", "device", "other"),
    [("TensorrtExecutionProvider", "cuda", "cpu"), ("OpenVINOExecutionProvider", "cpu", "cuda")],
)
def test_a_provider_goes_with_its_device(path: Path, provider: str, device: str, other: str) -> None:
    with pytest.raises(UsageError, match=f"--provider {provider} goes with --device {device}, not {other}"):
        open_runtime(path, provider=provider, device=other)


@pytest.mark.trt
@pytest.mark.gpu
def test_tensorrts_provider_on_a_gpu(path: Path) -> None:
    import numpy as np

    if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no TensorRT provider")
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    with (
        open_runtime(path) as cpu,
        open_runtime(path, device="cuda", provider="TensorrtExecutionProvider") as gpu,
    ):
        assert gpu.provider == "TensorrtExecutionProvider"
        assert np.abs(cpu.infer(x) - gpu.infer(x)).max() < 1e-2
