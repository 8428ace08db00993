"""The commands that look at data, models, methods and runs: each answers people and, as JSON, programs."""

import json
from pathlib import Path

import pytest

from kdc import cli
from kdc.distill.run.folder import Run
from kdc.distill.settings.config import Config


@pytest.fixture
def run() -> Path:
    """A finished run in ``runs/``."""
    folder = Path("runs/one")
    folder.mkdir(parents=True)
    card = {"kind": "train", "status": "finished", "created": "2025-01-01", "method": "none", "seed": 3}
    card |= {"student": {"name": "deeplabv3-mv2"}, "data": {"name": "builtin"}, "command": ["kdc", "train"]}
    (folder / "run.json").write_text(json.dumps({**card, "final": {"miou": 0.4321}}))
    return folder


@pytest.mark.parametrize(
    ("line", "for_people", "key"),
    [
        ("data ls", "camvid", "data"),
        ("data info builtin", "pavement", "splits"),
        ("models ls", "pspnet-r18", "models"),
        ("models info r18 --size 64x128", "13,607,974", "macs_without_aux"),
        ("methods ls", "angular", "methods"),
        ("methods info kt", "method.kt.KEY=VALUE", "options"),
        ("runs ls", "43.21", "runs"),
        ("runs info one", "43.21", "path"),
    ],
)
def test_each_answers_people_and_programs(
    line: str, for_people: str, key: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(line.split()) == 0
    assert for_people in capsys.readouterr().out
    assert cli.run([*line.split(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[key]


def test_runs_that_cannot_be_opened_are_listed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Run.create("whole", Config(), out=Path("runs/whole"), created="2025-01-02", status="finished")
    edited = Run.create("edited", Config(), out=Path("runs/edited"), created="2025-01-03", status="finished")
    for each in (whole, edited):
        each.unlock()
    card = edited.path / "run.json"
    card.write_text(card.read_text().replace("2025-01-03", "2024-01-03"))
    Path("runs/torn").mkdir()
    Path("runs/torn/run.json").write_text('{"status": "fin')

    assert cli.run(["runs", "ls"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "runs/torn is not a run folder: its run.json cannot be read" in out
    assert cli.run(["runs", "ls", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert [(row["name"], row["status"]) for row in rows] == [
        *(("edited", "changed"), ("torn", "unreadable"), ("one", "finished"), ("whole", "finished"))
    ]
    cure = out.partition("was changed since kdc wrote it: undo that, or accept it: kdc ")[2].split(" --accept")[0]

    assert cli.run([*cure.split(), "--accept"]) == 0
    capsys.readouterr()
    assert cli.run(["runs", "ls", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)["runs"]]
    assert names == ["torn", "edited", "one", "whole"]


def test_removing_asks_first(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("typer.confirm", lambda text: asked.append(text))
    assert cli.run(["runs", "rm", "one"]) == 0
    assert len(asked) == 1 and run.is_dir()
    assert cli.run(["runs", "rm", "one", "--yes"]) == 0
    assert not run.exists() and len(asked) == 1


def test_checking_ends_with_the_code_of_data_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["data", "check", "builtin", "--set", "data.count=2", "--set", "data.val_count=1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []
    assert cli.run(["data", "check", str(tmp_path / "none")]) == 3
    assert "none" in capsys.readouterr().err
