"""The output of a network: logits, auxiliary logits and named features."""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .errors import UsageError, closest


@dataclass(frozen=True)
class Tap:
    """Shape of a feature that methods may read: channels, and input pixels per position.

    ``signed`` tells that it has negative values: no ReLU stands before it.
    """

    channels: int
    stride: int
    signed: bool = False


@dataclass
class Output:
    """The result of a network: scores before upsampling and the features that distillation reads."""

    logits: Tensor
    aux: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)

    def tap(self, name: str) -> Tensor:
        """Return the tensor ``(B, C, h, w)`` of a tap.

        Raises:
            UsageError: the model has no such tap.
        """
        taps = {"logits": self.logits, **({} if self.aux is None else {"aux": self.aux}), **self.features}
        if name not in taps:
            raise UsageError(f"the model has no tap '{name}'; it has {', '.join(taps)}{closest(name, taps)}")
        return taps[name]

    def raised(self) -> "Output":
        """Return the same with bf16 and fp16 tensors as float32; float32 and float64 stay as they are."""
        aux = None if self.aux is None else _raise(self.aux)
        return Output(_raise(self.logits), aux, {name: _raise(x) for name, x in self.features.items()})

    def only(self, taps: Collection[str]) -> "Output":
        """Return the same with no features but ``taps``; the others need neither be cast nor kept."""
        return Output(self.logits, self.aux, {name: x for name, x in self.features.items() if name in taps})

    def detached(self) -> "Output":
        """Return the same, cut off from the graph."""
        aux = None if self.aux is None else self.aux.detach()
        return Output(self.logits.detach(), aux, {name: x.detach() for name, x in self.features.items()})


def _raise(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
