"""The command line: the rooms' commands put together, and every error turned into one line and an exit code."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from . import __version__
from .calib import commands as calib
from .deploy import commands as deploy
from .distill import commands as distill
from .distill import console
from .distill.commands.command import group
from .distill.errors import KdcError, UsageError, closest, lacks_memory
from .distill.text_table import visible
from .distill.training.signals import end_on_sigterm
from .export import commands as export

app = group("Distil, calibrate, export, prove and measure semantic-segmentation networks.")
for room in (distill, deploy):
    room.register(app)
calib.register(app, export.export_like)  # --qat writes its network by the exporter of the room above
export.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kdc {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Print the traceback of an error; anywhere on the line.")
    ] = False,
) -> None:
    """Take the flags that go with every command."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its code; the entry point of the ``kdc`` script."""
    _open_streams()
    end_on_sigterm()
    code = run(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _unread()
    sys.exit(code)


def _open_streams() -> None:
    """Let what was closed lead nowhere: the next file that is opened would take its number, and get what is printed."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - for the life of the process


def _unread() -> int:
    """Return the exit code of a process whose reader is gone; nothing more is printed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code: 0, or that of its error.

    An error is printed as one line on stderr; with ``--json`` also as an object with ``error`` and ``exit_code`` on
    stdout, beside what the command ends with all the same.
    """
    try:
        code = typer.main.get_command(app).main(_spelt_out(arguments), prog_name="kdc", standalone_mode=False)
    except BrokenPipeError as error:  # whoever reads what is printed has seen enough
        if "--debug" in arguments:
            traceback.print_exception(error)
        return _unread()
    except SystemExit as error:  # as typer makes of the same
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        return _unread()
    except Exception as error:  # noqa: BLE001 - the one place where whatever went wrong gets its line and its code
        message, code = _verdict(error)
        if "--debug" in arguments:
            text = "".join(traceback.format_exception(error))
            print("\n".join(map(visible, text.splitlines())), file=sys.stderr)
        if message:
            print(f"kdc: error: {visible(message)}", file=sys.stderr)
        if "--json" in arguments:
            record = getattr(error, "record", None)
            console.emit((record.to_dict() if record else {}) | {"error": message or "stopped", "exit_code": code})
    return code if isinstance(code, int) else 0


def _spelt_out(arguments: Sequence[str]) -> list[str]:
    """Take ``--debug`` away and give a bare ``--resume`` or ``--features`` the empty name that means the usual one."""
    words = [word for word in arguments if word != "--debug"]
    for i in reversed([i for i, word in enumerate(words) if word in ("--resume", "--features")]):
        if i + 1 == len(words) or words[i + 1].startswith("-"):
            words.insert(i + 1, "")
    return words


def _verdict(error: Exception) -> tuple[str, int]:
    """Return what to say about ``error`` and the exit code."""
    if isinstance(error, KdcError):
        return _legible(str(error)), error.exit_code
    if isinstance(error, typer.TyperException):
        return _usage(error), UsageError.exit_code
    if isinstance(error, typer.Abort):
        return "", 130
    if isinstance(error, PermissionError):
        return f"{error.filename}: permission denied; choose a place that you may read and write", UsageError.exit_code
    if cure := _exhausted(error):
        return f"{_first_line(error)}; {cure}", 7
    if isinstance(error, OSError) and error.filename is not None and error.errno in _PLACES:
        where = f"{error.filename}: {str(error.strerror).lower()}"
        return _legible(f"{where}; {_PLACES[error.errno]}"), UsageError.exit_code
    return f"a bug in kdc: {_first_line(error)}; run again with --debug for the traceback, and report it", 1


def _usage(error: typer.TyperException) -> str:
    """Say what is wrong with the line that was typed, with the nearest accepted name and where the help is."""
    message = error.format_message()
    if message.startswith("Usage:"):  # a group without a command: its help is the answer
        typer.echo(message)
        return ""
    context = getattr(error, "ctx", None)
    message = _legible(message).rstrip(".")
    message = message[:1].lower() + message[1:]
    if context is None:
        return message
    accepted = getattr(context.command, "commands", {})
    if option := getattr(error, "option_name", None):
        message = message.partition(" (Possible")[0]
        message += closest(option, [name for p in context.command.params for name in (*p.opts, *p.secondary_opts)])
    elif accepted:
        message = message.replace(". Did you mean", "; did you mean")
        message += f" (accepted: {', '.join(accepted)})"
    return f"{message} (see {context.command_path} --help)"


def _exhausted(error: Exception) -> str:
    """Return the cure when memory, disk or worker processes ran out, else an empty string."""
    text = str(error).lower()
    if lacks_memory(error):
        return "out of memory: try a smaller --batch, --crop or --size"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: free some space or choose another --out"
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return "no file may grow so large here: raise the limit (ulimit -f) or choose another --out"
    if isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EMFILE, errno.EAGAIN):
        return "the system gives no more of it: try fewer --workers or a smaller --batch"
    if isinstance(error, RuntimeError) and "dataloader worker" in text:
        return "a loader process died, most often for lack of memory: try fewer --workers or a smaller --batch"
    return ""


#: what is wrong with a place that was named, or that stands in another's way: the cure by the number of the error
_PLACES = {
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a folder is needed there: move the file away, or choose another place",
    errno.EEXIST: "something else is there: move it away, or choose another place",
    errno.EISDIR: "a file is needed there: move the folder away, or choose another place",
    errno.ENOTEMPTY: "move what is in it away, or choose another place",
    errno.ELOOP: "its links lead in a circle",
    errno.EROFS: "choose a place that you may write to",
    errno.EPERM: "choose a place that you may read and write",
}


def _legible(text: str) -> str:
    """Return a message as one line, in which a word of thousands of letters is cut."""
    words = [word if len(word) <= 300 else f"{word[:100]}...{word[-30:]}" for word in text.split()]
    return " ".join(words) if len(words) < 500 else f"{' '.join(words[:500])} ..."


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {_legible(lines[0])}" if lines else type(error).__name__
