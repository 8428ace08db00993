"""DeepLabV3 as in the CIRKD family of papers: ASPP, then one 3x3 layer, on a dilated backbone.

Chen et al., *Rethinking Atrous Convolution for Semantic Image Segmentation*, arXiv 1706.05587; sizes of winycg/CIRKD.
"""

from torch import Tensor

from ..output import Tap
from ._architecture import Architecture
from ._backbones import Backbone
from ._heads import ASPP, Scorer, aspp_rates

ALIASES = ("deeplab", "dlv3")


class Head(Architecture):
    """ASPP (dropout 0.5) and a scorer (dropout 0.1): 256 channels throughout on a backbone of 2048, else 128.

    Version v2 has 512 channels on every ResNet, and still 128 on MobileNetV2.
    """

    versions = ("v1", "v2")

    def __init__(
        self, backbone: Backbone, num_classes: int, output_stride: int, dropout: float | None, version: str
    ) -> None:
        super().__init__(backbone, num_classes, output_stride, dropout, version)
        width = 512 if version == "v2" and not backbone.mobile else 256 if backbone.wide else 128
        self.aspp = ASPP(backbone.channels[-1], width, aspp_rates(output_stride), 0.5 if dropout is None else dropout)
        self.scorer = Scorer(width, width, num_classes, 0.1 if dropout is None else dropout)
        pre = Tap(width, output_stride, signed=True)
        logits = Tap(num_classes, output_stride, signed=True)
        self.taps = {"logits": logits, "dec": Tap(width, output_stride), "dec_pre": pre, "aspp_pre": pre}

    def forward(self, bb: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits ``(B, K, h, w)`` and the features that ``taps`` names."""
        pre, x = self.aspp(bb)
        logits, features = self.scorer(x)
        return logits, {**features, "aspp_pre": pre}
