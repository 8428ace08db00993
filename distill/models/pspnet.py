"""PSPNet as in the CIRKD family of papers: pyramid pooling, then one 3x3 layer, on a dilated backbone.

Zhao et al., *Pyramid Scene Parsing Network*, CVPR 2017; sizes of winycg/CIRKD.
"""

from torch import Tensor, nn

from ._backbones import Backbone
from ._heads import PPM, Scorer

ALIASES = ("psp",)


class Head(nn.Module):
    """Pyramid pooling and a scorer (dropout 0.1): 512 channels on a backbone of 2048, else 128."""

    def __init__(self, backbone: Backbone, num_classes: int, output_stride: int, dropout: float | None) -> None:
        super().__init__()
        width = 512 if backbone.wide else 128
        self.ppm = PPM(backbone.channels[1])
        self.scorer = Scorer(2 * backbone.channels[1], width, num_classes, 0.1 if dropout is None else dropout)
        self.channels = {"dec": width, "dec_pre": width}

    def forward(self, bb: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits ``(B, K, h, w)`` and the features that ``channels`` names."""
        return self.scorer(self.ppm(bb))
