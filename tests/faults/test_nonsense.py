"""Nonsense command lines: an exit code from 2 to 8 and one line, or an answer; no hang, nothing written elsewhere."""

import contextlib
import io
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from kdc import cli

#: what a flag or argument gets
VALUES = ("", "0", "-1", "1e9", "1e9x1e9", "0x0", "64x", "x64", "nan", "inf", "-inf", "9" * 5000, "y" * 5000, "[/x]")
VALUES += ("\x1b[31m", "a\nb", "../../x", "/dev/null", "/dev/zero", ".", "none", "kt+kt", "kt", "r18", "file.txt", "{}")
VALUES += ("train.lr=.inf", "train.workers=1000000", "data.classes=1000000000", "=", "a=b", "train=1", "1000000000")
VALUES += ("gates.fp32=1", "method.kt.T=[1,2]", "train.crop=[1]", "folder", "none.onnx", "bad.onnx", "bad.pth", "¹x²")
VALUES += ("bad.safetensors", "bad.xml", "bad.pt2", "bad.engine", "bad.yaml", "deep.yaml", "1,2,3", "1/0", "self", "--")
#: commands that do their work whatever they are given, and how long they may not take
BUSY = {"demo", "doctor", "verify"}
SECONDS = 60


class HangError(BaseException):
    """A line did not end."""


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if parts := getattr(command, "commands", None):
        for name, part in parts.items():
            yield from _commands(part, (*path, name))
    else:
        yield path, command


def lines(count: int, seed: int) -> Iterator[list[str]]:
    """Yield lines of a command with flags that it has or not, and values that it takes or not."""
    rng = random.Random(seed)
    commands = [each for each in _commands(typer.main.get_command(cli.app)) if each[0][0] not in BUSY]
    for _ in range(count):
        path, command = rng.choice(commands)
        options = [opt for parameter in command.params for opt in parameter.opts if opt.startswith("--")]
        words: list[str] = []
        for _ in range(rng.randrange(4)):
            words += [rng.choice([*options, "--nonsense", "-x"]), *([rng.choice(VALUES)] * (rng.random() < 0.8))]
        words += [rng.choice(VALUES) for _ in range(rng.randrange(3))]
        # what trains or measures must not begin: one flag of it is always nonsense
        if path in (("train",), ("distill",), ("probe",), ("compare",)):
            words += ["--data", rng.choice(("nowhere", "folder", "bad.yaml", "deep.yaml", "file.txt", "\x1b[31m"))]
        yield [*path, *words]


def run(line: list[str]) -> tuple[int, str]:
    """Run a line in this process; return its code and what it wrote to stderr."""

    def ring(*_: object) -> None:
        raise HangError

    out, err = io.StringIO(), io.StringIO()
    signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.run(line)
    except HangError:
        return -1, f"no end within {SECONDS} s"
    except SystemExit as error:
        return -2, f"SystemExit {error.code}"
    finally:
        signal.alarm(0)
    return code, err.getvalue()


def survived(count: int, seed: int, place: Path) -> list[str]:
    """Run lines in a folder of bad files; return those that ended wrongly."""
    (place / "folder").mkdir()
    for name in ("file.txt", "bad.onnx", "bad.pth", "bad.safetensors", "bad.xml", "bad.pt2", "bad.engine"):
        (place / name).write_bytes(b"nothing of the kind")
    (place / "bad.yaml").write_text("a: [1")
    (place / "deep.yaml").write_text("{a: " * 1000)

    wrong = []
    for line in lines(count, seed):
        code, err = run(line)
        last = [each for each in err.splitlines() if each.startswith("kdc: error: ")]
        fine = code == 0 or (2 <= code <= 8 and (len(last) == 1 or (code == 2 and not err)))
        if not fine or "a bug in kdc" in err or "Traceback" in err:
            shown = " ".join(word if len(word) < 40 else f"{word[:10]}..." for word in line)
            wrong.append(f"kdc {shown!r}: exit {code}: {err.strip()[-300:]}")
    return wrong


@pytest.mark.slow
def test_two_thousand_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "within"
    place.mkdir()
    monkeypatch.chdir(place)
    wrong = survived(2000, 14, place)
    assert not wrong, f"{len(wrong)} of 2000:\n" + "\n".join(wrong[:40])
    assert [path.name for path in tmp_path.iterdir()] == ["within"]


def test_a_few_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = survived(60, 3, tmp_path)
    assert not wrong, "\n".join(wrong)
