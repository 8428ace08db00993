"""``kdc predict`` as it is typed: mistakes are one line with their exit code, and ``--json`` is one object."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdc import cli
from kdc.distill import models
from kdc.distill.run.checkpoint import save_student

SIZE = (32, 64)


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the run ``mine``, the last one, and work where it lies."""
    monkeypatch.chdir(tmp_path)
    net, data = models.build("pspnet-mv2_035", 3, seed=0), {"data": {"source": "builtin", "size": SIZE}}
    folder = tmp_path / "runs" / "mine"
    save_student(folder / "checkpoints" / "best.safetensors", net, data)
    (folder / "run.json").write_text(json.dumps({**data, "student": net.spec().to_dict()}))
    (tmp_path / "runs" / "last").symlink_to("mine")
    return folder


def save(path: Path) -> None:
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8))


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("mine none.png", 3, "there is no image, video or folder none.png"),
        ("mine aa.png", 3, "did you mean 'a.png'?"),
        ("mine empty", 3, "empty holds no image"),
        ("mine empty/*.png", 3, "no file fits empty/*.png"),
        ("mine cut.png", 3, "cut.png: truncated"),
        ("mine 97", 3, "camera 97 cannot be opened"),
        ("mine ftp://host/a.mp4", 2, "ftp:// cannot be read; accepted: rtsp"),
        ("mine", 2, "nothing to look at"),
        ("none a.png", 2, "no run 'none'"),
        ("none.onnx a.png", 4, "none.onnx does not exist"),
        ("mine a.png --out a.png", 2, "a.png is no folder"),
        ("mine a.png --tile auto --overlap 1", 2, "accepted: 0 to 0.9"),
        ("mine a.png --tile large", 2, "not HEIGHTxWIDTH"),
        ("mine a.png --blend uniform", 2, "--blend is about tiles"),
        ("mine a.png --every 0", 2, "invalid value for '--every'"),
    ],
)
def test_a_mistake_is_one_line(line, code, said, capfd):
    save(Path("a.png"))
    Path("cut.png").write_bytes(Path("a.png").read_bytes()[:50])
    Path("empty").mkdir()
    assert cli.run(["predict", *line.split()]) == code
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and said in err, err


def test_ffmpeg_keeps_quiet_about_a_file_that_is_no_video():
    Path("bad.mp4").write_bytes(b"no video" * 100)
    command = [sys.executable, "-m", "kdc", "predict", "mine", "bad.mp4"]  # FFmpeg asks only once how loud it may be
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1), done.stderr
    assert "bad.mp4 is neither an image" in done.stderr


def test_files_of_an_earlier_prediction_are_noted_once(run, capsys):
    for name in ("a.png", "b.png"):
        save(Path(name))
    assert cli.run(["predict", "a.png", "b.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["earlier"] == 0
    for path in (run / "predict").rglob("*.*"):
        os.utime(path, (1, 1))
    assert cli.run(["predict", "b.png", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["earlier"] == 2  # mask and overlay of the other
    assert err.count("2 files of earlier predictions still there, not in classes.csv") == 1


def test_the_command_with_json(capsys):
    save(Path("a.png"))
    assert cli.run(["predict", "a.png", "--json", "--no-overlay", "--tile", "auto"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert result["written"] == {"masks": 1} and result["ran_on"] == "torch cpu" and result["stopped"] is None
    assert sum(result["classes"].values()) == pytest.approx(1, abs=1e-5)
    Path("cut.png").write_bytes(Path("a.png").read_bytes()[:50])
    assert cli.run(["predict", "a.png", "cut.png", "--json"]) == 3  # what is done is told all the same
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["frames"] == 1
