"""What the doctor says of the targets beside ONNX Runtime and TensorRT."""

import pytest

from kdc.deploy import doctor


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
    assert check.state == "note" and check.found == "icpx is not there" and "apt-get install g++" in check.cure


def test_tritonclient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", {"tritonclient": "2.73.0"}.get)
    assert doctor._tritonclient().state == "ok"
    monkeypatch.setattr(doctor, "version", {}.get)
    assert "works without" in doctor._tritonclient().cure
