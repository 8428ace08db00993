"""What is stale: made from a file that has changed since, or from what is stale itself; nothing else."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from kdc.distill.errors import UsageError
from kdc.distill.run.files import sha256, write_bytes, write_json
from kdc.distill.run.folder import Run
from kdc.distill.run.seal import check_run
from kdc.distill.run.stale import marked, refuse_stale, stale, stale_files
from kdc.distill.settings.config import Config


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with a chain of four files: checkpoint, ONNX file, calibrated file, engine."""
    made = Run.create("x", Config(), out=tmp_path / "run")
    made.unlock()
    write_bytes(made.checkpoints / "best.safetensors", b"weights")
    chain = {"model.onnx": None, "model.int8.onnx": "model.onnx", "model.int8.engine": "model.int8.onnx"}
    for name, origin in chain.items():
        write_bytes(made.export / name, name.encode())
        source = made.export / origin if origin else made.checkpoints / "best.safetensors"
        key = "onnx" if name.endswith("engine") else "source"
        part = "file" if origin else "checkpoint"
        write_json(made.export / f"{name}.json", {key: {"run": "x", part: source.name, "sha256": sha256(source)}})
    made.seal()
    return made


def names(run: Run) -> dict[str, str]:
    return {path.name: origin for path, origin in stale_files(run.path).items()}


ALL = {"model.int8.engine": "model.int8.onnx", "model.int8.onnx": "model.onnx", "model.onnx": "best.safetensors"}


@pytest.mark.parametrize("sealed", [True, False])
def test_what_follows_a_changed_file_is_stale_until_that_is_as_it_was(run: Run, sealed: bool) -> None:
    assert names(run) == {} and stale(run.export / "model.onnx") == ""
    for path, count in ((run.checkpoints / "best.safetensors", 3), (run.export / "model.int8.onnx", 1)):
        whole = path.read_bytes()
        write_bytes(path, b"another")
        if sealed:
            run.seal()
        assert names(run) == dict(list(ALL.items())[:count])
        assert stale(run.export / "model.int8.engine") == "model.int8.onnx"
        write_bytes(path, whole)
        run.seal()
        assert names(run) == {}


def test_a_source_that_is_gone_tells_nothing(run: Run) -> None:
    (run.checkpoints / "best.safetensors").unlink()
    assert names(run) == {}


def test_a_run_says_what_is_stale_and_nothing_is_made_of_it(run: Run, tmp_path: Path) -> None:
    write_bytes(run.export / "model.onnx", b"another")
    run.seal()
    states = {each.name: each for each in marked(check_run(run.path)).files}
    assert states["export/model.int8.onnx"].to_dict() == {
        "name": "export/model.int8.onnx",
        "state": "whole",
        "stale": "model.onnx",
    }
    assert "stale" not in states["export/model.onnx"].to_dict() or states["export/model.onnx"].stale
    with pytest.raises(UsageError, match=r"model.int8.onnx is stale: .*make it again, or .*--drop-stale"):
        refuse_stale(run.export / "model.int8.onnx")
    os.chdir(run.export)
    assert stale(Path("model.int8.onnx")) == "model.onnx"
    (tmp_path / "copy.onnx").write_bytes(b"")
    refuse_stale(tmp_path / "copy.onnx")


@pytest.mark.parametrize(
    "manifest",
    [
        None,
        7,
        [],
        {"source": 7},
        {"source": {"file": 7, "sha256": "0"}},
        {"source": {"file": "../../x", "sha256": "0"}},
        {"onnx": {"file": "model.int8.onnx"}},
        {"source": {"file": "model.int8.engine", "sha256": 1}},
    ],
)
def test_manifests_of_any_form_are_read(run: Run, manifest: Any) -> None:
    beside = run.export / "model.int8.onnx.json"
    beside.write_text("{" if manifest is None else json.dumps(manifest))
    assert names(run) == {}


def test_files_that_name_each_other_end(run: Run) -> None:
    for name, other in (("model.onnx", "model.int8.onnx"), ("model.int8.onnx", "model.onnx")):
        (run.export / f"{name}.json").write_text(json.dumps({"source": {"file": other, "sha256": "0"}}))
    assert set(names(run)) == {"model.onnx", "model.int8.onnx", "model.int8.engine"}
