"""The run folder: made once, held by one process, found by any of its names, and never left half written."""

import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kdc.distill.errors import BusyError, UsageError, WeightsError
from kdc.distill.run import folder
from kdc.distill.run.card import FinalScores
from kdc.distill.run.files import write_bytes, write_card, write_json
from kdc.distill.run.folder import LAST, RUNS, Run, check_vacant, find_run, point_last
from kdc.distill.run.listing import all_runs, unfinished_run
from kdc.distill.settings.config import Config, resolve


def made(name: str = "kt_r101_r18_builtin", **card: Any) -> Run:
    run = Run.create(name, Config(), **card)
    run.unlock()
    return run


def test_create_writes_card_and_configuration(tmp_path: Path) -> None:
    config = resolve({"train.iters": 7, "method.name": "kt", "method.kt.T": 2.0})
    run = Run.create("kt_a_b_c", config, kind="distill", seed=3)
    assert run.path.parent == tmp_path / RUNS and re.fullmatch(r"\d{8}-\d{6}_kt_a_b_c", run.path.name)
    card = json.loads((run.path / "run.json").read_text())
    assert card == run.read()
    assert (card["status"], card["kind"], card["seed"], card["name"]) == ("running", "distill", 3, run.path.name)
    assert card["command"][0] == "kdc" and {"kdc", "python", "torch", "numpy"} <= card["versions"].keys()
    assert run.config == config
    assert run.spec == run.path.name and find_run(run.spec).path == run.path


def test_names_made_in_one_second_differ() -> None:
    assert len({made("x").path for _ in range(3)}) == 3


def test_out_is_taken_as_it_is_and_only_once(tmp_path: Path) -> None:
    run = Run.create("x", Config(), out=tmp_path / "deep" / "here")
    assert run.path == tmp_path / "deep" / "here" and run.spec == str(run.path)
    with pytest.raises(BusyError, match="--resume"):
        Run.create("x", Config(), out=run.path)


def test_out_may_be_empty_but_hold_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_vacant(tmp_path / "empty")
    check_vacant(tmp_path / "none")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    (tmp_path / "file").write_text("")
    for name, said in (("mine", "not empty"), ("file", "is a file"), ("file/below", "name another --out")):
        with pytest.raises(UsageError, match=said):
            Run.create("x", Config(), out=tmp_path / name)
    assert not (tmp_path / "mine" / "run.json").exists()


def test_one_process_holds_a_run(tmp_path: Path) -> None:
    run = Run.create("x", Config())
    code = (
        "import sys; from kdc.distill.run.folder import Run; from kdc.distill.errors import BusyError\n"
        "try: Run(sys.argv[1]).lock()\nexcept BusyError as e: print(e.exit_code)\nelse: print('free')"
    )

    def other() -> str:
        done = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert other() == "8"
    run.unlock()
    assert other() == "free"
    run.lock()
    run.lock()  # holding it already is no error
    with pytest.raises(BusyError, match="another process"):
        Run(run.path).lock()


def test_a_run_is_found_by_each_of_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made()
    inside = run.path / "checkpoints" / "best.safetensors"
    write_bytes(inside, b"x")
    for spec in (run.path, str(run.path), run.path.name, RUNS / run.path.name, inside, f"{run.path.name}/run.json"):
        assert find_run(spec).path == run.path, spec
    monkeypatch.chdir(run.path)
    assert find_run(".").path == run.path
    monkeypatch.chdir(tmp_path)
    for spec in (None, LAST):
        with pytest.raises(UsageError, match="no last run"):
            find_run(spec)
    point_last(run)
    assert find_run().path == find_run(LAST).path == run.path  # the folder itself, not the link


def test_an_unknown_run_is_refused_with_the_nearest() -> None:
    run = made()
    with pytest.raises(UsageError, match=f"did you mean '{run.path.name}'"):
        find_run(run.path.name[:-1])
    with pytest.raises(UsageError, match="kdc runs ls"):
        find_run("other")


def test_last_moves_and_may_lie_elsewhere(tmp_path: Path) -> None:
    first, second = made("a"), made("b")
    for run in (first, second):
        point_last(run)
        assert find_run().path == run.path and not Path(os.readlink(RUNS / LAST)).is_absolute()
    far = Run.create("x", Config(), out=tmp_path / "far" / "x")
    point_last(far)
    assert find_run().path == far.path
    assert not (tmp_path / "far" / LAST).exists()
    assert [run.path for run in all_runs()] == [first.path, second.path]  # the link is not a run of its own


def test_all_runs_are_in_order_and_broken_ones_are_passed_over() -> None:
    late, early = made("b", created="2026-01-02T00:00:00"), made("a", created="2026-01-01T00:00:00")
    (RUNS / "broken").mkdir()
    (RUNS / "broken" / "run.json").write_text('{"status": "fin')
    assert [run.path for run in all_runs()] == [early.path, late.path]
    with pytest.raises(WeightsError, match="not a run folder"):
        Run(RUNS / "broken")


def test_a_run_that_was_changed_is_passed_over_with_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    made("a", status="running", created="2026-01-01T00:00:00")
    edited = made("b", status="running", created="2026-01-02T00:00:00")
    edited.unlock()
    card = edited.path / "run.json"
    card.write_text(card.read_text().replace("2026-01-02", "2026-01-03"))
    assert unfinished_run().path.name.endswith("_a")
    assert re.search(r"passed over: .*run.json was changed since kdc wrote it", capsys.readouterr().out)


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    file = tmp_path / "run.json"
    write_json(file, {"old": 1})

    def crash(*_: object, **__: object) -> None:
        raise OSError("crash")

    with monkeypatch.context() as patch:
        if step == "write":

            def half(path: Path, content: bytes) -> int:
                with path.open("wb") as opened:
                    opened.write(content[:3])
                raise OSError("crash")

            patch.setattr(Path, "write_bytes", half)
        elif step == "fsync":
            patch.setattr(os, "fsync", crash)
        else:
            patch.setattr(Path, "replace", crash)
        with pytest.raises(OSError, match="crash"):
            write_json(file, {"new": 2})
    assert json.loads(file.read_text()) == {"old": 1}
    write_json(file, {"new": 2})
    assert json.loads(file.read_text()) == {"new": 2} and [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_the_content_is_on_disk_before_the_name_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(folder.os, "fsync", lambda fd: (done.append("sync"), sync(fd)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (done.append("rename"), replace(self, to))[1])
    write_bytes(tmp_path / "x", b"1")
    assert done == ["sync", "rename", "sync"]  # the file, its name, the folder


def test_record_and_seal(tmp_path: Path) -> None:
    run = made()
    run.record(status="finished", final={"miou": 0.5})
    write_bytes(run.checkpoints / "best.safetensors", b"weights")
    (run.export).mkdir()
    (run.export / ".model.onnx.4711").write_bytes(b"of a command that is writing")
    (run.export / "gone.onnx").symlink_to(run.export / "nowhere")
    run.seal()
    card = Run(run.path).card
    assert card.status == "finished" and card.final == FinalScores(miou=0.5)
    assert card.files.keys() == {"config.yaml", "checkpoints/best.safetensors"}
    assert card.files["checkpoints/best.safetensors"] == hashlib.sha256(b"weights").hexdigest()


def test_records_leave_out_a_half_line() -> None:
    run = made()
    assert run.records() == []
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert run.records() == [{"step": 1}, {"step": 2}]
    (run.path / "timing.jsonl").write_text('{"step": 1, "images_per_s": 2.0}\n')
    assert run.records("timing") == [{"step": 1, "images_per_s": 2.0}]


def test_a_broken_configuration_is_said_in_one_line() -> None:
    run = made()
    (run.path / "config.yaml").write_text("train: {lr: fast}\n")
    with pytest.raises(UsageError, match=r"train\.lr='fast'"):
        run.edited_config()


def test_a_forked_loader_does_not_hold_the_folder(tmp_path: Path) -> None:
    run = Run.create("x", Config(), out=tmp_path / "run")
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
    child.start()
    try:
        time.sleep(1)  # let the child come alive
        run.unlock()  # as when the run is killed
        Run(run.path).lock()
        assert child.is_alive()
    finally:
        child.kill()
        child.join()


def test_an_edited_configuration_is_said_and_not_followed(capsys: pytest.CaptureFixture[str]) -> None:
    run = made()
    file = run.path / "config.yaml"
    file.write_text(file.read_text().replace("lr: 0.02", "lr: 0.5"))
    opened = Run(run.path)
    assert opened.config == Config()
    said = " ".join(capsys.readouterr().out.split())
    assert "config.yaml was edited" in said and "train.lr (0.02, now 0.5)" in said

    file.write_text("train: [")
    assert Run(run.path).config == Config()
    file.unlink()
    assert Run(run.path).config == Config()


def test_a_run_of_an_older_kdc_has_the_configuration_of_its_file() -> None:
    run = made()
    values = run.read()
    del values["config"]
    write_card(run.path, values)
    (run.path / "config.yaml").write_text("train.lr: 0.5")
    assert Run(run.path).config.train.lr == 0.5


def _record_from_a_process(path: Path, number: int) -> None:
    run = Run(path)
    for i in range(5):
        run.extend(notes=[f"{number}.{i}"])
        run.record(**{f"key{number}.{i}": i})


def test_two_writers_keep_each_others_entries() -> None:
    run, context = made(), multiprocessing.get_context("fork")
    writers = [context.Process(target=_record_from_a_process, args=(run.path, number)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    card = run.read()
    assert {f"key{number}.{i}" for number in range(4) for i in range(5)} <= card.keys() and len(card["notes"]) == 20
