"""PSPNet as in the CIRKD family of papers: pyramid pooling, then one 3x3 layer, on a dilated backbone.

Zhao et al., *Pyramid Scene Parsing Network*, CVPR 2017; sizes of winycg/CIRKD.
"""

from torch import Tensor

from ..output import Tap
from ._architecture import Architecture
from ._backbones import Backbone
from ._heads import PPM, Scorer

ALIASES = ("psp",)


class Head(Architecture):
    """Pyramid pooling and a scorer (dropout 0.1): 512 channels on a backbone of 2048, else 128.

    Version v2 has 256 instead of 512, and still 128 on the others: there it is v1. No layer projects the pyramid by
    itself, so the tap ``aspp_pre`` is what comes next, the 3x3 layer's batch norm: the tensor ``dec_pre``.
    """

    versions = ("v1", "v2")

    def __init__(
        self, backbone: Backbone, num_classes: int, output_stride: int, dropout: float | None, version: str
    ) -> None:
        super().__init__(backbone, num_classes, output_stride, dropout, version)
        width = (256 if version == "v2" else 512) if backbone.wide else 128
        self.ppm = PPM(backbone.channels[-1])
        self.scorer = Scorer(2 * backbone.channels[-1], width, num_classes, 0.1 if dropout is None else dropout)
        pre = Tap(width, output_stride, signed=True)
        logits = Tap(num_classes, output_stride, signed=True)
        self.taps = {"logits": logits, "dec": Tap(width, output_stride), "dec_pre": pre, "aspp_pre": pre}

    def forward(self, bb: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits ``(B, K, h, w)`` and the features that ``taps`` names."""
        logits, features = self.scorer(self.ppm(bb))
        return logits, {**features, "aspp_pre": features["dec_pre"]}
