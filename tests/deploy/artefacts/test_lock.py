"""One command at a time writes into a run's export folder."""

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from kdc.deploy.artefacts.lock import HOLDER, alone, exporting, reading
from kdc.deploy.flags import steady
from kdc.distill.errors import BusyError
from kdc.distill.run.folder import Run
from kdc.distill.run.lock import sign_lock


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "run.json").write_text("{}")
    return Run(tmp_path)


@alone
def work(one: Run | Path, *, source: str = "done") -> str:
    """Do nothing."""
    run = one if isinstance(one, Run) else None
    return work(run.export / "model.onnx", source=source) if run else source


def test_the_folder_is_held_by_one_process_and_as_often_as_it_likes(run: Run) -> None:
    assert work(run) == "done" and work(run, source="a name that the decorator uses, too") != "done"
    other = os.open(run.export, os.O_RDONLY | os.O_DIRECTORY)  # another open file, as another process has
    with exporting(run), pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for source in (run, run.export / "model.onnx"):
        with pytest.raises(BusyError, match=r"another process works in .*process [0-9]+ on") as caught:
            work(source)
        assert caught.value.exit_code == 8
    os.close(other)
    assert work(run) == "done"


def test_it_is_let_go_after_an_error(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), exporting(run):
        raise ZeroDivisionError
    with exporting(run):
        pass


def test_a_file_outside_a_run_has_no_owner(tmp_path: Path) -> None:
    assert work(tmp_path / "a.onnx") == "done"
    assert not (tmp_path / "export").exists()


def test_readers_keep_writers_away_and_wait_for_them(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.export.mkdir()
    path = run.export / "model.onnx"
    path.write_bytes(b"old")

    @steady
    def read(first: str | None = None, *, second: str | None = None) -> bytes:
        return path.read_bytes()

    other = os.open(run.export, os.O_RDONLY | os.O_DIRECTORY)  # another open file, as another process has
    with reading([run, path, "no such run"]), reading([path]):
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_UN)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    sign_lock(run.path / HOLDER)

    def replace_the_file() -> None:
        time.sleep(0.3)
        path.write_bytes(b"new")
        os.close(other)

    thread = threading.Thread(target=replace_the_file)
    thread.start()
    assert read(str(run.path), second=str(path)) == b"new"
    thread.join()
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("waiting for another process, which writes into") == 1
    assert f"(process {os.getpid()} on " in said
    assert read(str(path)) == read("no such run") == b"new"
