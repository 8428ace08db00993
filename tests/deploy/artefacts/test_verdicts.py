"""Remembered verdicts: found again in another process of the user, and never taken from anybody else."""

import os
from pathlib import Path

import pytest

from kdc.deploy.artefacts import verdicts
from kdc.deploy.artefacts.verdicts import NONE, recall, remember

A, B, RULES = 64 * "a", 64 * "b", 64 * "c"


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a user of whom one good verdict is remembered, in no process."""
    monkeypatch.setattr(verdicts, "_here", {})
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    remember(A, NONE, RULES)
    verdicts._here.clear()
    return tmp_path / "kdc" / "onnx-verdicts"


def test_another_process_of_the_user_finds_it() -> None:
    assert recall(A, RULES) == NONE
    assert recall(B, RULES) is None
    remember(B, A, RULES)
    verdicts._here.clear()
    assert recall(B, RULES) == A and recall(A, RULES) == NONE


def test_other_rules_find_nothing_and_start_anew(file: Path) -> None:
    assert recall(A, B) is None
    remember(B, NONE, B)
    assert file.read_text() == f"{B}\n{B} -\n"


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_is_ignored(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert recall(A, RULES) is None
    remember(B, NONE, RULES)  # is replaced by one that is the user's alone
    assert file.stat().st_mode & 0o777 == 0o600 and A not in file.read_text()


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_a_folder_that_others_may_write_is_ignored(file: Path, mode: int) -> None:
    file.parent.chmod(mode)
    assert recall(A, RULES) is None
    remember(B, NONE, RULES)
    assert B not in file.read_text() and recall(B, RULES) == NONE  # in this process


@pytest.mark.parametrize("foreign", ["file", "folder"])
def test_what_somebody_else_owns_is_ignored(file: Path, foreign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, inode = os.fstat, (file if foreign == "file" else file.parent).stat().st_ino

    def fstat(descriptor: int) -> os.stat_result:
        state = real(descriptor)
        return os.stat_result([*state[:4], state.st_uid + 1, *state[5:]]) if state.st_ino == inode else state

    monkeypatch.setattr(os, "fstat", fstat)
    assert recall(A, RULES) is None


def test_a_link_is_not_followed(file: Path, tmp_path: Path) -> None:
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert recall(A, RULES) is None
    file.unlink()
    (tmp_path / "elsewhere").rename(file)
    file.parent.rename(tmp_path / "other")
    file.parent.symlink_to(tmp_path / "other")
    assert recall(A, RULES) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        f"{RULES}\n{A} -".encode(),
        f"{RULES}\n{A} -\n{B}\n".encode(),
        f"{RULES}\n{A} -\n\n".encode(),
        f"{RULES}\n{A} -\n".encode() + bytes(verdicts.LARGEST),
        f"{RULES}\n".encode() + f"{A} -\n".encode() * (verdicts.LARGEST // 67 + 1),
    ],
    ids=["empty", "noise", "cut off", "half a line", "an empty line", "zeros", "too long"],
)
def test_a_broken_file_is_ignored_and_replaced(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert recall(A, RULES) is None
    remember(B, NONE, RULES)
    verdicts._here.clear()
    assert recall(B, RULES) == NONE


def test_no_file_there_is_no_wait(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)
    assert recall(A, RULES) is None
    file.unlink()
    file.mkdir()
    assert recall(A, RULES) is None


@pytest.mark.parametrize("home", ["/dev/null", "/dev/null/below", "relative"])
def test_a_home_that_cannot_be_written_is_fine(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", home)
    monkeypatch.setenv("HOME", "/dev/null")
    assert recall(A, RULES) is None
    remember(A, NONE, RULES)
    assert recall(A, RULES) == NONE and not (tmp_path / "relative").exists()


def test_without_the_variable_it_lies_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    remember(B, NONE, RULES)
    assert [*(tmp_path / "home").rglob("onnx-verdicts")] == [tmp_path / "home/.local/state/kdc/onnx-verdicts"]


def test_the_file_stays_small(file: Path) -> None:
    keys = [f"{number:064x}" for number in range(verdicts.MOST)]
    file.write_text("\n".join([RULES, *(f"{key} {B}" for key in keys), ""]))
    assert file.stat().st_size < verdicts.LARGEST
    remember(keys[0], A, RULES)  # becomes the newest
    remember(A, NONE, RULES)
    lines = file.read_text().splitlines()[1:]
    assert len(lines) == verdicts.MOST
    assert lines[0].startswith(keys[2]) and lines[-2:] == [f"{keys[0]} {A}", f"{A} -"]


def test_writers_at_once_leave_a_whole_file(file: Path) -> None:
    children = []
    for number in range(4):
        if not (child := os.fork()):
            for step in range(50):
                remember(f"{number * 1000 + step:064x}", NONE, RULES)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    verdicts._here.clear()
    assert recall(f"{49:064x}", RULES) or len(file.read_text().splitlines()) > 50
    assert [path.name for path in file.parent.iterdir()] == [file.name]
