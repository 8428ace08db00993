"""The networks of knowledge adaptation: the teacher's auto-encoder, the student's adapters (He et al., CVPR 2019)."""

import torch
from torch import Tensor, nn

from ._adapters import drawn


class AutoEncoder(nn.Module):
    """Translate the teacher's feature into a code and back; it trains in its own phase alone.

    encoder: three 3x3 convolutions with BN and ReLU, the first with ``stride``, all ``code`` wide.
    decoder: three transposed 3x3 convolutions, the first with ``stride``, BN and ReLU but after the last.

    It is made frozen, and `train` leaves it in eval mode until its parameters require grad.
    """

    def __init__(self, channels: int, code: int, stride: int, rng: torch.Generator) -> None:
        super().__init__()
        self.encoder = Adapter3x3(channels, code, 3, rng, stride)
        self.enlarge = drawn(nn.ConvTranspose2d, code, code, 3, rng, stride=stride, padding=1, bias=False)
        self.decoder = nn.Sequential(
            *_norm(code),
            drawn(nn.ConvTranspose2d, code, code, 3, rng, padding=1, bias=False),
            *_norm(code),
            drawn(nn.ConvTranspose2d, code, channels, 3, rng, padding=1),
        )
        self.shape = f"{channels} -> {code} -> {channels} (3x3, first stride {stride})"
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "AutoEncoder":
        """Set train mode; frozen, it stays in eval mode, so that the codes of an image stay the same."""
        return super().train(mode and all(p.requires_grad for p in self.parameters()))

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Return the code ``(B, code, h, w)`` of a feature ``(B, C, H, W)`` and its reconstruction ``(B, C, H, W)``."""
        code = self.encoder(feature)
        return code, self.decoder(self.enlarge(code, output_size=list(feature.shape[-2:])))


class Adapter3x3(nn.Sequential):
    """``depth`` 3x3 convolutions with BN and ReLU, ``c_out`` wide, the first with ``stride``."""

    def __init__(self, c_in: int, c_out: int, depth: int, rng: torch.Generator, stride: int = 1) -> None:
        layers: list[nn.Module] = []
        for i in range(depth):
            width, step = (c_out, 1) if i else (c_in, stride)
            layers += [drawn(nn.Conv2d, width, c_out, 3, rng, stride=step, padding=1, bias=False), *_norm(c_out)]
        super().__init__(*layers)
        self.shape = f"{c_in} -> {c_out} ({depth} x conv-bn-relu 3x3)"


class Conv3x3(nn.Sequential):
    """One 3x3 convolution with bias."""

    def __init__(self, c_in: int, c_out: int, rng: torch.Generator) -> None:
        super().__init__(drawn(nn.Conv2d, c_in, c_out, 3, rng, padding=1))
        self.shape = f"{c_in} -> {c_out} (conv 3x3)"


def _norm(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
