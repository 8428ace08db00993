"""The seal of a run: a changed byte is seen where a file is opened, and what kdc itself writes stays sealed."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kdc.distill import models
from kdc.distill.errors import WeightsError
from kdc.distill.run import seal
from kdc.distill.run.checkpoint import load_student, save_student
from kdc.distill.run.files import card_digest, changed, remove, write_bytes, write_json
from kdc.distill.run.folder import Run
from kdc.distill.run.seal import accept, check_run, check_sealed, sealing
from kdc.distill.settings.config import Config


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run with some files, as its process leaves it."""
    made = Run.create("x", Config(), out=tmp_path / "run", status="finished")
    made.unlock()
    for name in ("export/model.onnx", "metrics.jsonl", "calib/scales.json"):
        write_bytes(made.path / name, name.encode() * 50)
    made.seal(everything=True)
    changed.clear()
    return made


def flip(path: Path, at: int = 7) -> None:
    """Change one bit and leave the time of the file as it was."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def states(run: Run) -> dict[str, str]:
    return {file.name: file.state for file in check_run(run.path).files}


def test_every_file_is_whole_until_a_byte_changes(run: Run) -> None:
    names = ["run.json", "calib/scales.json", "config.yaml", "export/model.onnx", "metrics.jsonl"]
    assert states(run) == dict.fromkeys(names, "whole")
    for name in names[1:]:
        check_sealed(run.path / name)
        flip(run.path / name)
        assert states(run)[name] == "changed"
        with pytest.raises(WeightsError, match=f"{Path(name).name} was changed since kdc wrote it.*kdc runs check"):
            check_sealed(run.path / name)


def test_missing_and_unknown_files_are_named(run: Run) -> None:
    (run.path / "metrics.jsonl").unlink()
    (run.path / "export" / "mine.onnx").write_bytes(b"a user's own")
    assert (states(run)["metrics.jsonl"], states(run)["export/mine.onnx"]) == ("missing", "unknown")
    check_sealed(run.path / "export" / "mine.onnx")
    run.seal()
    assert (states(run)["metrics.jsonl"], states(run)["export/mine.onnx"]) == ("missing", "unknown")


def test_another_command_seals_what_it_wrote_and_nothing_else(run: Run) -> None:
    flip(run.path / "metrics.jsonl")
    with sealing():
        write_json(run.path / "bench" / "latency.json", {"ms": 1})
        write_bytes(run.path / "export" / "model.onnx", b"a better one")
        remove(run.path / "calib" / "scales.json")
        assert states(run)["export/model.onnx"] == "unknown"  # a kill here leaves no seal that is wrong
        check_sealed(run.path / "export" / "model.onnx")
    found = states(run)
    assert (found["bench/latency.json"], found["export/model.onnx"]) == ("whole", "whole")
    assert found["metrics.jsonl"] == "changed" and "calib/scales.json" not in found


def test_run_json_vouches_for_itself(run: Run) -> None:
    card = json.loads((run.path / "run.json").read_text())
    assert card["sha256"] == card_digest(card)
    flip(run.path / "run.json", (run.path / "run.json").read_text().index("finished"))
    with pytest.raises(WeightsError, match=r"run\.json was changed since kdc wrote it.*--accept"):
        Run(run.path)
    assert states(run)["run.json"] == "changed"
    with pytest.raises(WeightsError):
        run.record(status="stopped")

    accept(run.path)  # the cure that the message names
    assert Run(run.path).card.status != "finished" and set(states(run).values()) == {"whole"}


def test_accepted_files_are_sealed_as_they_are(run: Run) -> None:
    flip(run.path / "metrics.jsonl")
    (run.path / "calib" / "scales.json").unlink()
    accept(run.path)
    assert set(states(run).values()) == {"whole"} and "calib/scales.json" not in states(run)
    check_sealed(run.path / "metrics.jsonl")


def test_a_file_is_read_once_as_long_as_it_stays_as_it_was(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    real: Callable[[Path], str] = seal.sha256
    monkeypatch.setattr(seal, "sha256", lambda path: read.append(path) or real(path))
    file = run.path / "export" / "model.onnx"
    os.utime(file, (1e9, 1e9))
    for _ in range(3):
        check_sealed(file)
    assert read == [file]
    file.write_bytes(b"other")
    with pytest.raises(WeightsError):
        check_sealed(file)


def test_older_and_foreign_files_are_taken_as_they_are(run: Run, tmp_path: Path) -> None:
    card = run.read()
    del card["sha256"], card["files"]
    write_json(run.path / "run.json", card)
    flip(run.path / "metrics.jsonl")
    assert Run(run.path).records() == []
    check_sealed(run.path / "metrics.jsonl")
    check_sealed(tmp_path / "foreign.onnx")


def test_changed_weights_are_not_loaded(run: Run) -> None:
    file = run.checkpoints / "best.safetensors"
    with sealing():
        save_student(file, models.build("pspnet-mv2_035", 3, seed=0), {})
    load_student(run)
    flip(file, file.stat().st_size - 3)
    for source in (run, file):
        with pytest.raises(WeightsError, match="was changed since kdc wrote it"):
            load_student(source)
