"""The device passport and the doctor's findings."""

import json
from dataclasses import replace

import pytest

from kdc.deploy.doctor import doctor
from kdc.deploy.machine import passport


def test_passport_is_plain_and_complete():
    machine = passport.passport()
    values = machine.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert list(values) == ["time", "os", "cpu", "memory_gib", "gpus", "versions"]
    assert list(values["cpu"]) == ["model", "cores", "logical", "features", "governor", "load"]
    assert machine.cpu.model
    assert machine.cpu.logical and 1 <= machine.cpu.cores <= machine.cpu.logical
    assert machine.memory_gib > 0
    assert {"kdc", "torch", "numpy", "python"} <= set(machine.versions)


def test_cores_obey_a_container_quota(monkeypatch):
    files = {"/sys/devices/system/cpu/smt/active": "1", "/sys/fs/cgroup/cpu.max": "300000 100000"}
    monkeypatch.setattr(passport, "_read", files.get)
    monkeypatch.setattr(passport.os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert passport.cores() == 3
    files["/sys/fs/cgroup/cpu.max"] = "max 100000"
    assert passport.cores() == 32


def test_cpu_features(monkeypatch):
    monkeypatch.setattr(passport, "_read", lambda path: "flags\t: fpu avx2 avx512_vnni amx_int8 sse\n")
    assert passport.cpu_features() == ["avx2", "avx512_vnni", "amx_int8"]
    monkeypatch.setattr(passport, "_read", lambda path: "flags\t: fpu avx2\n")
    assert passport.has_vnni() is False


@pytest.mark.parametrize(("said", "has"), [("1", False), ("0", True), ("", True)])
def test_vnni_can_be_hidden(monkeypatch: pytest.MonkeyPatch, said: str, has: bool) -> None:
    monkeypatch.setattr(passport, "_read", lambda path: "flags\t: avx512_vnni\n")
    monkeypatch.setattr(passport.Path, "exists", lambda path: True)
    monkeypatch.setenv("KDC_NO_VNNI", said)
    assert passport.has_vnni() is has


SMI = "NVIDIA H200, 570.1, 143771, 5, 345, 1980, 3201, 76.2, 700.00, 30, Enabled, Enabled, Disabled, 9.0, GPU-7, 0x{:x}"


def test_gpu_is_read_from_nvidia_smi_and_throttling_flagged(monkeypatch):
    def smi(query, reasons=0x0000000000000004):
        if "compute-apps" in query:
            return [["GPU-7", "17"], ["GPU-7", "18"], ["GPU-8", "19"]]
        if "clocks_throttle" in query:  # a driver that knows the new name only
            return []
        return [[cell.strip() for cell in SMI.format(reasons).split(",")]]

    monkeypatch.setattr(passport, "_smi", smi)
    (gpu,) = passport.gpus()
    assert (gpu.name, gpu.memory_mib, gpu.power_w, gpu.capability) == ("NVIDIA H200", 143771, 76.2, 9.0)
    assert list(gpu.to_dict()) == [
        *("name", "driver", "memory_mib", "memory_used_mib", "sm_mhz", "sm_max_mhz", "memory_mhz", "power_w"),
        *("power_limit_w", "temperature_c", "persistence", "ecc", "mig", "capability", "uuid", "throttle", "processes"),
    ]
    assert (gpu.sm_max_mhz, gpu.temperature_c, gpu.mig, gpu.processes) == (1980, 30, "Disabled", 2)
    flags = "\n".join(passport.gpu_flags([gpu], own=1))
    assert "clocks are held back (power cap, as nvidia-smi says)" in flags
    assert "other processes compute on it (1)" in flags
    for reasons in ("0x1", "0x2", "0x100", "0x0", None, "N/A"):  # idle, and clocks that were asked for
        assert passport.gpu_flags([replace(gpu, throttle=reasons, processes=1)], own=1) == []
    other = replace(gpu, name="other", uuid="GPU-8")
    assert passport.gpu_flags([replace(gpu, throttle="0x0", processes=0), other]) == []  # it measures nothing
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert all(flag.startswith("other: ") for flag in passport.gpu_flags([gpu, other]))
    assert len(passport.gpu_flags([gpu, other])) == 2


def test_no_driver_no_gpus(monkeypatch):
    monkeypatch.setattr(passport.shutil, "which", lambda name: None)
    assert passport.gpus() == []


def test_doctor_finds_two_onnxruntimes(monkeypatch):
    monkeypatch.setattr(doctor, "gpus", lambda: [])
    monkeypatch.setattr(doctor, "version", lambda name: "1.31.1" if name.startswith("onnxruntime") else None)
    check = doctor._onnxruntime()
    assert check.state == "missing"
    assert check.cure == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime"
    monkeypatch.setattr(doctor, "version", lambda name: None)
    assert doctor._onnxruntime().cure == "pip install 'kdc[cpu]'"


def test_doctor_reports_this_machine(capsys):
    result = doctor.examine()
    names = {check.what for check in result.checks}
    assert {"python", "torch", "onnxruntime", "TensorRT", "opencv"} <= names
    assert all(check.cure for check in result.checks if check.state == "missing")
    values = result.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert list(values) == ["ok", "checks", "passport"]
    assert list(values["checks"][0]) == ["what", "state", "found", "cure"]
    doctor.show_examination(result)
    assert "kdc doctor" in capsys.readouterr().out
