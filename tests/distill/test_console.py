"""What people see: lines above bars, warnings once, tables as wide as the screen."""

import io
import re
import sys

import pytest

from kdc.distill import console


class Terminal(io.StringIO):
    """A screen that keeps all that is sent to it."""

    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Let a screen of 80 columns be stdout; not by a fixture, for pytest puts its own stdout back before a test."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    return screen


@pytest.fixture(autouse=True)
def fresh_consoles() -> None:
    """Forget the width that a console took from the environment."""
    console._console_of.cache_clear()


def test_a_line_stands_above_the_bar_that_is_running(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with console.bar(30, "train") as update:
        update(10, "loss 1.498  1.7 img/s")
        console.say("step 10: val mIoU 16.20 %")
        console.warn("a warning beside it")
        print("from elsewhere")
    for line in ("step 10: val", "\x1b[1;33m! a warning", "from elsewhere"):
        before = screen.getvalue().partition(line)[0]
        assert before.endswith("\r\x1b[2K"), repr(before[-60:])


def test_the_bar_is_no_wider_than_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with console.bar(30000, "train") as update:
        update(12345, "loss 1234.567  1234.5 img/s")
    for line in screen.getvalue().split("\r"):
        visible = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", line).rstrip("\n")
        assert len(visible) <= 80


def test_a_warning_is_said_once_and_noted_by_every_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    firsts = []
    for _ in range(26):
        firsts.append(len(console.notes))
        console.warn("generated scenes")
        console.note("student: at random")
        console.warn("generated scenes")
    assert capsys.readouterr().out.splitlines() == ["! generated scenes", "student: at random"]
    assert console.notes_since(firsts[-1]) == ["generated scenes", "student: at random"]
    monkeypatch.setattr(console, "muted", True)
    console.warn("unheard")
    monkeypatch.setattr(console, "muted", False)
    console.warn("unheard")
    assert capsys.readouterr().out == "! unheard\n"


def test_another_call_of_the_python_door_is_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with console.door("kdc.api.train()", silent=False):
            console.warn("the same")
    assert capsys.readouterr().out == "! the same\n" * 2


def test_a_table_fits_the_screen_and_a_file_gets_whole_rows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ("name", "word " * 60)
    monkeypatch.delenv("COLUMNS", raising=False)
    console.table("title", ("a", "b"), [row])
    assert len(capsys.readouterr().out.splitlines()) == 5
    monkeypatch.setenv("COLUMNS", "80")
    console._console_of.cache_clear()
    console.table("a title " * 20, ("a", "b"), [row])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
