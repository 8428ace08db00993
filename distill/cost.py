"""What a network costs: parameters, and multiply-adds (MACs) of its convolutions; FLOPs are 2 x MACs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .errors import UsageError

COUNTERS = ("true", "cirkd")


def params(model: nn.Module) -> tuple[int, int]:
    """Return the number of parameters with and without the auxiliary head; buffers are not counted."""
    total = sum(p.numel() for p in model.parameters())
    aux = getattr(model, "aux_head", None)
    return total, total - (sum(p.numel() for p in aux.parameters()) if aux is not None else 0)


def macs(model: nn.Module, size: tuple[int, int], *, aux: bool = True, counter: str = "true") -> int:
    """Return the multiply-adds of every ``Conv2d`` for one image of ``size`` (height, width).

    Nothing is computed: the model runs on shapes alone, whatever its device, and is left as it was.

    Args:
        model: called with a float image ``(1, 3, H, W)``, and a hint where it has a fourth input channel.
        size: height and width of the input.
        aux: count the auxiliary head too, where the model has one.
        counter: "true", or "cirkd" for the numbers printed by the CIRKD family of papers, whose counter takes a
            dilated convolution's output to be as large as an undilated one's would be (winycg/CIRKD utils/flops.py);
            those papers count the auxiliary head.

    Raises:
        UsageError: another counter.
    """
    if counter not in COUNTERS:
        raise UsageError(f"no counter '{counter}'; accepted are {', '.join(COUNTERS)}")
    aux_head = getattr(model, "aux_head", None)
    skipped = set() if aux or aux_head is None else set(aux_head.modules())
    total = 0

    def count(conv: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(conv, nn.Conv2d)
        height, width = output.shape[2:]
        (kh, kw), (sh, sw) = conv.kernel_size, conv.stride
        if counter == "cirkd" and not isinstance(conv.padding, str):
            height = (inputs[0].shape[2] + 2 * conv.padding[0] - kh) // sh + 1
            width = (inputs[0].shape[3] + 2 * conv.padding[1] - kw) // sw + 1
        total += height * width * conv.out_channels * (conv.in_channels // conv.groups) * kh * kw

    # the counters hang on the convolutions while the model runs on the meta device
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m not in skipped]
    hooks = [conv.register_forward_hook(count) for conv in convs]
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: torch.empty_like(x, device="meta") for name, x in tensors.items()}

    try:
        with torch.no_grad(), _evaluating(model):
            channels = (3, 1) if getattr(model, "in_channels", 3) == 4 else (3,)
            dtype = next(model.parameters()).dtype
            inputs = tuple(torch.empty(1, n, *size, device="meta", dtype=dtype) for n in channels)
            torch.func.functional_call(model, shapes, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return total


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode for a while."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
