"""What CONTRIBUTING.md says about adding things, done as its reader does it: every block is saved and used."""

import importlib
import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import typer

from kdc import cli
from kdc.deploy.artefacts.ledger import read_gates
from kdc.deploy.parity.produce import Product
from kdc.distill import data, job, methods, models
from kdc.distill.commands.command import command, group
from kdc.distill.errors import UsageError
from kdc.distill.run.folder import Run
from kdc.distill.settings.config import resolve

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
#: what is in a block -> the folder that it goes to
PLACES = {
    "(Method)": "distill/methods",
    "(Architecture)": "distill/models",
    "(Dataset)": "distill/data",
    "(Runtime)": "deploy/runtimes",
    "produce(": "export",
    "-> Palette": "distill/commands",
    "def dots": "distill/charts",
}
TINY = "--iters 2 --batch 2 --set train.threads=1 --set data.val_count=2 --set data.count=4 --size 32x64 --crop 32x64"
Save = Callable[[str, str], ModuleType]


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Save:
    """Save the block that holds a text as a file of the folder that it is for, and import it."""

    def saved(mark: str, name: str) -> ModuleType:
        return _written(next(block for block in BLOCKS if mark in block), PLACES[mark], name, tmp_path, monkeypatch)

    monkeypatch.chdir(tmp_path)
    return saved


def _written(code: str, place: str, name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    folder = home / "code" / place
    folder.mkdir(parents=True)
    (folder / f"{name}.py").write_text(code)
    package = importlib.import_module(f"kdc.{place.replace('/', '.')}")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    full = f"{package.__name__}.{name}"
    monkeypatch.setitem(sys.modules, full, None)  # put back, that is taken away, after the test
    del sys.modules[full]
    return importlib.import_module(full)


def test_every_block_is_followed() -> None:
    assert [[mark for mark in PLACES if mark in block] for block in BLOCKS] == [[mark] for mark in PLACES]


def test_every_place_that_is_named_exists() -> None:
    """The method, the model and the dataset that are shown are the only files that are not there."""
    named = set(re.findall(r"`((?:[\w-]+/)+[\w*.-]*)`", TEXT)) - {
        *("distill/methods/mine.py", "distill/models/plain.py", "distill/data/squares.py"),
        *("runs/", "phases/", ".ci/run"),
    }
    wings = [*ROOT.glob("d*/*"), *(ROOT / room for room in ("distill", "deploy", "."))]
    assert len(named) > 20
    assert not [name for name in named if not any([*wing.glob(name)] for wing in wings if wing.is_dir())]
    for place in (
        "deploy/artefacts/beside.py: EXPORTED",
        "deploy/artefacts/ledger.py: stage_of",
        "distill/data/__init__.py: _kind",
    ):
        file, word = place.split(": ")
        assert word in TEXT and word in (ROOT / file).read_text(encoding="utf-8")


def test_a_model(save: Save, capsys: pytest.CaptureFixture[str]) -> None:
    save("(Architecture)", "plain")
    assert "plain-r18" in models.names() and models.expand("PLAIN-resnet18") == "plain-r18"
    assert cli.run(["models", "ls"]) == 0 and "plain-mv2_035" in capsys.readouterr().out
    assert cli.run(["models", "info", "plain-mv2_035", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["params"] == card["params_without_aux"] and set(card["taps"]) >= {"logits", "dec", "bb"}

    assert cli.run(f"train --student plain-mv2_035 {TINY} --json".split()) == 0
    run = json.loads(capsys.readouterr().out)["run"]
    line = f"distill --teacher {run} --student plain-mv2_035 --method cwd --set model.teacher_check=false {TINY} --json"
    assert cli.run(line.split()) == 0
    assert models.rebuild(Run(Path(json.loads(capsys.readouterr().out)["run"])).card.student).name == "plain-mv2_035"


def test_a_dataset(save: Save, capsys: pytest.CaptureFixture[str]) -> None:
    save("(Dataset)", "squares")
    assert cli.run(["data", "ls"]) == 0 and "Squares on grey" in capsys.readouterr().out
    assert cli.run(["data", "check", "squares", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == {"train": 8, "val": 4} and report["ok"] and min(report["histogram"]) > 0
    line = "train --data squares --student pspnet-mv2_035 --iters 2 --set data.side=16 --set train.threads=1 --json"
    assert cli.run(line.split()) == 0
    run = Run(Path(json.loads(capsys.readouterr().out)["run"]))
    assert run.config.train.crop == (32, 32) and run.open_data("val").read(0)[1].sum() == 16 * 16  # pyright: ignore[reportOptionalMemberAccess]


def test_a_runtime(save: Save, tmp_path: Path) -> None:
    np.arange(256, dtype=np.uint8).tofile(tmp_path / "a.table")
    with save("(Runtime)", "table_runtime").TableRuntime(tmp_path / "a.table", size=(8, 8)) as runtime:
        assert runtime.masks(np.full((2, 4, 6, 3), 7, np.uint8)).tolist() == np.full((2, 4, 6), 7).tolist()
        with pytest.raises(UsageError, match="uint8 NHWC Nx8x8x3"):
            runtime.infer(np.zeros((1, 3, 8, 8), np.float32))


def test_a_command(save: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    function = save("-> Palette", "palette").runs_palette
    run = Run.create("mine", resolve({}), root=tmp_path / "runs", data={"classes": ["road"], "palette": [[1, 2, 3]]})
    run.unlock()
    nouns = group("Look at runs.")
    nouns.command("palette")(command(function))
    nouns.command("other")(command(function))
    app = typer.main.get_command(nouns)
    app.main(["palette", str(run.path), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == {"colours": {"road": [1, 2, 3]}}
    app.main(["palette", str(run.path)], standalone_mode=False)
    assert "road   1  " in " ".join(capsys.readouterr().out.split("\n")).replace("     ", "   ")


def test_a_chart(save: Save) -> None:
    drawn = ET.fromstring(save("def dots", "dots").dots("speed", {"torch": 4.0, "int8": 1.0}))
    heights = [float(each.attrib["cy"]) for each in drawn.iter() if each.tag.endswith("circle")]
    assert len(heights) == 2 and heights[0] < heights[1] and "torch" in "".join(drawn.itertext())


def test_a_target(save: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"data.size": (32, 64), "data.count": 4, "data.val_count": 2, "train.crop": (32, 64), "train.batch": 2}
    small |= {"train.iters": 1, "train.threads": 1, "model.student": "pspnet-mv2_035"}
    run = job.run_job(resolve(small), root=tmp_path / "runs")
    product: Product[Any] = save("produce(", "to_copy").export_copy(run)
    assert product.path.name == "model.copy.onnx" and product.gate is not None and product.gate.passed
    assert [gate.stage for gate in read_gates(run)] == ["onnx model", "onnx model.copy"]


@pytest.mark.parametrize(
    ("place", "ask"),
    [
        ("distill/methods", lambda: methods.load("draft")),
        ("distill/models", models.names),
        ("distill/data", lambda: data.load("draft")),
    ],
)
def test_an_unfinished_file_is_named(
    place: str, ask: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _written("class Net:\n    pass\n", place, "draft", tmp_path, monkeypatch)
    with pytest.raises(UsageError, match=f"{place}/draft.py holds no .*CONTRIBUTING.md shows a whole one"):
        ask()
