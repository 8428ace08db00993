"""Flags that several commands of this room share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import console

ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Read settings from a YAML file.")]
Dry = Annotated[bool, typer.Option("--dry-run", help="Print the plan and a memory estimate; write nothing.")]
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="NAME|DIR", help="Data set or folder; the built-in generated scenes if not named."),
]
Split = Annotated[str | None, typer.Option(help="The split to validate on.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder; a new one below runs/ if not named.")]
Resume = Annotated[
    str | None, typer.Option(metavar="[RUN]", help="Go on with this run, or with the newest unfinished one.")
]
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
_KEYS = {
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


def flags_of(given: dict[str, Any]) -> dict[str, Any]:
    """Turn a command's arguments into dotted keys, without those that were not given."""
    from ..settings.config import parse_size

    flags = {_KEYS[name]: value for name, value in given.items() if name in _KEYS and value is not None}
    for key in ("train.crop", "data.size"):
        if key in flags:
            flags[key] = parse_size(flags[key])
    return flags


Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any configuration key, as in train.clip=1 or method.kt.T=2."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]
Classes = Annotated[int | None, typer.Option(help="Number of classes of a folder of masks.")]
Ignore = Annotated[int | None, typer.Option(help="Label value in the files that counts nowhere.")]


def _show(json: bool, result: dict[str, Any], title: str, columns: tuple[str, ...], rows: list[Any]) -> None:
    console.json_mode = json
    if json:
        console.emit(result)
    else:
        console.table(title, columns, rows)
