"""The command ``kdc probe``: the flags of ``kdc distill``, and how much is examined."""

from typing import Annotated

import typer

from .. import console
from ..settings.layers import resolve_flags
from .flags import At, ConfigFile, Json, Method, Preset, Sets, TrainingFlags, takes_training_flags


@takes_training_flags(before="sets")
def probe(
    flags: TrainingFlags,
    method: Method = None,
    preset: Preset = None,
    at: At = None,
    sets: Sets = None,
    config: ConfigFile = None,
    images: Annotated[int, typer.Option(min=1, help="Validation images that teacher and student are scored on.")] = 32,
    batches: Annotated[int, typer.Option(min=1, help="Training batches to run.")] = 4,
    json: Json = False,
) -> None:
    """Look before a long run, with the flags of distill: what the teacher knows, what each term does, what it costs."""
    console.json_mode = json
    from ..probe.probe import probe as measure

    settings = resolve_flags(flags.settings(), sets or [], config, preset, method, at)
    result = measure(settings, images=images, batches=batches)
    if json:
        console.emit(result.to_dict())
