"""What ``docs/files.md`` shows of an ONNX file of one's own, typed from top to bottom."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdc import cli

from .calib.test_files_of_others import data, one_channel

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "files.md").read_text(encoding="utf-8")

__all__ = ["data"]  # a fixture


@pytest.fixture
def desk(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the page speaks of: net.onnx, street.png and DIR."""
    one_channel(tmp_path / "net.onnx")
    (tmp_path / "DIR").symlink_to(data)
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)).save(tmp_path / "street.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_does_what_it_says(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino")
    failed = []
    for kind, block in re.findall(r"^```(bash|python)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        if kind == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(block, {})
            continue
        for line in block.splitlines():
            words = shlex.split(line, comments=True)[1:]
            words += ["--seconds", "0.1", "--runs", "2", "--rounds", "2"] if words[0] == "bench" else []
            words += ["--agreement", "0.8"] if words[0] == "calib" else []
            code = cli.run(words)
            said = capsys.readouterr()
            if code:
                failed.append((line, code, said.err[-300:]))
    assert not failed
    assert {"net.kdc.onnx", "net.kdc.int8.ort.onnx", "net.kdc.xml", "net.kdc.zip", "triton"} <= {
        path.name for path in desk.iterdir()
    }


def test_every_row_of_preparation_is_accepted(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = re.findall(r"^\| [^|]* \| (.*`--.*`.*) \|$", PAGE.partition("## What comes out")[0], re.MULTILINE)
    flags = [shlex.split(text) for row in rows for text in re.findall(r"`(--[^`]*)`", row)]
    assert len(flags) == 5
    for words in flags:
        assert cli.run(["predict", "net.onnx", "street.png", "--size", "32x48", "--out", "p", *words]) == 0, words
        assert "assuming" not in capsys.readouterr().err or words == ["--bgr"]
