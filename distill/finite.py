"""Numbers that went bad: looked for before weights are kept, and where they are read."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def first_bad(tensors: Mapping[str, Any]) -> str | None:
    """Return the name of the first tensor with NaN or infinity in it, None if there is none.

    The device is waited for once; values that are no tensors of numbers with a fraction are passed over.
    """
    floating = {
        name: value for name, value in tensors.items() if isinstance(value, Tensor) and value.is_floating_point()
    }
    if not floating:
        return None

    finite = torch.stack([value.detach().isfinite().all() for value in floating.values()]).tolist()
    return next((name for name, good in zip(floating, finite, strict=True) if not good), None)
