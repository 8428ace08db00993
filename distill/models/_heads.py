"""The pieces of the CIRKD-family heads: ASPP, pyramid pooling, and the scorer that ends every head.

DeepLabV3: Chen et al., arXiv 1706.05587. PSPNet: Zhao et al., CVPR 2017. Sizes as in winycg/CIRKD (CVPR 2022).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PooledBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that may meet a single value per channel: after pooling an image to 1x1, with a batch of one.

    One value has no variance: torch refuses it, and normalising by itself would give the bias whatever the image. The
    running statistics are the only estimate, so they are used, and one value does not update them.
    (torch's SyncBatchNorm, which takes this layer's place on several GPUs, sees the values of all of them.)
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(B, C, h, w)``."""
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


def conv_norm(cin: int, cout: int, kernel: int = 1, dilation: int = 1, pooled: bool = False) -> list[nn.Module]:
    """Return a convolution that keeps the size and its batch norm."""
    padding = dilation * (kernel - 1) // 2
    norm = PooledBatchNorm2d if pooled else nn.BatchNorm2d
    return [nn.Conv2d(cin, cout, kernel, padding=padding, dilation=dilation, bias=False), norm(cout)]


def aspp_rates(output_stride: int) -> tuple[int, int, int]:
    """Return the papers' dilations of ASPP's 3x3 branches: those of stride 8, halved where the map is half as large."""
    near, middle, far = (rate * 8 // output_stride for rate in (12, 24, 36))
    return near, middle, far


class Scorer(nn.Module):
    """3x3 convolution, batch norm, ReLU, dropout, 1x1 classifier; by itself it is the auxiliary FCN head."""

    def __init__(self, cin: int, width: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.conv, self.norm = conv_norm(cin, width, 3)
        self.relu = nn.ReLU()  # not in place: the tensor before it is a tap
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits ``(B, K, h, w)`` and the features before the ReLU and after the dropout."""
        pre = self.norm(self.conv(x))
        dec = self.dropout(self.relu(pre))
        return self.classifier(dec), {"dec_pre": pre, "dec": dec}


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1, three dilated 3x3 and a global branch, concatenated and projected."""

    def __init__(self, cin: int, width: int, rates: tuple[int, int, int], dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Sequential(*conv_norm(cin, width), nn.ReLU(inplace=True))])
        for rate in rates:
            self.branches.append(nn.Sequential(*conv_norm(cin, width, 3, rate), nn.ReLU(inplace=True)))
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_norm(cin, width, pooled=True), nn.ReLU(inplace=True))
        self.project = nn.Sequential(*conv_norm(5 * width, width))
        self.relu = nn.ReLU()  # not in place: the tensor before it is a tap
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the projection before its ReLU, and after ReLU and dropout: ``(B, width, h, w)`` each."""
        # enlarging one value bilinearly is repeating it
        image = self.image(x).expand(-1, -1, x.shape[2], x.shape[3])
        pre = self.project(torch.cat([*(branch(x) for branch in self.branches), image], dim=1))
        return pre, self.dropout(self.relu(pre))


class PPM(nn.Module):
    """Pyramid pooling: the input beside its averages over 1, 2, 3 and 6 bins a side, each ``cin / 4`` channels."""

    def __init__(self, cin: int, bins: tuple[int, ...] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.align_corners = True
        self.levels = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(n), *conv_norm(cin, cin // 4, pooled=True), nn.ReLU(inplace=True))
            for n in bins
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, 2 * cin, h, w)``."""
        size = x.shape[2:]
        corners = self.align_corners
        pooled = [F.interpolate(level(x), size, mode="bilinear", align_corners=corners) for level in self.levels]
        return torch.cat([x, *pooled], dim=1)
