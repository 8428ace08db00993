"""The base class of all architectures."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from ..output import Tap
from ._backbones import BACKBONES, Backbone, make


class Architecture(nn.Module):
    """From stages of a backbone to scores; a file's ``Head`` is a subclass that sets ``taps``."""

    #: the backbone's stages that ``forward`` takes, in order
    stages: ClassVar[tuple[int, ...]] = (4,)
    #: the output stride that it was published with
    stride: ClassVar[int] = 8
    #: whether the backbone's stages end before their last ReLU (a MobileNetV2's have none there at all)
    signed: ClassVar[bool] = False
    #: whether an auxiliary head on stage 3 belongs to it (the published MobileNetV2 networks have none)
    aux: ClassVar[bool] = True
    #: the sizes of the head: v1 is the published one, v2 that of winycg/CIRKD's later code (dab64db)
    versions: ClassVar[tuple[str, ...]] = ("v1",)
    #: the backbones by name
    backbones: ClassVar[Mapping[str, Backbone]] = BACKBONES
    #: channels and stride of the logits and of each feature that ``forward`` returns
    taps: dict[str, Tap]

    def __init__(
        self, backbone: Backbone, num_classes: int, output_stride: int, dropout: float | None, version: str
    ) -> None:
        """Build the head with random weights; ``dropout`` is one rate for every dropout, None for the papers'."""
        super().__init__()

    @classmethod
    def body(cls, backbone: Backbone, output_stride: int) -> nn.Module:
        """Build the backbone, which returns the stages that ``read`` names."""
        return make(backbone, output_stride, cls.read())

    @classmethod
    def read(cls) -> tuple[int, ...]:
        """Return the stages that are taken from the backbone: the head's, and those of the taps bb3 and bb."""
        return tuple(sorted({*cls.stages, 3, 4}))

    def forward(self, *stages: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits ``(B, K, h, w)`` and the features that ``taps`` names."""
        raise NotImplementedError
