"""Flags and output that several commands of this room share."""

import functools
import inspect
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from .. import console

if TYPE_CHECKING:
    from ..settings.config import Dotted

R = TypeVar("R")

ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Read settings from a YAML file.")]
Dry = Annotated[bool, typer.Option("--dry-run", help="Print the plan and a memory estimate; write nothing.")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="NAME|DIR|CARD", help="Data set, folder or card; the built-in generated scenes if not named."
    ),
]
Split = Annotated[str | None, typer.Option(help="The split to validate on.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder; a new one below runs/ if not named.")]
Resume = Annotated[str | None, typer.Option(metavar="[RUN]", help="Resume this run, or the newest unfinished one.")]
Teacher = Annotated[
    str | None,
    typer.Option(metavar="NAME|RUN|FILE", help="Who teaches: an architecture (r101), a run, a checkpoint, or self."),
]
TeacherWeights = Annotated[str | None, typer.Option(metavar="FILE", help="Fully trained weights of the teacher.")]
Method = Annotated[
    str | None,
    typer.Option(metavar="NAME[+NAME]", help="Distillation method, such as kt, lad or kt+kd; see: kdc methods ls."),
]
Preset = Annotated[
    str | None, typer.Option(metavar="NAME", help="A published recipe: method, weights and optimisation.")
]
At = Annotated[
    str | None, typer.Option(metavar="TAP", help="Feature that the method compares, if it has a choice: bb, dec, ...")
]
Student = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Architecture-backbone, such as deeplabv3-r18 or pspnet-mv2; r18 alone takes --arch."
    ),
]
StudentWeights = Annotated[
    str | None, typer.Option(metavar="imagenet|FILE", help="Trained backbone that the student starts from.")
]
Init = Annotated[
    str | None, typer.Option(metavar="RUN", help="Start from the weights of another run of the same network.")
]
Arch = Annotated[str | None, typer.Option(help="Architecture of names that are a backbone alone.")]
Iters = Annotated[int | None, typer.Option(help="Optimiser steps.")]
BatchSize = Annotated[int | None, typer.Option("--batch", help="Images per optimiser step, over all devices.")]
Crop = Annotated[str | None, typer.Option(metavar="HxW", help="Training crop.")]
SizeOption = Annotated[str | None, typer.Option("--size", metavar="HxW", help="Size of the built-in scenes.")]
Lr = Annotated[float | None, typer.Option(help="Learning rate at the start.")]
Seed = Annotated[int | None, typer.Option(help="Seed of weights, sample order and augmentation.")]
Workers = Annotated[int | None, typer.Option(help="Loader processes; the result does not depend on it.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Devices = Annotated[int | None, typer.Option(help="Devices on this node.")]
Nodes = Annotated[int | None, typer.Option(help="Nodes.")]
Precision = Annotated[str | None, typer.Option(help="32, bf16-mixed or 16-mixed.")]
Compile = Annotated[
    bool | None, typer.Option("--compile/--no-compile", help="Compile the networks with torch.compile.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any configuration key, as in train.clip=1 or method.kt.T=2."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]
Classes = Annotated[int | None, typer.Option(help="Number of classes of a folder of masks.")]
Ignore = Annotated[int | None, typer.Option(help="Label value in the files that is ignored.")]


#: the setting of each flag
SETTINGS = {
    "teacher": "model.teacher",
    "student": "model.student",
    "teacher_weights": "model.teacher_weights",
    "student_weights": "model.student_weights",
    "init": "model.init",
    "arch": "model.arch",
    "data": "data.source",
    "classes": "data.classes",
    "ignore_index": "data.ignore_index",
    "split": "data.split",
    "size": "data.size",
    **{name: f"train.{name}" for name in ("iters", "batch", "crop", "lr", "seed", "workers")},
    **{name: f"train.{name}" for name in ("device", "devices", "nodes", "precision", "compile")},
}


@dataclass(frozen=True)
class TrainingFlags:
    """The flags that stand for one setting each, in the order of the help; None is not given."""

    teacher: Teacher = None
    student: Student = None
    data: Data = None
    classes: Classes = None
    ignore_index: Ignore = None
    split: Split = None
    size: SizeOption = None
    iters: Iters = None
    batch: BatchSize = None
    crop: Crop = None
    lr: Lr = None
    seed: Seed = None
    arch: Arch = None
    teacher_weights: TeacherWeights = None
    student_weights: StudentWeights = None
    init: Init = None
    workers: Workers = None
    device: Device = None
    devices: Devices = None
    nodes: Nodes = None
    precision: Precision = None
    compile: Compile = None

    def names(self) -> list[str]:
        """Return the flags that were given."""
        return [name for name in SETTINGS if getattr(self, name) is not None]

    def settings(self) -> "Dotted":
        """Return the settings that were given, by dotted key."""
        from ..settings.config import parse_size

        settings: Dotted = {SETTINGS[name]: getattr(self, name) for name in self.names()}
        sizes = {"data.size": self.size, "train.crop": self.crop}
        return settings | {key: parse_size(text) for key, text in sizes.items() if text is not None}


def with_parameters(
    function: Callable[..., Any], call: Callable[..., R], parameters: Sequence[inspect.Parameter]
) -> Callable[..., R]:
    """Make ``call`` stand for ``function`` with other parameters, all by keyword: typer reads the flags from them."""
    functools.update_wrapper(call, function)
    keywords = [each.replace(kind=each.KEYWORD_ONLY) for each in parameters]
    vars(call)["__signature__"] = inspect.signature(function).replace(parameters=keywords)
    call.__annotations__ = {each.name: each.annotation for each in keywords}
    return call


def takes(
    name: str,
    make: Callable[..., Any],
    flags: Sequence[inspect.Parameter] | None = None,
    first: int | None = None,
    before: str | None = None,
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command flags in place of its parameter ``name``, which gets what ``make`` returns for their values.

    Args:
        name: the parameter.
        make: takes the values by the names of the flags.
        flags: those of its parameters that the command has (default: all).
        first: how many of them the help lists in place of ``name`` (default: all).
        before: the parameter before which it lists the others (default: last).
    """
    flags = flags or [*inspect.signature(make).parameters.values()]
    there, others = flags[:first], flags[len(flags) if first is None else first :]

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            parameters += others if parameter.name == before else []
            parameters += there if parameter.name == name else [parameter]
        parameters += [] if before else others

        def with_flags(**values: Any) -> R:
            made = make(**{flag.name: values.pop(flag.name, flag.default) for flag in flags})
            return command(**{name: made}, **values)

        return with_parameters(command, with_flags, parameters)

    return decorate


def takes_training_flags(
    before: str, without: Container[str] = (), **annotations: Any
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command the flags of ``TrainingFlags`` in place of its parameter ``flags``, which gets their values.

    Args:
        before: the parameter before which the help lists the flags that follow ``--student``.
        without: flags that the command lacks.
        annotations: by flag, what takes the place of its own annotation.
    """
    flags = [
        flag.replace(annotation=annotations.get(name, flag.annotation))
        for name, flag in inspect.signature(TrainingFlags).parameters.items()
        if name not in without
    ]
    first = sum(flag.name in ("teacher", "student") for flag in flags)
    return takes("flags", TrainingFlags, flags, first, before)


def print_table(title: str, columns: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table that says no more than the JSON, so that it is left out beside it."""
    if not console.json_mode:
        console.table(title, columns, rows)
