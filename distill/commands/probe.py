"""The command ``kdc probe``: the flags of ``kdc distill``, and what is looked at."""

from typing import Annotated

import typer

from .. import console
from ..settings.layers import resolve_flags
from .flags import (
    Arch,
    At,
    BatchSize,
    Classes,
    Compile,
    ConfigFile,
    Crop,
    Data,
    Device,
    Devices,
    Ignore,
    Init,
    Iters,
    Json,
    Lr,
    Method,
    Nodes,
    Precision,
    Preset,
    Seed,
    Sets,
    SizeOption,
    Split,
    Student,
    StudentWeights,
    Teacher,
    TeacherWeights,
    Workers,
    flags_of,
)


def probe(
    teacher: Teacher = None,
    student: Student = None,
    method: Method = None,
    preset: Preset = None,
    at: At = None,
    data: Data = None,
    classes: Classes = None,
    ignore_index: Ignore = None,
    split: Split = None,
    size: SizeOption = None,
    iters: Iters = None,
    batch: BatchSize = None,
    crop: Crop = None,
    lr: Lr = None,
    seed: Seed = None,
    arch: Arch = None,
    teacher_weights: TeacherWeights = None,
    student_weights: StudentWeights = None,
    init: Init = None,
    workers: Workers = None,
    device: Device = None,
    devices: Devices = None,
    nodes: Nodes = None,
    precision: Precision = None,
    compile: Compile = None,
    sets: Sets = None,
    config: ConfigFile = None,
    images: Annotated[int, typer.Option(min=1, help="Validation images that teacher and student are judged on.")] = 32,
    batches: Annotated[int, typer.Option(min=1, help="Training batches that are gone through.")] = 4,
    json: Json = False,
) -> None:
    """Look before a long run, with the flags of distill: what the teacher knows, what each term does, what it costs."""
    flags = flags_of(locals())
    console.json_mode = json
    from ..probe.probe import probe as measure

    result = measure(resolve_flags(flags, sets or [], config, preset, method, at), images=images, batches=batches)
    if json:
        console.emit(result.to_dict())
