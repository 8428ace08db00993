"""The commands of this room, one file a noun."""

import typer

from .command import command, group
from .compare import compare
from .data import data_check, data_info, data_ls
from .methods import methods_info, methods_ls
from .models import models_info, models_ls
from .probe import probe
from .runs import runs_check, runs_info, runs_ls, runs_rm
from .training import distill, train
from .verify import verify


def register(app: typer.Typer) -> None:
    """Add this room's commands to the command line."""
    app.command("distill")(command(distill))
    app.command("train")(command(train))

    for name, text, commands in (
        ("data", "Look at data sets and check folders.", (("ls", data_ls), ("info", data_info), ("check", data_check))),
        ("models", "Look at networks.", (("ls", models_ls), ("info", models_info))),
        ("methods", "Look at distillation methods.", (("ls", methods_ls), ("info", methods_info))),
        (
            "runs",
            "Look at runs and remove them.",
            (("ls", runs_ls), ("info", runs_info), ("check", runs_check), ("rm", runs_rm)),
        ),
    ):
        nouns = group(text)
        for verb, function in commands:
            nouns.command(verb)(command(function))
        app.add_typer(nouns, name=name)

    app.command("probe")(command(probe))
    app.command("compare")(command(compare))
    app.command("verify")(command(verify))
