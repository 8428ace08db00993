"""What a training step works on."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: The label of pixels that count nowhere, whatever the files say.
IGNORE = 255


@dataclass
class Batch:
    """One micro-batch on its device."""

    #: uint8 ``(B, 3, H, W)``, RGB
    images: Tensor
    #: int64 ``(B, H, W)``; ``IGNORE`` marks pixels that count nowhere
    labels: Tensor
    #: optimiser steps taken before this one, from 0
    step: int = 0
    #: which part of the step's images this is, counted over micro-batches and ranks
    part: int = 0


#: gives the generator of a random draw for a batch, by the name of the draw
Draw = Callable[[str, Batch], torch.Generator]
