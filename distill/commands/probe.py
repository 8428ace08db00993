"""The command ``kdc probe``: the flags of ``kdc distill``, and how much is examined."""

from typing import TYPE_CHECKING, Annotated

import typer

from ..settings.layers import resolve_flags
from .flags import At, ConfigFile, Method, Preset, Sets, TrainingFlags, takes_training_flags

if TYPE_CHECKING:
    from ..probe.records import Probe


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
) -> "Probe":
    """Look before a long run, with the flags of distill: what the teacher knows, what each term does, what it costs."""
    from ..probe.probe import probe as measure

    settings = resolve_flags(flags.settings(), sets or [], config, preset, method, at)
    return measure(settings, images=images, batches=batches)
