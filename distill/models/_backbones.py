"""The backbones, built by timm with the last two stages dilated (output stride 8 or 16), and what is known of each."""

from dataclasses import dataclass
from typing import Any

import timm
from torch import nn

DEEP = "deep stem: three 3x3 convolutions, 128 channels (the papers')"
PLAIN = "7x7 convolution, 64 channels (torchvision's)"


@dataclass(frozen=True)
class Backbone:
    """How timm calls a backbone, its stem, and the timm tag of its ImageNet weights where there are any."""

    timm: str
    stem: str
    imagenet: str | None
    channels: tuple[int, int]  # of stages 3 and 4
    aux: bool = True  # the published MobileNetV2 networks have no auxiliary head

    @property
    def wide(self) -> bool:
        """Whether it ends in 2048 channels: the published heads come in two widths."""
        return self.channels[1] >= 2048


_BASIC, _BOTTLENECK = (256, 512), (1024, 2048)
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
    "mv2": Backbone("mobilenetv2_100", _MOBILE, "mobilenetv2_100.ra_in1k", (96, 320), aux=False),
    "mv2_050": Backbone("mobilenetv2_050", _MOBILE, "mobilenetv2_050.lamb_in1k", (48, 160), aux=False),
    "mv2_035": Backbone("mobilenetv2_035", _MOBILE, None, (32, 112), aux=False),
}

#: Other spellings people use.
ALIASES = {f"resnet{n}": f"r{n}" for n in (18, 34, 50, 101)} | dict.fromkeys(
    ("mobilenetv2", "mobilenet_v2", "mobilenetv2_100", "mbv2"), "mv2"
)


def make(name: str, output_stride: int) -> nn.Module:
    """Build a backbone with random weights: called with ``(B, 3, H, W)`` it gives ``[stage 3, stage 4]``.

    timm's dilations are the papers' (no multi-grid; the first 3x3 of a dilated stage keeps the dilation of the stage
    before), and so is its initialisation: kaiming with fan out (of the group in a depthwise convolution), batch norm
    1 and 0.
    """
    backbone = BACKBONES[name]
    options: dict[str, Any] = {}
    if backbone.stem is DEEP:
        options |= {"stem_type": "deep", "stem_width": 64}
    if backbone.aux:  # the ResNets
        options |= {"zero_init_last": False}
    return timm.create_model(
        backbone.timm, features_only=True, out_indices=(3, 4), output_stride=output_stride, **options
    )
