"""Memory above an idle process, read by the process itself."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from kdc.deploy.bench import memory
from kdc.deploy.bench.memory import bench_memory, show_memory
from kdc.deploy.bench.record import Effort
from kdc.deploy.bench.worker import _peak_resident, _resident

from ..._made import onnx_file


def heavy(path: Path, mebibytes: int) -> Path:
    """Write a network whose weights take so much memory: a kernel that is far larger than the image."""
    reach = int((mebibytes * 2**18 / 9) ** 0.5) // 2 + 1
    weights = np.ones((3, 3, 2 * reach + 1, 2 * reach + 1), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["z"], pads=[reach] * 4)
    return onnx_file(path, [node], {"x": [1, 3, 4, 4]}, {"z": [1, 3, 4, 4]}, {"w": weights})


@pytest.mark.process
def test_weights_are_seen_above_the_idle_process(network, tmp_path, capsys):
    files = [network(tmp_path / "light.onnx", size=(4, 4)), heavy(tmp_path / "heavy.onnx", 48)]
    result = bench_memory(files, Effort(threads=1, runs=1), out=tmp_path / "bench")
    light, large = result.rows
    assert light.backend.pid != large.backend.pid
    assert large.opened_mib - light.opened_mib > 40
    for row in result.rows:
        assert row.idle_mib > 10
        assert row.peak_mib >= row.opened_mib > 0
        assert row.gpu_peak_mib is None and row.cuda_peak_mib is None
    assert large.backend.size_mb > 48
    values = json.loads(Path(str(result.record)).read_text())
    assert values | {"record": result.record} == result.to_dict()
    assert list(values) == [
        *("kind", "unit", "device", "size", "threads", "protocol", "rows", "not_measured", "flags", "passport"),
    ]
    assert list(values["rows"][0])[-9:] == [
        *("contract", "sha256", "size_mb", "batch", "idle_mib"),
        *("opened_mib", "peak_mib", "gpu_peak_mib", "cuda_peak_mib"),
    ]
    show_memory(result)
    assert "memory above the idle process" in capsys.readouterr().out


def test_what_disturbs_it_is_said(network, tmp_path, monkeypatch):
    machine = memory.passport()
    busy = replace(machine, gpus=[], cpu=replace(machine.cpu, load=99.0, cores=2))
    monkeypatch.setattr(memory, "passport", lambda: busy)
    result = bench_memory([network(tmp_path / "a.onnx", size=(4, 4))], Effort(threads=1, runs=1), out=tmp_path)
    assert result.flags == ["the machine was busy before it began: load average 99.0 on 2 cores"]


def test_the_peak_is_of_this_process_and_stays():
    before = _peak_resident()
    block = np.ones(64 * 2**17)  # 64 MiB
    assert _resident() >= block.nbytes / 2**20
    del block
    assert _peak_resident() >= before
    assert _peak_resident() >= _resident()
