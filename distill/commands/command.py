"""From a function that returns a record to a command, whose ``--json`` prints the record; and groups of commands."""

import inspect
import signal
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from .. import console
from ..run.seal import sealing
from ..training.signals import SignalledError, Terminated
from .completion import completed
from .flags import Json, with_parameters


class Group(TyperGroup):
    """Commands whose summaries the help wraps instead of cutting them."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands."""
        commands = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, (each.help or "").partition("\n\n")[0]) for name, each in commands])


def group(text: str) -> typer.Typer:
    """Make a group of commands; ``text`` is its help."""
    return typer.Typer(
        help=text, cls=Group, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
    )


def command(function: Callable[..., Any]) -> Callable[..., None]:
    """Give a function the flag ``--json``, with which what it returns is the last line of stdout, and nothing else.

    Args:
        function: prints for people through ``console``, and returns a record with ``to_dict()``. A record with an
            ``exit_code`` other than 0 is an answer and a failure; its ``error`` says why. One that returns nothing
            stays as it is.
    """
    parameters = [completed(each) for each in inspect.signature(function).parameters.values()]

    def call(**flags: Any) -> Any:
        try:
            with sealing():
                return function(**flags)
        except KeyboardInterrupt as error:
            raise SignalledError(signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT) from error

    if inspect.signature(function).return_annotation is None:
        return with_parameters(function, call, parameters)

    def run(*, json: bool = False, **flags: Any) -> None:
        console.json_mode = json
        record = call(**flags)
        code = getattr(record, "exit_code", 0)
        if json and record is not None:
            console.emit(record.to_dict() | ({"error": record.error, "exit_code": code} if code else {}))
        if code:
            raise typer.Exit(code)

    flag = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)
    return with_parameters(function, run, [*parameters, flag])
