"""ONNX Runtime on a GPU, by contract: a CPU's session and a GPU that only notes; a real one where there is one."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from kdc.deploy.runtimes import ort_runtime
from kdc.deploy.runtimes.open import open_runtime
from kdc.deploy.runtimes.ort_on_gpu import OrtOnGpu

from ..._made import onnx_file
from .trt.test_lane import Notes

X = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    weights = {"w": np.random.default_rng(1).standard_normal((4, 3, 1, 1)).astype(np.float32)}
    nodes = [helper.make_node("Conv", ["image", "w"], ["z"])]
    return onnx_file(tmp_path / "a.onnx", nodes, {"image": ["n", 3, 8, 8]}, {"z": ["n", 4, 8, 8]}, weights)


class Binding:
    """Notes what is bound."""

    def __init__(self) -> None:
        self.bound: dict[str, Any] = {}

    def bind_input(self, *given: Any) -> None:
        self.bound["in"] = given

    def bind_output(self, *given: Any) -> None:
        self.bound["out"] = given


class Session:
    """The session of a CPU that reads and writes where a binding says, and notes when."""

    def __init__(self, real: Any, gpu: Notes) -> None:
        self.real, self.gpu = real, gpu

    def run(self, *given: Any) -> Any:
        return self.real.run(*given)

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider"]

    def get_provider_options(self) -> dict[str, Any]:
        return {"CUDAExecutionProvider": {"use_tf32": "0"}}

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return []

    def io_binding(self) -> "Binding":
        return Binding()

    def run_with_iobinding(self, binding: "Binding", options: Any) -> None:
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        self.gpu.log.append("enqueue")
        name, device, number, kind, shape, address = binding.bound["in"]
        assert (name, device, number, kind) == ("image", "cuda", 0, np.float32)
        x = self.gpu.memory[address].view(kind).reshape(shape)
        name, device, number, kind, shape, address = binding.bound["out"]
        assert (name, device, number, kind) == ("z", "cuda", 0, np.float32)
        self.gpu.memory[address][:] = self.real.run([name], {"image": x})[0].reshape(shape).view(np.uint8).ravel()


def test_parts_are_between_events_and_the_network_between_the_transfers(path: Path) -> None:
    gpu, real = Notes(), onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    measured = OrtOnGpu(Session(real, gpu), "image", "z", gpu)
    steps = [measured.timed(x) for x in (X, X + 1)]
    gpu.log.clear()
    parts = steps[0]()
    assert gpu.log == ["event", "upload", "event", "enqueue", "event", "event", "synchronize"]
    assert {key: parts[key] for key in ("h2d", "compute", "d2h")} == {"h2d": 1, "compute": 1, "d2h": 1}
    assert 0 < parts["enqueue"] <= parts["total"]
    back = gpu.host[0]
    wanted = [np.asarray(real.run(["z"], {"image": x})[0]) for x in (X, X + 1)]
    assert np.array_equal(back, wanted[0])
    steps[1]()
    assert np.array_equal(back, wanted[1])
    assert len(gpu.memory) == 3, "two inputs, and one output that they share"
    step = measured.staged(X)
    gpu.log.clear()
    assert step() > 0 and gpu.log == ["enqueue", "synchronize"], "nothing is moved while the network is timed"


def test_a_session_for_a_gpu_works_on_kdcs_stream(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, gpu, real = [], Notes(), onnxruntime.InferenceSession

    def session(file: str, options: Any, providers: list[Any]) -> Any:
        asked.extend(providers)
        return Session(real(file, options, providers=["CPUExecutionProvider"]), gpu)

    closed = []
    gpu.close = lambda: closed.append(True)
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(ort_runtime, "gpu", lambda: "one")
    monkeypatch.setattr(ort_runtime, "open_buffers", lambda: gpu)
    with open_runtime(path, device="cuda") as runtime:
        assert asked == [("CUDAExecutionProvider", {"user_compute_stream": "7"}), "CPUExecutionProvider"]
        assert runtime.provider == "CUDAExecutionProvider" and runtime.tf32 is False
        parts = runtime.timed(X)
        assert parts is not None and set(parts()) == {"h2d", "compute", "d2h", "enqueue", "total"}
        assert runtime.staged(X)() > 0 and not closed
    assert closed


def test_a_cpu_has_no_events(path: Path) -> None:
    with open_runtime(path) as runtime:
        assert runtime.timed(X) is None


@pytest.mark.gpu
def test_cudas_provider_on_a_gpu(path: Path) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA provider")
    with open_runtime(path) as cpu, open_runtime(path, device="cuda") as gpu:
        parts = gpu.timed(X)
        assert parts is not None and all(ms > 0 for ms in parts().values())
        assert gpu.staged(X)() > 0
        assert np.abs(cpu.infer(X) - gpu.infer(X)).max() < 1e-2
