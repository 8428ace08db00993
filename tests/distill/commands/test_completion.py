"""What <TAB> offers: every value is accepted, and listing them imports no torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from kdc import cli
from kdc.distill import data, methods, models
from kdc.distill.commands import completion
from kdc.distill.settings.presets import PRESETS


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("20260101-000000_kt_r18", "20260102-000000_train_r18"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text("{}")
    (tmp_path / "cityscapes").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offered(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what bash is told when <TAB> is pressed at the end of a line."""
    words = line.split(" ")
    monkeypatch.setenv("_KDC_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    with pytest.raises(SystemExit, match="0"):
        cli.main([])
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("kdc distill --method ", "adv kt label-assisted pixel-pair"),
        ("kdc distill --method kt+l", "kt+lad kt+label-assisted"),
        ("kdc compare --methods kd,c", "kd,cad kd,cirkd kd,cwd"),
        ("kdc train --student psp", "pspnet-r18 pspnet-mv2_050"),
        ("kdc train --student mv", "mv2 mv2_050"),
        ("kdc distill --teacher ", "self r101 deeplabv3-r101 20260101-000000_kt_r18"),
        ("kdc distill --preset kt", "kt"),
        ("kdc distill --data c", "camvid cityscapes"),
        ("kdc eval --data b", "builtin"),
        ("kdc data check ", "builtin camvid cityscapes"),
        ("kdc report 2026010", "20260101-000000_kt_r18 20260102-000000_train_r18"),
        ("kdc eval ", "last 20260101-000000_kt_r18"),
        ("kdc export trt ", "last 20260101-000000_kt_r18"),
        ("kdc calib ", "last 20260102-000000_train_r18"),
        ("kdc bench latency 20260101-000000_kt_r18 20260102", "20260102-000000_train_r18"),
        ("kdc distill --resume 20260102", "20260102-000000_train_r18"),
        ("kdc runs rm 20260102", "20260102-000000_train_r18"),
        ("kdc methods info k", "ka kd kt"),
        ("kdc models info deeplabv3plus-r1", "deeplabv3plus-r18 deeplabv3plus-r101"),
        ("kdc predict --tile a", "auto"),
        ("kdc verify --paper c", "cirkd cwd"),
    ],
)
@pytest.mark.usefixtures("place")
def test_values_are_offered(
    line: str, some: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = offered(line, monkeypatch, capsys)
    assert set(some.split()) <= set(values) and all(value.startswith(line.split(" ")[-1]) for value in values)


def test_they_are_those_that_are_accepted() -> None:
    assert completion.methods() == methods.names()
    assert set(models.names()) <= set(completion.models())
    assert all(models.expand(name) in models.names() for name in completion.students())
    assert set(completion.presets()) == set(PRESETS)
    assert completion.data()[:2] == [name for name in data.names() if name != "folder"]


def test_no_torch_is_imported_for_them(place: Path) -> None:
    code = """
import os, sys
from kdc import cli
for flag in ("--method", "--student", "--teacher", "--data", "--preset", "--resume"):
    os.environ |= {"_KDC_COMPLETE": "complete_bash", "COMP_WORDS": f"kdc distill {flag} ", "COMP_CWORD": "3"}
    try:
        cli.main([])
    except SystemExit:
        print(end=" ")
print("loaded:", *({"torch", "numpy", "timm"} & {*sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=place, check=True)
    values, _, loaded = done.stdout.partition("loaded:")
    assert {"kt", "r18", "self", "camvid", "cirkd-cwd", "last"} <= set(values.split()) and not loaded.split()
