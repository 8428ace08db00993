"""Quantisation-aware training: convolutions round their input and weights as the quantised file will.

Gradients pass through the rounding where the value is within its range (the straight-through estimator, Bengio et
al., arXiv:1308.3432). Ranges of activations are calibrated once and stay, as Wu et al. advise (arXiv:2004.09602,
section 5.2); those of weights follow the weights. Nothing is added to the state: plain weights are trained.
What is concatenated is rounded once, behind the concatenation, as in the file, where all of it has one scale.
A file for ONNX Runtime or TensorRT also rounds residual sums and poolings; that is not modelled.
"""

import torch
from torch import Tensor, nn

from ..errors import WeightsError, closest
from ..settings.config import Quantise

#: the largest number of each grid, in steps (u8: in all)
TOP = {"s8": 127.0, "u8": 255.0, "e4m3": 448.0}
#: the largest weight on ONNX Runtime's grid of 7 bits, which CPUs without VNNI need
NARROW = 64.0
#: below it a step is no normal number
_LEAST = 2.0**-60


class QuantisedConv2d(nn.Conv2d):
    """A convolution whose input and weights are rounded to 8 bits; its parameters are those of a plain one."""

    def __init__(self, conv: nn.Conv2d, grid: str, low: float, high: float, top: float) -> None:
        """Take over a convolution's parameters.

        Args:
            conv: the plain convolution.
            grid: a key of ``TOP``.
            low: the smallest input.
            high: the largest input.
            top: the largest weight, in steps.
        """
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # pyright: ignore[reportArgumentType]
            conv.stride,  # pyright: ignore[reportArgumentType]
            conv.padding,  # pyright: ignore[reportArgumentType]
            conv.dilation,  # pyright: ignore[reportArgumentType]
            conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,  # pyright: ignore[reportArgumentType]
            device="meta",  # nothing is allocated or drawn
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.train(conv.training)
        self.grid, self.low, self.high, self.top = grid, low, high, top

    def forward(self, input: Tensor) -> Tensor:
        """Convolve the rounded ``input`` ``(B, C, H, W)`` with the rounded weights."""
        rounded, weight = self.rounded_input(input), self.rounded_weight()
        bias = None if self.bias is None else self.bias.float()
        with torch.autocast(input.device.type, enabled=False):  # it would round the levels again
            return self._conv_forward(rounded, weight, bias)

    def rounded_input(self, x: Tensor) -> Tensor:
        """Round activations with one scale, asymmetric on ``u8`` and symmetric elsewhere."""
        x = x.float()  # they are half under autocast, while the file rounds sums in float32
        if self.grid == "u8":
            step = max((self.high - self.low) / TOP["u8"], _LEAST)
            return torch.fake_quantize_per_tensor_affine(x, step, round(-self.low / step), 0, 255)
        step = max(-self.low, self.high, _LEAST) / TOP[self.grid]
        if self.grid == "s8":
            return torch.fake_quantize_per_tensor_affine(x, step, 0, -128, 127)  # as QuantizeLinear
        return _eighth(x, x.new_tensor(step))

    def rounded_weight(self) -> Tensor:
        """Round the weights with a scale for every output channel.

        The file holds them multiplied by the batch norm behind, channel by channel: scales are multiplied alike, so
        that the same numbers come out.
        """
        weight = self.weight.float()
        with torch.no_grad():
            steps = weight.abs().amax((1, 2, 3)).clamp_min(_LEAST) / self.top
        if self.grid == "e4m3":
            return _eighth(weight, steps.view(-1, 1, 1, 1))
        top = int(self.top)
        zeros = torch.zeros_like(steps, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, steps, zeros, 0, -top, top)


def _eighth(x: Tensor, step: Tensor) -> Tensor:
    with torch.no_grad():
        top = TOP["e4m3"]
        levels = (x / step).clamp(-top, top)
        rounded = levels.to(torch.float8_e4m3fn).to(x.dtype) * step
        inside = (x / step).abs() <= top * (1 + 2**-20)  # the largest weight is its own step's end, up to rounding
    return torch.where(inside, x + (rounded - x).detach(), rounded)


def fake_quantise(model: nn.Module, settings: Quantise) -> None:
    """Replace the convolutions that ``settings`` names by rounding ones; parameters and keys of the state stay.

    Raises:
        WeightsError: a layer does not exist, or is no plain convolution.
    """
    top = TOP["e4m3"] if settings.grid == "e4m3" else NARROW if settings.narrow else TOP["s8"]
    modules = dict(model.named_modules())
    for name, low, high in settings.layers:
        module = modules.get(name)
        if type(module) is not nn.Conv2d:
            raise WeightsError(
                f"quantise.layers: {name} is no convolution of the student{closest(name, list(modules))}; the ranges "
                "were calibrated on another network, calibrate them again: kdc calib RUN --qat"
            )
        model.set_submodule(name, QuantisedConv2d(module, settings.grid, min(low, 0.0), max(high, 0.0), top))
