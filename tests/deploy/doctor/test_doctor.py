"""What the doctor says of the targets beside ONNX Runtime and TensorRT."""

from pathlib import Path

import pytest

from kdc.deploy.doctor import doctor, gpu
from kdc.deploy.doctor.check import Check


def test_openvino_and_nncf(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"openvino": "2026.4.1", "nncf": "3.4.0"}
    monkeypatch.setattr(doctor, "version", there.get)
    pytest.importorskip("openvino", reason="openvino is not installed")
    check = doctor._openvino()
    assert (check.state, check.cure) == ("ok", "") and "CPU" in check.found and "nncf 3.4.0" in check.found
    del there["nncf"]
    check = doctor._openvino()
    assert check.state == "note" and "no nncf" in check.found and "kdc[openvino]" in check.cure
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    check = doctor._openvino()
    assert check.state == "missing" and "cannot be imported" in check.found and check.cure
    there.clear()
    assert doctor._openvino().found == "not installed"


def test_a_compiler_for_aoti(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name if name == "clang++" else None)
    assert doctor._compiler().found == "clang++"
    monkeypatch.setenv("CXX", "icpx")
    check = doctor._compiler()
    assert check.state == "note" and check.found == "icpx is missing" and "apt-get install g++" in check.cure


def test_tritonclient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", {"tritonclient": "2.73.0"}.get)
    assert doctor._tritonclient().state == "ok"
    monkeypatch.setattr(doctor, "version", {}.get)
    assert "works without" in doctor._tritonclient().cure


@pytest.mark.parametrize(
    ("there", "fault", "state", "said"),
    [
        ({}, "", "missing", "kdc[trt-rtx]"),
        ({"tensorrt": "10.16.1", "tensorrt-cu13": "10.16.1"}, "", "ok", "tensorrt 10.16.1"),
        (
            {"tensorrt-cu12": "11.4.0", "tensorrt-cu13": "11.4.0"},
            "",
            "missing",
            "CUDA 12 and 13 are installed over each other",
        ),
        ({"tensorrt-rtx": "1.7"}, "OSError: libcudart", "missing", "tensorrt_rtx does not load (OSError: libcudart)"),
        ({"tensorrt": "11.4.0", "onnxruntime-gpu": "1.24"}, "", "note", "is made for TensorRT 10"),
        ({"tensorrt": "10.16.1", "onnxruntime-gpu": "1.24"}, "", "ok", "tensorrt 10.16.1"),
    ],
)
def test_tensorrt(there: dict[str, str], fault: str, state: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "version", there.get)
    monkeypatch.setattr(gpu, "unloadable", lambda module: fault)
    check = gpu.tensorrt()
    assert check.state == state and said in f"{check.found} {check.cure}" and (state == "ok") == (not check.cure)


def test_gpu_memory_and_the_compilers_of_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "version", {"cuda-bindings": "13.5.0", "pycuda": "2025.1"}.get)
    monkeypatch.setattr(gpu.shutil, "which", lambda name: None)
    monkeypatch.setattr(gpu, "unloadable", lambda *_: "")
    text = "pycuda 2025.1, cuda-python 13.5.0, torch; kernels by NVRTC"
    assert gpu.memory() == Check("GPU memory", "ok", text)
    monkeypatch.setattr(gpu, "unloadable", lambda *_: "OSError: libnvrtc.so.13")
    assert gpu.memory().state == "note" and "kdc[trt]" in gpu.memory().cure
    monkeypatch.setattr(gpu.shutil, "which", lambda name: name)
    assert gpu.memory().found.endswith("kernels by nvcc")


def test_nvml_and_modelopt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "version", {}.get)
    assert "kdc[gpu]" in gpu.nvml().cure and "kdc[modelopt]" in gpu.modelopt().cure
    monkeypatch.setattr(gpu, "version", {"nvidia-ml-py": "13.1", "nvidia-modelopt": "0.47.0"}.get)
    assert gpu.modelopt().state == "ok" and "0.47.0" in gpu.modelopt().found
    monkeypatch.setattr(gpu, "gpus", list)
    assert gpu.nvml() == Check("NVML", "ok", "nvidia-ml-py 13.1, no GPU seen")


def test_what_does_not_load_is_asked_in_a_process_of_its_own() -> None:
    assert gpu.unloadable("json") == "" and gpu.unloadable("json.tool") == ""
    assert gpu.unloadable("no_such_module") == "it is missing"
    assert gpu.unloadable("json.nothing").startswith("ModuleNotFoundError: No module named 'json.nothing'")
    assert gpu.unloadable("os", "abort") == "signal SIGABRT"


def test_the_working_folder_is_no_place_to_import_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise RuntimeError('from the working folder')")
    assert gpu.unloadable("json") == ""
