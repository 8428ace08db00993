"""Damaged files of every kind: an exit code from 2 to 8 and one line, or it is read all the same; no hang."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from kdc.distill import console

#: damaged forms of each kind of file
COUNT = 200


def _module(name: str) -> ModuleType:
    """Import a file beside this one by its name, which is also that under which the others import it."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None and spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


_mutations = _module("_mutations")
READERS = _module("_readers").READERS


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_every_reader_survives(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "within"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(console, "muted", True)
    tally = _mutations.attack(READERS[name](place), COUNT, 14)
    assert not tally.wrong, "\n".join(tally.wrong)
    assert sum(tally.codes.values()) == COUNT
    assert [path.name for path in tmp_path.iterdir()] == ["within"]  # nothing was written elsewhere


@pytest.mark.parametrize("name", ["card_values", "config_values", "list_file", "safetensors", "old_pth", "plan"])
def test_some_readers_survive_a_few(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "muted", True)
    tally = _mutations.attack(READERS[name](tmp_path), 30, 3)
    assert not tally.wrong, "\n".join(tally.wrong)
