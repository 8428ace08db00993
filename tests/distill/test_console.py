"""What people see: lines above bars, warnings once, tables as wide as the screen."""

import io
import re
import sys

import pytest

from kdc.distill import console
from kdc.distill.quiet import quiet


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


class Clock:
    """A clock that stands still until work moves it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(console, "clock", lambda: self.now)

    def work(self, seconds: float) -> None:
        self.now += seconds


def test_long_work_says_its_forecast_and_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    for _ in console.progress(range(128), 128, "calibrating"):
        clock.work(1.875)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "calibrating: about 4.0 minutes for 128"
    assert len(lines) == 11 and lines[1] == "calibrating 12/128" and lines[-1] == "calibrating 120/128"


def test_steps_are_seen_while_a_library_is_kept_quiet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with console.steps(10, "calibrating") as step, quiet():
        for _ in range(12):  # it may take more of them than were announced
            step()
            clock.work(60)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["calibrating: about 10.0 minutes for 10", *(f"calibrating {n}/10" for n in range(1, 10))]


def test_short_work_is_not_mentioned(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    for _ in console.progress(range(9), 9, "images"):
        clock.work(2)
    assert [*console.progress(iter("abc"), 3, "letters")] == ["a", "b", "c"]
    assert capsys.readouterr().out == ""


def test_work_within_other_work_is_not_mentioned(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with console.bar(10, "train") as update:
        for _ in console.progress(range(50), 50, "val"):
            clock.work(10)
        update(1, "loss 2")
    assert capsys.readouterr().out == "train 1/10 loss 2\n"


def test_a_forecast_stands_above_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, clock = terminal(monkeypatch), Clock(monkeypatch)
    for _ in console.progress(range(20), 20, "calibrating"):
        clock.work(30)
    assert "calibrating: about 10.0 minutes for 20" in screen.getvalue()
    assert re.search(r"calibrating .*\d+/20", screen.getvalue())


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


#: names that a stranger may have given to files, classes and layers
NAMES = (
    "[/x]",
    "[bold]a[/bold]",
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "a\nb",
    "a\rb",
    ":car:",
    "\u202egnp",
    "\x9b2J",
    "\udcff",
)
SHOWN = ("[/x]", "[bold]a[/bold]", "\\x1b[31mred", "\\x1b]0;title\\x07", "a\\nb", "a\\rb", ":car:", "\\u202egnp")
SHOWN += ("\\x9b2J", "\\udcff")


@pytest.mark.parametrize(("name", "shown"), list(zip(NAMES, SHOWN, strict=True)))
def test_words_of_strangers_are_neither_markup_nor_codes(
    name: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console.say(f"class {name}.")
    console.note(f"note {name}.")
    console.warn(f"warn {name}.")
    console.table(f"title {name}.", ["class", name], [(name, 1)])
    with console.bar(1, name) as update:
        update(1, name)
    out = capsys.readouterr().out
    for line in (f"class {shown}.", f"note {shown}.", f"! warn {shown}.", f"title {shown}.", f"{shown} 1/1 {shown}"):
        assert line in out.splitlines()
    assert out.count(shown) == 8 and "\x1b" not in out

    screen = terminal(monkeypatch)
    with console.bar(2, f"on {name}.") as update:
        update(1, f"text {name}.")
        console.say(f"class {name}.")
    seen = screen.getvalue()
    assert f"on {shown}." in seen and f"text {shown}." in seen and f"class {shown}." in seen
    assert name.isprintable() or name not in seen
