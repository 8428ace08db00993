"""The Python door: one function for every command, with its flags; silent, light to import, and the page on it runs."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from kdc import api, cli
from kdc.distill import console
from kdc.distill.errors import KdcError, UsageError
from kdc.distill.run.folder import Run
from kdc.distill.settings.config import Config

ROOT = Path(__file__).resolve().parents[1]
#: commands whose function has another name, and functions that are no command
NAMES = {"eval": "evaluate", "calib": "calibrate"}
NO_COMMANDS = {"open_run", "open_runtime"}


def leaves(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, each in getattr(command, "commands", {}).items():
        if hasattr(each, "commands"):
            yield from leaves(each, (*path, name))
        else:
            name = "_".join((*path, name))
            yield NAMES.get(name, name), each


COMMANDS = dict(leaves(typer.main.get_command(cli.app)))


def test_every_command_is_a_function_and_no_more() -> None:
    assert set(dir(api)) == {*COMMANDS, *NO_COMMANDS, "progress"}


def test_editors_see_the_same_functions() -> None:
    tree = ast.parse((ROOT / "api.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    shown = {
        alias.asname or alias.name: f"{'.' * node.level}{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert shown == api._FUNCTIONS


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_arguments_are_the_flags(name: str) -> None:
    flags = {each.name: each.default for each in COMMANDS[name].params if each.name not in ("help", "json")}
    arguments = inspect.signature(getattr(api, name)).parameters
    assert list(arguments) == list(flags)
    for key, parameter in arguments.items():
        assert parameter.default is inspect.Parameter.empty or parameter.default == flags[key], key


def test_importing_it_is_cheap() -> None:
    code = "import sys, kdc.api; print(sorted({'torch', 'numpy', 'typer', 'rich', 'pydantic'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_mistakes_are_errors_and_nothing_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="r81"):
        api.train(student="r81")
    with pytest.raises(AttributeError, match="destill"):
        getattr(api, "destill")  # noqa: B009
    assert api.methods_ls().to_dict()["methods"]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(api, "progress", True)
    api.methods_ls()
    assert "kt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: api.evaluate("x", limit=0), "limit=0: 1 or more is needed"),
        (lambda: api.evaluate("x", limit="2"), "limit='2': int is needed"),
        (lambda: api.train(iters=1.5), "iters=1.5: int is needed"),
        (lambda: api.evaluate(Path("none.onnx"), size=(0, 64)), "--size|size '0x64'"),
        (lambda: api.bench_latency("none.onnx"), "none.onnx"),
        (lambda: api.predict("none.onnx", limit=0), "limit=0"),
    ],
)
def test_values_are_checked_as_those_of_flags(call: Callable[[], object], message: str) -> None:
    with pytest.raises(KdcError, match=message):
        call()


def test_it_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run.create("mine", Config())
    run.unlock()
    with pytest.raises(UsageError, match="yes=True"):
        api.runs_rm(str(run.path))
    assert repr(api.open_run(run.path)) == f"Run('{run.path.name}', None, running)"
    api.runs_rm(str(run.path), yes=True)
    assert not run.path.exists() and api.runs_ls().runs == []


def test_a_run_remembers_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    console.note("of another call")
    with console.door("kdc.api.train(iters=1)", silent=True):
        run = Run.create("mine", Config())
        assert console.notes == []
    assert run.card.command == ["kdc.api.train(iters=1)"] and console.notes[-1] == "of another call"


@pytest.mark.process
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    exec("\n".join(blocks), {})
    assert "did you mean" in capsys.readouterr().out
    assert (tmp_path / "student" / "export" / "model.onnx").is_file() and (
        tmp_path / "student" / "report.html"
    ).is_file()
