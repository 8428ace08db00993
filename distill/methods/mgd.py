"""Masked generative distillation (Yang et al., ECCV 2022; yzd-v/MGD seg/mmseg/distillation/losses/mgd.py)."""

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..batch import Batch
from ..errors import UsageError
from . import Method, Sizes
from ._adapters import conv1x1
from ._autoencoder import Conv3x3

if TYPE_CHECKING:
    from ..output import Output

#: positions of the map that costs are printed for: 1/8 of 512x1024
_POSITIONS = 64 * 128


class Mgd(Method):
    """Masked generation: from a quarter of the student's positions a small network makes the teacher's feature.

    mgd = 1 / B * || g(m * x) - f_t ||^2,  x = align(f_s), summed over C, H and W, on the tap `at`.
    m drops each position with probability mask, for all channels alike and without rescaling; g is Conv3x3, ReLU,
    Conv3x3 of the teacher's width; align is a 1x1 convolution with bias where the channels differ. Both train with the
    student. On bb, 2048 wide, the generator costs more than the teacher: at=dec is the cheap tap. The published runs
    add a channel-wise term on the logits: ``--preset mgd``.
    """

    taps = ("bb",)
    weights: ClassVar[dict[str, float]] = {"mgd": 2e-5}
    paper = "Yang et al., Masked Generative Distillation (ECCV 2022)"
    differences = (
        "The published segmentation results need a term that the paper does not name, channel-wise distillation of "
        "the logits with T=4 and weight 3: --preset mgd adds it as cwd.",
        "Mask and weight are those of the segmentation code; detection publishes mask=0.65, and classification masks "
        "channels (0.15, weight 7e-5), which is not offered.",
        "The published sum over channels and positions makes the weight depend on the feature's size.",
    )

    def __init__(
        self, sizes: Sizes, *, terms: Collection[str] | None = None, at: str = "bb", mask: float = 0.75
    ) -> None:
        super().__init__(sizes, terms=terms)
        self.need(at)
        if not 0 <= mask < 1:
            raise UsageError(f"mgd.mask={mask}: the share of positions to drop is at least 0 and below 1")
        self.mask = mask
        c_s, c_t = sizes.student[at].channels, sizes.teacher[at].channels
        self.align = conv1x1(c_s, c_t, self.rng("align")) if c_s != c_t else None
        self.generator = Generator(c_t, self.rng("generator"))

    def notes(self) -> list[str]:
        (tap,) = self.taps
        width = self.sizes.teacher[tap].channels
        macs = 18 * width**2 * _POSITIONS / 1e9
        parameters = sum(p.numel() for p in self.generator.parameters())
        cheap = "" if tap == "dec" else "; at=dec is the cheap tap"
        return [
            f"the generator on {tap} costs {parameters:,} parameters and {macs:.3g} GMACs an image at 64x128{cheap}"
        ]

    def compared(self, student: "Output", teacher: "Output") -> tuple[Tensor, Tensor]:
        s, t = self.pair(student, teacher, self.taps[0])
        return (self.align(s) if self.align else s), t

    def losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        x, t = self.compared(student, teacher)
        keep = self.drawn(batch, x) <= 1 - self.mask
        return {"mgd": F.mse_loss(self.generator(x * keep), t, reduction="sum") / len(t)}

    def drawn(self, batch: Batch, x: Tensor) -> Tensor:
        """Draw a number in [0, 1) for every position of ``x``: ``(B, 1, H, W)``."""
        u = torch.rand(len(x), 1, *x.shape[-2:], generator=self.draw("mask", batch))
        return u.to(x.device, non_blocking=True)


class Generator(nn.Sequential):
    """Two 3x3 convolutions of one width with ReLU between, biases, default initialisation drawn from ``rng``."""

    def __init__(self, channels: int, rng: torch.Generator) -> None:
        super().__init__(Conv3x3(channels, channels, rng), nn.ReLU(inplace=True), Conv3x3(channels, channels, rng))
        self.shape = f"{channels} -> {channels} -> {channels} (3x3)"
