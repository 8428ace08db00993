"""Small networks that methods put between student and teacher, drawn from generators of their own."""

import math
from typing import Any, TypeVar, cast

import torch
from torch import nn

from ..output import Tap

Conv = TypeVar("Conv", nn.Conv2d, nn.ConvTranspose2d)


def drawn(kind: type[Conv], c_in: int, c_out: int, kernel: int, rng: torch.Generator, **settings: Any) -> Conv:
    """Make a convolution with PyTorch's default initialisation drawn from ``rng``; the global generator rests."""
    conv = cast(Conv, nn.utils.skip_init(kind, c_in, c_out, kernel, **settings))
    bound = 1 / math.sqrt(conv.weight[0].numel())
    for parameter in conv.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=rng)
    return conv


def conv1x1(c_in: int, c_out: int, rng: torch.Generator, bias: bool = True) -> nn.Conv2d:
    """Make a 1x1 convolution drawn from ``rng``."""
    return drawn(nn.Conv2d, c_in, c_out, 1, rng, bias=bias)


#: a difference of the methods that end an adapter in a ReLU
UNREACHED = (
    "Where the teacher's feature has negative values (a MobileNetV2's backbone, deeplabv3plus before its ReLU, any tap "
    "before one), kdc's adapter ends without the ReLU, which could not reach them; it is said at the start."
)


class Adapter(nn.Sequential):
    """Bring the student's channels to those of the teacher's feature; dropped on export.

    A ReLU at its end could not reach negative values: there is none where the teacher's feature has such.
    """

    KINDS = ("conv", "conv-bn-relu")

    def __init__(self, student: Tap, teacher: Tap, rng: torch.Generator, kind: str = "conv-bn-relu") -> None:
        c_in, c_out = student.channels, teacher.channels
        layers: list[nn.Module] = [conv1x1(c_in, c_out, rng, bias=False)]
        if kind == "conv-bn-relu":
            layers += [nn.BatchNorm2d(c_out)] if teacher.signed else [nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]
            kind = "conv-bn, no ReLU: the teacher's feature has negative values," if teacher.signed else kind
        super().__init__(*layers)
        self.shape = f"{c_in} -> {c_out} ({kind} 1x1)"


class Tailor(nn.Sequential):
    """KT's tailor: three 1x1 convolutions with biases, half as wide inside, ReLU between."""

    def __init__(self, channels: int, rng: torch.Generator) -> None:
        half = max(channels // 2, 1)
        super().__init__(
            conv1x1(channels, half, rng),
            nn.ReLU(inplace=True),
            conv1x1(half, half, rng),
            nn.ReLU(inplace=True),
            conv1x1(half, channels, rng),
        )
        self.shape = f"{channels} -> {half} -> {half} -> {channels} (1x1)"
