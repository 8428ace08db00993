"""Files are written in their place and nowhere else: no link leads out, no name is foretold, and no debris stays."""

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from kdc.distill import models
from kdc.distill.errors import UsageError
from kdc.distill.run.checkpoint import save_state, save_student
from kdc.distill.run.files import replacing, write_bytes, write_json
from kdc.distill.run.folder import Run, point_last
from kdc.distill.run.lock import held, lock_folder
from kdc.distill.run.places import BESIDE, MARK, open_in_place, sweep
from kdc.distill.settings.config import Config
from kdc.distill.training.state import State


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run.create("x", Config(), out=tmp_path / "run")
    made.unlock()
    return made


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of the user's, outside of the run."""
    path = tmp_path / "elsewhere" / "thesis.tex"
    path.parent.mkdir()
    path.write_text("years")
    return path


def logs(run: Run) -> None:
    State(run, Mock(), Mock(), None).open_logs(None)


WRITERS: dict[str, tuple[str, Callable[[Run, Path], object]]] = {
    "bytes": ("report.html", lambda run, path: write_bytes(path, b"new")),
    "json": ("gates.json", lambda run, path: write_json(path, {})),
    "card": ("run.json", lambda run, path: run.record(status="finished")),
    "state": ("checkpoints/last.json", lambda run, path: save_state(path.parent, {"stage": "main"}, 1)),
    "weights": (
        "checkpoints/best.safetensors",
        lambda run, path: save_student(path, models.build("pspnet-mv2_035", 2, seed=0), {}),
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_link_in_place_of_a_file_is_replaced(run: Run, victim: Path, writer: str) -> None:
    name, write = WRITERS[writer]
    path = run.path / name
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        victim.write_bytes(path.read_bytes())
        path.unlink()
    path.symlink_to(victim)
    before = victim.read_bytes()
    write(run, path)
    assert victim.read_bytes() == before and not path.is_symlink() and path.is_file()


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "timing.jsonl"])
@pytest.mark.parametrize("target", ["thesis.tex", "nothing yet"])
def test_a_link_in_place_of_what_is_written_where_it_is_is_refused(
    run: Run, victim: Path, name: str, target: str
) -> None:
    path = run.path / name
    path.unlink(missing_ok=True)
    path.symlink_to(victim.with_name(target))
    with pytest.raises(UsageError, match=f"{name} is a link, .*remove it"):
        lock_folder(run.path) if name == ".lock" else logs(run)
    assert [*victim.parent.iterdir()] == [victim] and victim.read_text() == "years"
    path.unlink()  # the cure
    lock_folder(run.path).close()
    logs(run)


@pytest.mark.parametrize("deep", ["predict", "export/triton"])
@pytest.mark.parametrize("write", [lambda path: write_bytes(path, b"new"), open_in_place])
def test_a_folder_that_is_a_link_is_refused(run: Run, victim: Path, deep: str, write: Callable[[Path], object]) -> None:
    link = run.path / deep
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(victim.parent)
    for path in (link / "thesis.tex", link / "below" / "new"):
        with pytest.raises(UsageError, match=f"{deep} is a link to .*, and kdc writes nothing through links in a run"):
            write(path)
    assert [*victim.parent.iterdir()] == [victim] and victim.read_text() == "years"
    link.unlink()
    write_bytes(link / "thesis.tex", b"new")  # the cure


def test_the_users_own_links_are_followed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "shortcut").symlink_to(run.path)
    write_bytes(tmp_path / "shortcut" / "report.html", b"new")
    assert (run.path / "report.html").read_bytes() == b"new"
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    write_bytes(tmp_path / "out" / "table.csv", b"new")
    assert (tmp_path / "disk" / "table.csv").read_bytes() == b"new"


def test_where_a_file_is_written_is_not_foretold(tmp_path: Path) -> None:
    seen = set()
    for _ in range(3):
        with replacing(tmp_path / "a.json") as new:
            seen.add(new)
            assert new.name == "a.json" and stat.S_IMODE(new.parent.stat().st_mode) == 0o700
            new.write_bytes(b"")
    assert len(seen) == 3 and [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_umask_says_who_may_read(tmp_path: Path, umask: int, mode: int) -> None:
    old = os.umask(umask)
    try:
        save_student(tmp_path / "best.safetensors", models.build("pspnet-mv2_035", 2, seed=0), {})
        save_state(tmp_path, {"stage": "main", "student": {"w": torch.zeros(1)}}, 1)
    finally:
        os.umask(old)
    assert {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in tmp_path.iterdir()} == dict.fromkeys(
        ("best.safetensors", "best.safetensors.json", "last-main-0000001.pt", "last.json"), oct(mode)
    )


def test_debris_of_the_dead_goes_and_that_of_the_living_stays(run: Run) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    dead, living = f".report.html.{ended.pid}", f".report.html.{os.getpid()}"
    kept = [living, ".report.html", ".hidden.txt", ".report.html.99999999999999999999", ".keep.1x"]
    for name in (dead, *kept):
        (run.path / name).write_bytes(b"")
    for name in (f"{BESIDE}dead", f"{BESIDE}living", f"{BESIDE}other"):
        (run.path / name).mkdir()
        if name != f"{BESIDE}other":
            (run.path / name / MARK).touch()
    with held(run.path / f"{BESIDE}living", wait=False):
        write_bytes(run.path / "report.html", b"new")
    left = {path.name for path in run.path.iterdir()}
    assert {*kept, f"{BESIDE}living", f"{BESIDE}other"} <= left and not {dead, f"{BESIDE}dead"} & left
    sweep(run.path)
    assert not (run.path / f"{BESIDE}living").exists()


def test_what_older_versions_left_of_weights_goes_when_the_run_is_taken_up(run: Run) -> None:
    for folder in ("checkpoints", "phases"):
        (run.path / folder).mkdir()
        (run.path / folder / ".tmpAbC123").write_bytes(b"half of the weights")
    run.lock()
    assert not [*run.path.rglob(".tmp*")]
    run.unlock()


def test_a_link_to_the_last_run_is_replaced(run: Run, tmp_path: Path) -> None:
    for _ in range(2):
        point_last(run, tmp_path)
    assert (tmp_path / "last").resolve() == run.path and (tmp_path / "last").is_symlink()
    assert not [*tmp_path.glob(".*")]


def test_hidden_files_of_the_user_outside_of_runs_stay(tmp_path: Path) -> None:
    (tmp_path / ".notes.20240101").write_text("mine")
    write_bytes(tmp_path / "bundle.zip", b"new")
    assert (tmp_path / ".notes.20240101").read_text() == "mine"


def test_no_link_to_another_run_is_followed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text("{}")
    (run.path / "predict").symlink_to(other)
    (run.path / "export").mkdir(exist_ok=True)
    (run.path / "export" / "link").symlink_to(tmp_path)
    monkeypatch.chdir(run.path / "export")
    for path in (run.path / "predict" / "classes.csv", Path("link/classes.csv")):
        with pytest.raises(UsageError, match="kdc writes nothing through links in a run"):
            write_bytes(path, b"new")
