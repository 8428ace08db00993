"""The command line as a user meets it: what help lists, what errors say, which code each exit has."""

import errno
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from kdc import __version__, cli
from kdc.distill import errors, models
from kdc.distill.commands.command import command
from kdc.distill.run.checkpoint import save_student
from kdc.distill.run.records import Record
from kdc.distill.training.signals import Terminated

COMMANDS = [
    "trust",
    "distill",
    "train",
    "probe",
    "eval",
    "predict",
    "export",
    "calib",
    "bench",
    "data",
    "models",
    "methods",
    "runs",
    "report",
    "compare",
    "parity",
    "verify",
    "doctor",
    "demo",
]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2].splitlines()
    assert sorted(line.split()[0] for line in listed if line[:3].strip()) == sorted(COMMANDS)


def test_every_command_and_option_is_explained() -> None:
    def unexplained(command, path: str) -> list[str]:
        here = [] if command.help else [path]
        here += [f"{path} {parameter.opts[0]}" for parameter in command.params if not parameter.help]
        return here + [
            line
            for name, sub in getattr(command, "commands", {}).items()
            for line in unexplained(sub, f"{path} {name}")
        ]

    assert not unexplained(typer.main.get_command(cli.app), "kdc")


def test_help_cuts_no_summary_and_fits_eighty_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for group in ("", "bench", "export", "data"):
        assert cli.run([*group.split(), "--help"]) == 0
        listed = capsys.readouterr().out.partition("Commands:")[2]
        assert "..." not in listed and max(map(len, listed.splitlines())) <= 80
        assert listed.count(".\n") == len([line for line in listed.splitlines() if line[2:3].strip()])


def test_help_imports_nothing_heavy() -> None:
    heavy = "torch numpy timm torchvision cv2 onnx onnxruntime lightning_fabric pydantic safetensors rich"
    done = python(
        f"import sys; from kdc import cli; cli.run(['--help']); print([m for m in {heavy.split()} if m in sys.modules])"
    )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


def test_module_and_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kdc", "--version"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"kdc {__version__}\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("distil", "no such command 'distil'; did you mean 'distill'?"),
        ("export tensorrt", "no such command 'tensorrt'"),
        ("distill --teachr r101", "no such option: --teachr; did you mean '--teacher'?"),
        ("distill --metod kt", "did you mean '--method'? (see kdc distill --help)"),
        ("--verson", "did you mean '--version'?"),
        ("distill --iters many", "invalid value for '--iters'"),
        ("models info", "missing argument"),
    ],
)
def test_a_wrong_line_gets_one_line_and_exit_2(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("kdc: error: ")
    assert said in err


def test_a_group_alone_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 2
    out, err = capsys.readouterr()
    assert "Commands:" in out and err == ""


@dataclass(frozen=True)
class Answer(Record):
    """What a command found before it failed."""

    value: int


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Replace the command line by one whose command ``fail`` raises the given error."""

    def fail_with(error: BaseException) -> None:
        app = typer.Typer()

        @app.callback()
        def group() -> None: ...

        def fail() -> Answer:
            raise error

        app.command()(command(fail))

        monkeypatch.setattr(cli, "app", app)

    return fail_with


class OutOfMemoryError(RuntimeError):
    """Named as torch's, which is told by its name."""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (errors.UsageError("what\n came"), 2, "kdc: error: what came"),
        (errors.DataError("d"), 3, "d"),
        (errors.WeightsError("w"), 4, "w"),
        (errors.ExportError("e"), 5, "e"),
        (errors.NumbersError("n"), 6, "n"),
        (errors.ResourceError("r"), 7, "r"),
        (errors.BusyError("b"), 8, "b"),
        (PermissionError(errno.EACCES, "denied", "runs"), 2, "runs: permission denied"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "r/export"), 2, "r/export: not a directory; a folder is"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "r/report.html"), 2, "a file is needed there"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 5000), 2, "choose a shorter name"),
        (OSError(errno.EROFS, "Read-only file system", "r"), 2, "choose a place that you may write to"),
        (errors.UsageError(f"no run {'y' * 5000!r}"), 2, "yyy...yyy"),
        (MemoryError(), 7, "smaller --batch"),
        (OutOfMemoryError("CUDA out of memory. Tried\nto allocate"), 7, "smaller --batch"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 7, "smaller --batch"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), 7, "fewer --workers"),
        (OSError(errno.ENOSPC, "No space left on device"), 7, "the disk is full"),
        (ValueError("odd\nmore"), 1, "a bug in kdc: ValueError: odd; run again with --debug"),
        (FileNotFoundError(errno.ENOENT, "no such file", "x"), 1, "a bug in kdc"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_and_exit_codes(
    failing, error: Exception, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(error)
    assert cli.run(["fail"]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err and len(err) < 500


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("distil --json", 2, "did you mean 'distill'"),
        ("bench latency --json --nonsense", 2, "no such option: --nonsense"),
        ("distill --json --iters many", 2, "invalid value for '--iters'"),
        ("models info --json", 2, "missing argument"),
        ("methods info nothing --json", 2, "nothing"),
        ("eval nothing --json", 2, "nothing"),
        ("data check nothing --json", 3, "nothing"),
        ("parity nothing.onnx --json", 4, "nothing.onnx"),
    ],
)
def test_a_failure_with_json_is_one_object(line: str, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(line.split()) == code
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert out.count("\n") == 1 and said in answer["error"] and answer["exit_code"] == code
    assert answer["error"] in err


@pytest.mark.parametrize("error", [errors.DataError("what came", Answer(3)), KeyboardInterrupt(), ValueError("odd")])
def test_whatever_ends_it_json_says_it(failing, error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    failing(error)
    code = cli.run(["fail", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_code"] == code > 0 and answer["error"]
    assert answer.get("value") == (3 if isinstance(error, errors.DataError) else None)


def test_debug_anywhere_adds_the_traceback(failing, capsys: pytest.CaptureFixture[str]) -> None:
    failing(errors.DataError("no images"))
    assert cli.run(["fail", "--debug"]) == cli.run(["--debug", "fail"]) == 3
    err = capsys.readouterr().err
    assert err.count("Traceback") == 2 and err.count("kdc: error: no images\n") == 2


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (typer.Exit(143), 143, ""),
        (typer.Exit(0), 0, ""),
        (KeyboardInterrupt(), 130, "kdc: error: stopped by SIGINT\n"),
        (Terminated(), 143, "kdc: error: stopped by SIGTERM\n"),
    ],
)
def test_stopping_says_what_stopped_it(
    failing, error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(error)
    assert cli.run(["fail"]) == code
    assert capsys.readouterr().err == said


@pytest.mark.process
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_command_with_one_line_and_no_child(tmp_path: Path, number: int, code: int) -> None:
    save_student(tmp_path / "net.safetensors", models.build("pspnet-mv2_035", 3, seed=0), {})
    flags = ["net.safetensors", "--size", "32x64", "--seconds", "60", "--out", "."]
    line = [sys.executable, "-m", "kdc", "bench", "latency", *flags]
    # what runs the tests in the background may have SIGINT ignored, which children inherit
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, old)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not children.read_text():
        assert process.poll() is None
        time.sleep(0.05)
    family = children.read_text().split()
    time.sleep(1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code and err.count("\n") == 1 and "stopped by" in err, err
    time.sleep(0.5)
    assert not [child for child in family if Path(f"/proc/{child}").exists()]


def test_shell_completion(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("_KDC_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "kdc disti")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["disti"])
    assert capsys.readouterr().out.split() == ["distill"]


def test_what_was_typed_is_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["eval", "\x1b[31m.onnx"],
        ["\x1b[31m"],
        ["eval", "--\x1b[31m"],
        ["eval", "[/x]\n.onnx", "--debug"],
    ):
        assert cli.run(arguments) in (2, 4)
        err = capsys.readouterr().err
        assert "\x1b" not in err and ("\\x1b[31m" in err or "[/x]" in err)


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_command_line_is_imported_is_one_line(number: signal.Signals, tmp_path: Path) -> None:
    code = (
        "import os, sys, signal\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'kdc.cli':\n"
        f"            os.kill(os.getpid(), {int(number)}); import time; time.sleep(5)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "import runpy; sys.argv = ['kdc', '--version']; runpy.run_module('kdc', run_name='__main__', alter_sys=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (128 + number, f"kdc: error: stopped by {number.name}\n")
    assert done.stdout == ""


@pytest.mark.parametrize("line", ["methods ls --json", pytest.param("models ls", marks=pytest.mark.process)])
def test_a_reader_that_has_gone_is_no_fault(line: str) -> None:
    code = f"{sys.executable} -m kdc {line} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() in ("0", "141") and done.stderr == ""


@pytest.mark.process
@pytest.mark.parametrize("closed", ["<&-", "0<&- 1>&-", "2>&-", "<&- 2>&-"])
def test_closed_streams(closed: str, tmp_path: Path) -> None:
    code = f"{sys.executable} -m kdc methods ls {closed}; echo $? > code"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path)
    assert (tmp_path / "code").read_text() == "0\n", done.stderr


@pytest.mark.process
def test_a_file_is_written_where_every_stream_is_closed(tmp_path: Path) -> None:
    code = f"{sys.executable} -m kdc verify --paper kt --out it.json <&- >&- 2>&-"
    subprocess.run(["bash", "-c", code], timeout=240, check=True, cwd=tmp_path)
    assert json.loads((tmp_path / "it.json").read_text())["kind"] == "verify"


def test_a_folder_is_no_place_for_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["verify", "--out", str(tmp_path)]) == 2
    assert "it is a folder; name the file" in capsys.readouterr().err
