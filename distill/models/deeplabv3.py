"""DeepLabV3 as in the CIRKD family of papers: ASPP, then one 3x3 layer, on a dilated backbone.

Chen et al., *Rethinking Atrous Convolution for Semantic Image Segmentation*, arXiv 1706.05587; sizes of winycg/CIRKD.
"""

from torch import Tensor, nn

from ._backbones import Backbone
from ._heads import ASPP, Scorer

ALIASES = ("deeplab", "dlv3")


class Head(nn.Module):
    """ASPP (dropout 0.5) and a scorer (dropout 0.1): 256 channels throughout on a backbone of 2048, else 128."""

    def __init__(self, backbone: Backbone, num_classes: int, output_stride: int, dropout: float | None) -> None:
        super().__init__()
        width = 256 if backbone.wide else 128
        # the rates of stride 8; the paper halves them where the map is half as large
        near, middle, far = (rate * 8 // output_stride for rate in (12, 24, 36))
        self.aspp = ASPP(backbone.channels[1], width, (near, middle, far), 0.5 if dropout is None else dropout)
        self.scorer = Scorer(width, width, num_classes, 0.1 if dropout is None else dropout)
        self.channels = {"dec": width, "dec_pre": width, "aspp_pre": width}

    def forward(self, bb: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits ``(B, K, h, w)`` and the features that ``channels`` names."""
        pre, x = self.aspp(bb)
        logits, features = self.scorer(x)
        return logits, {**features, "aspp_pre": pre}
