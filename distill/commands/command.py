"""From a function that returns a record to a command: ``--json`` prints the record."""

import inspect
from collections.abc import Callable
from typing import Any

import typer

from .. import console
from ..errors import KdcError
from .flags import Json, with_parameters


def command(function: Callable[..., Any]) -> Callable[..., None]:
    """Give a function the flag ``--json``, with which what it returns is the last line of stdout, and nothing else.

    Args:
        function: prints for people through ``console``, and returns a record with ``to_dict()``. A record with an
            ``exit_code`` other than 0 is an answer and a failure; so is a KdcError that carries a ``record``. One that
            returns nothing stays as it is.
    """
    if inspect.signature(function).return_annotation is None:
        return function

    def run(*, json: bool = False, **flags: Any) -> None:
        console.json_mode = json
        try:
            record = function(**flags)
        except KdcError as error:
            if json and error.record is not None:
                console.emit(error.record.to_dict())
            raise

        if json and record is not None:
            console.emit(record.to_dict())
        if code := getattr(record, "exit_code", 0):
            raise typer.Exit(code)

    flag = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)
    return with_parameters(function, run, [*inspect.signature(function).parameters.values(), flag])
