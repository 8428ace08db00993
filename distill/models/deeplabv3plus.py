"""DeepLabV3+ as the pixel-pair paper distils it: ASPP at stride 16, refined by stage 1 at stride 4.

Chen et al., *Encoder-Decoder with Atrous Separable Convolution*, ECCV 2018; sizes of AmirMansurian/AICSD, which
follows jfzhang95/pytorch-deeplab-xception.
"""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import repeat

import torch
from torch import Tensor, nn

from ..losses import upsample
from ..output import Tap
from ._architecture import Architecture
from ._backbones import BACKBONES, Backbone
from ._heads import ASPP, Scorer, aspp_rates, conv_norm

ALIASES = ("deeplabplus", "dlv3plus")

_RESNETS = ("r18", "r34", "r50", "r101")
_MOBILES = ("mv2", "mv2_050", "mv2_035")


class Head(Architecture):
    """ASPP of 256 channels (dropout 0.5), 48 channels of stage 1, two 3x3 layers of 256 (dropout 0.5 and 0.1).

    The ResNets have the 7x7 stem. Their stages end before the last ReLU, so the taps ``low``, ``bb3`` and ``bb`` hold
    negative values too; whoever reads them next applies it.
    """

    stages = (1, 4)
    stride = 16
    aux = False
    signed = True
    backbones = {name: BACKBONES[f"{name}v1b"] for name in _RESNETS} | {name: BACKBONES[name] for name in _MOBILES}

    def __init__(
        self, backbone: Backbone, num_classes: int, output_stride: int, dropout: float | None, version: str
    ) -> None:
        super().__init__(backbone, num_classes, output_stride, dropout, version)
        half, tenth = (0.5, 0.1) if dropout is None else (dropout, dropout)
        self.relu = nn.Identity() if backbone.mobile else nn.ReLU()  # not in place: the tensor before it is a tap
        self.aspp = ASPP(backbone.channels[-1], 256, aspp_rates(output_stride), half)
        self.low = nn.Sequential(*conv_norm(backbone.channels[0], 48), nn.ReLU(inplace=True))
        self.refine = nn.Sequential(*conv_norm(256 + 48, 256, 3), nn.ReLU(inplace=True), nn.Dropout(half))
        self.scorer = Scorer(256, 256, num_classes, tenth)
        for module in self.modules():  # published so, unlike the CIRKD family's heads
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        self.taps = {
            "logits": Tap(num_classes, 4, signed=True),
            "dec": Tap(256, 4),
            "dec_pre": Tap(256, 4, signed=True),
            "aspp_pre": Tap(256, output_stride, signed=True),
        }

    @classmethod
    def body(cls, backbone: Backbone, output_stride: int) -> nn.Module:
        """Build the backbone with the published dilations and ends of stages."""
        body = super().body(backbone, output_stride)
        if backbone.mobile:
            _pad_before_expansion(body)
        else:
            _dilate(body.get_submodule("layer3"), 16 // output_stride, repeat(1))
            _dilate(body.get_submodule("layer4"), 32 // output_stride, (1, 2, 4) if backbone.wide else repeat(1))
            _end_before_relu(body)
        return body

    def forward(self, low: Tensor, bb: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits ``(B, K, H / 4, W / 4)`` and the features that ``taps`` names."""
        pre, x = self.aspp(self.relu(bb))
        fine = self.low(self.relu(low))
        logits, features = self.scorer(self.refine(torch.cat([upsample(x, fine.shape[-2:]), fine], dim=1)))
        return logits, {**features, "aspp_pre": pre}


def _dilate(stage: nn.Module, dilation: int, grid: Iterable[int]) -> None:
    """Dilate all 3x3 convolutions of a ResNet's stage, timm's first one too, each block by its factor of ``grid``."""
    for block, factor in zip(stage.children(), grid, strict=False):
        for conv in block.modules():
            if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (dilation * factor,) * 2


def _end_before_relu(body: nn.Module) -> None:
    """Move the last ReLU of a ResNet's stages to the start of the next; the weights keep their names."""
    for i in (1, 2, 3, 4):
        stage = body.get_submodule(f"layer{i}")
        last = list(stage.children())[-1]
        setattr(last, "act3" if hasattr(last, "act3") else "act2", nn.Identity())
        if i > 1:
            parts = OrderedDict(relu=nn.ReLU(), **dict(stage.named_children()))
            body.add_module(f"layer{i}", nn.Sequential(parts))


def _pad_before_expansion(body: nn.Module) -> None:
    """Let MobileNetV2's blocks pad what they are given, not what they expand it to, with one dilation a stage.

    The border of the depthwise convolution is then what the 1x1 convolution's batch norm makes of zeros. That is how
    the published multiply-adds come to 27.07 G.
    """
    for stage in body.get_submodule("blocks").children():
        blocks = list(stage.children())
        dilation = _conv(blocks[0], "conv_dw").dilation
        for block in blocks:
            _conv(block, "conv_dw").dilation = dilation
            outer = "conv_pw" if hasattr(block, "conv_pwl") else "conv_dw"  # the first block expands nothing
            _conv(block, "conv_dw").padding = (0, 0)
            _conv(block, outer).padding = dilation


def _conv(block: nn.Module, name: str) -> nn.Conv2d:
    conv = block.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    return conv
