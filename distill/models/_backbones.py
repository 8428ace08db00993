"""The backbones, built by timm with the last two stages dilated (output stride 8 or 16), and the facts about each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn

DEEP = "deep stem: three 3x3 convolutions, 128 channels (the papers')"
PLAIN = "7x7 convolution, 64 channels (torchvision's)"

#: the taps of a backbone's stages
STAGES = {1: "low", 2: "bb2", 3: "bb3", 4: "bb"}


@dataclass(frozen=True)
class Backbone:
    """A backbone: timm's name for it, its stem, and the timm tag of its ImageNet weights where there are any."""

    timm: str
    stem: str
    imagenet: str | None
    channels: tuple[int, int, int, int]  # of stages 1 to 4
    mobile: bool = False  # a MobileNetV2: its stages end without a ReLU

    @property
    def wide(self) -> bool:
        """Whether it ends in 2048 channels: the published heads come in two widths."""
        return self.channels[-1] >= 2048


_BASIC, _BOTTLENECK = (64, 128, 256, 512), (256, 512, 1024, 2048)
_MOBILE = "3x3 convolution"
BACKBONES = {
    "r18": Backbone("resnet18", DEEP, None, _BASIC),
    "r34": Backbone("resnet34", DEEP, None, _BASIC),
    "r50": Backbone("resnet50s", DEEP, "resnet50s.gluon_in1k", _BOTTLENECK),
    "r101": Backbone("resnet101s", DEEP, "resnet101s.gluon_in1k", _BOTTLENECK),
    "r18v1b": Backbone("resnet18", PLAIN, "resnet18.tv_in1k", _BASIC),
    "r34v1b": Backbone("resnet34", PLAIN, "resnet34.tv_in1k", _BASIC),
    "r50v1b": Backbone("resnet50", PLAIN, "resnet50.tv_in1k", _BOTTLENECK),
    "r101v1b": Backbone("resnet101", PLAIN, "resnet101.tv_in1k", _BOTTLENECK),
    "mv2": Backbone("mobilenetv2_100", _MOBILE, "mobilenetv2_100.ra_in1k", (24, 32, 96, 320), mobile=True),
    "mv2_050": Backbone("mobilenetv2_050", _MOBILE, "mobilenetv2_050.lamb_in1k", (16, 16, 48, 160), mobile=True),
    "mv2_035": Backbone("mobilenetv2_035", _MOBILE, None, (8, 16, 32, 112), mobile=True),
}

#: Other spellings people use.
ALIASES = {f"resnet{n}": f"r{n}" for n in (18, 34, 50, 101)} | dict.fromkeys(
    ("mobilenetv2", "mobilenet_v2", "mobilenetv2_100", "mbv2"), "mv2"
)


def make(backbone: Backbone, output_stride: int, stages: Sequence[int] = (3, 4)) -> nn.Module:
    """Build a backbone with random weights: called with ``(B, 3, H, W)`` it gives a list, the output of each stage.

    timm's dilations are the papers' (no multi-grid; the first 3x3 of a dilated stage keeps the dilation of the stage
    before), and so is its initialisation: kaiming with fan out (of the group in a depthwise convolution), batch norm
    1 and 0.
    """
    options: dict[str, Any] = {}
    if backbone.stem is DEEP:
        options |= {"stem_type": "deep", "stem_width": 64}
    if not backbone.mobile:
        options |= {"zero_init_last": False}
    return timm.create_model(
        backbone.timm, features_only=True, out_indices=tuple(stages), output_stride=output_stride, **options
    )


def widen_stem(body: nn.Module) -> None:
    """Give the first convolution of a backbone a fourth input channel, drawn from 0.1 * N(0, 1).

    Source: label-assisted distillation (arXiv 2407.13254), train_baseline.py.
    """
    stem = next(module for module in body.modules() if isinstance(module, nn.Conv2d))
    fourth = 0.1 * torch.randn_like(stem.weight[:, :1])
    stem.weight = nn.Parameter(torch.cat([stem.weight.detach(), fourth], 1))
    stem.in_channels = 4
