"""What a network costs: parameters, and multiply-adds (MACs) of its products; FLOPs are 2 x MACs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .errors import UsageError

COUNTERS = ("true", "cirkd")


def params(model: nn.Module) -> tuple[int, int]:
    """Return the number of parameters with and without the auxiliary head; buffers are not counted."""
    total = sum(p.numel() for p in model.parameters())
    aux = getattr(model, "aux_head", None)
    return total, total - (sum(p.numel() for p in aux.parameters()) if aux is not None else 0)


def macs(model: nn.Module, size: tuple[int, int], *, aux: bool = True, counter: str = "true") -> int:
    """Return the multiply-adds of every convolution and matrix product for one image of ``size`` (height, width).

    Attention and linear layers are in it, pooling, resizing and element-wise work are not, as in torch's own counter.
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
    with _counted(model, aux=aux):
        if counter == "cirkd":
            return _cirkd_macs(model, size)
        with FlopCounterMode(display=False) as flops:
            _run(model, size)
        return flops.get_total_flops() // 2


def _cirkd_macs(model: nn.Module, size: tuple[int, int]) -> int:
    total = 0

    def count(conv: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(conv, nn.Conv2d)
        height, width = output.shape[2:]
        (kh, kw), (sh, sw) = conv.kernel_size, conv.stride
        if not isinstance(conv.padding, str):
            height = (inputs[0].shape[2] + 2 * conv.padding[0] - kh) // sh + 1
            width = (inputs[0].shape[3] + 2 * conv.padding[1] - kw) // sw + 1
        total += height * width * conv.out_channels * (conv.in_channels // conv.groups) * kh * kw

    hooks = [conv.register_forward_hook(count) for conv in model.modules() if isinstance(conv, nn.Conv2d)]
    try:
        _run(model, size)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def _run(model: nn.Module, size: tuple[int, int]) -> None:
    """Run a model on the shapes of one image."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: torch.empty_like(x, device="meta") for name, x in tensors.items()}
    channels = (3, 1) if getattr(model, "in_channels", 3) == 4 else (3,)
    dtype = next(model.parameters()).dtype
    inputs = tuple(torch.empty(1, n, *size, device="meta", dtype=dtype) for n in channels)
    with torch.no_grad():
        torch.func.functional_call(model, shapes, inputs)


@contextmanager
def _counted(model: nn.Module, *, aux: bool) -> Iterator[None]:
    """Put every module in evaluation mode for a while, and take the auxiliary head away where it is not counted."""
    modes = [(m, m.training) for m in model.modules()]
    head = getattr(model, "aux_head", None)
    model.eval()
    if not aux and head is not None:
        setattr(model, "aux_head", None)  # noqa: B010 - no module has to declare one
    try:
        yield
    finally:
        if head is not None:
            model.aux_head = head
        for module, training in modes:
            module.training = training
