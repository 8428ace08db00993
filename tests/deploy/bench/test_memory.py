"""Memory above an idle process, read by the process itself."""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from kdc.deploy.bench import memory
from kdc.deploy.bench.memory import bench_memory, show
from kdc.deploy.bench.worker import _peak_resident, _resident

from ..._made import onnx_file


def heavy(path: Path, mebibytes: int) -> Path:
    """Write a network whose weights take so much memory; most of them are multiplied with one value."""
    weights = np.ones((mebibytes * 2**18 // 3, 3, 1, 1), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["z"])
    return onnx_file(path, [node], {"x": [1, 3, 4, 4]}, {"z": [1, len(weights), 4, 4]}, {"w": weights})


@pytest.mark.process
def test_weights_are_seen_above_the_idle_process(network, tmp_path, capsys):
    result = bench_memory([network(tmp_path / "light.onnx", size=(4, 4)), heavy(tmp_path / "heavy.onnx", 48)],
                          threads=1, runs=1, out=tmp_path / "bench")  # fmt: skip
    light, large = result["rows"]
    assert light["pid"] != large["pid"]
    assert large["opened_mib"] - light["opened_mib"] > 40
    for row in result["rows"]:
        assert row["idle_mib"] > 10
        assert row["peak_mib"] >= row["opened_mib"] > 0
        assert row["gpu_peak_mib"] is None and row["cuda_peak_mib"] is None
    assert large["size_mb"] > 48
    assert json.loads(Path(result["record"]).read_text())["rows"] == result["rows"]
    show(result)
    assert "memory above the idle process" in capsys.readouterr().out


def test_what_disturbs_it_is_said(network, tmp_path, monkeypatch):
    busy = memory.passport() | {"gpus": [], "cpu": {"model": "a CPU", "load": 99.0, "cores": 2}}
    monkeypatch.setattr(memory, "passport", lambda: busy)
    result = bench_memory([network(tmp_path / "a.onnx", size=(4, 4))], threads=1, runs=1, out=tmp_path)
    assert result["flags"] == ["the machine was busy before it began: load average 99.0 on 2 cores"]


def test_the_peak_is_of_this_process_and_stays():
    before = _peak_resident()
    block = np.ones(64 * 2**17)  # 64 MiB
    assert _resident() >= block.nbytes / 2**20
    del block
    assert _peak_resident() >= before
    assert _peak_resident() >= _resident()
