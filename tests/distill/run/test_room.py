"""Room on the disk: what did not fit says how much it needs, whoever wrote it."""

import errno
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from kdc.distill.errors import ResourceError, WeightsError
from kdc.distill.run import room
from kdc.distill.run.checkpoint import load_state, save_state, size_of
from kdc.distill.run.files import write_bytes
from kdc.distill.run.room import needing

from ..._made import onnx_file


def disk(free: int) -> Any:
    return lambda _: type("Usage", (), {"free": free})()


@pytest.mark.parametrize(
    ("free", "error"),
    [
        (10**9, OSError(errno.ENOSPC, "No space left on device")),
        (10**9, OSError(errno.EDQUOT, "quota")),
        (10**3, RuntimeError("basic_ios::clear: iostream error")),
        (10**3, WeightsError("cannot be converted")),
    ],
)
def test_whoever_fails_for_lack_of_room(
    free: int, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.shutil, "disk_usage", disk(free))
    with (
        pytest.raises(ResourceError, match=r"no space in .*: about 46\.8 MB are needed, .* were free"),
        needing(tmp_path / "new", 46_800_000),
    ):
        raise error


def test_another_fault_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="odd"), needing(tmp_path, 10):
        raise WeightsError("odd")


def test_a_state_knows_its_size() -> None:
    assert size_of({"a": [torch.ones(3), {"b": torch.ones(2, dtype=torch.float16)}], "c": "text", "d": 3}) == 16


def test_a_limit_of_the_shell_is_named(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(ResourceError, match=r"grow beyond 100 kB here, and about 2 MB are needed.*ulimit -f"):
            write_bytes(tmp_path / "large", bytes(2_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a disk of one megabyte; skipped where none can be made."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], check=False, capture_output=True
    )
    if made.returncode:
        pytest.skip("no disk can be made here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_leaves_the_earlier_state(small_disk: Path) -> None:
    save_state(small_disk, {"stage": "main", "step": 1, "student": {"a": torch.ones(10)}}, 1)
    with pytest.raises(ResourceError, match=r"about 4 MB are needed, .*(kB|MB) were free"):
        save_state(small_disk, {"stage": "main", "step": 2, "student": {"a": torch.ones(10**6)}}, 2)
    assert load_state(small_disk)["step"] == 1
    assert sorted(path.suffix for path in small_disk.iterdir()) == [".json", ".pt"]


def test_openvino_on_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from kdc.export.to_openvino import write_ir

    weights = np.zeros((1000, 3, 20, 20), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["z"])
    net = onnx_file(tmp_path / "net.onnx", [node], {"x": [1, 3, 32, 32]}, {"z": [1, 1000, 13, 13]}, {"w": weights})
    with pytest.raises(ResourceError, match=r"about 4\.8 MB are needed"), needing(small_disk / "x", 4_800_000):
        write_ir(net, small_disk / "model.xml")
