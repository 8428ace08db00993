"""Files of weights, read without running anything that is in them."""

import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightsError, reading
from ..lfs import pointer_at

#: Wrappers that training programs leave before the names.
PREFIXES = ("module.", "model.", "student.", "_orig_mod.", "_forward_module.")
#: Where files that hold more than weights keep the weights.
CONTAINERS = (
    "state_dict", "model_state_dict", "model", "student", "net", "network", "weights", "model_state", "state_dict_ema",
    "model_ema", "ema", "teacher", "module",
)  # fmt: skip


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], str]:
    """Read a ``.safetensors`` file, or a ``.pth`` in torch's format without running anything that is in it.

    Returns:
        The tensors by name, and a note where the file holds several sets of them.

    Raises:
        WeightsError: no such file, not readable in these formats, no tensors, or numbers that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; accepted is a weights file")
    if lfs := pointer_at(path):
        raise WeightsError(f"{path.name} {lfs}")
    from safetensors.torch import load_file

    cure = "accepted are .safetensors and .pth files that hold tensors only: save the state dict alone"
    with reading(path.name, WeightsError, cure):
        try:
            content = load_file(path) if path.suffix == ".safetensors" else _loaded(path)
        except pickle.UnpicklingError as error:
            raise WeightsError(f"{path.name} cannot be read as weights {_refusal(str(error))}") from error
        tensors, note = _unwrap(content)

    if not tensors:
        raise WeightsError(f"{path.name} holds no tensors; accepted is a state dict, bare or under 'state_dict'")
    for name, x in tensors.items():
        if odd := _oddity(x):
            raise WeightsError(
                f"{path.name} holds {name}, which is {odd}; accepted are plain tensors with their values"
            )
    bad = [name for name, x in tensors.items() if x.is_floating_point() and not torch.isfinite(x).all()]
    if bad:
        raise WeightsError(f"{path.name} holds NaN or infinite numbers in {some(bad)}; take another checkpoint")
    return tensors, note


def _loaded(path: Path) -> Any:
    with warnings.catch_warnings(action="ignore"):  # of formats that are refused next
        return torch.load(path, map_location="cpu", weights_only=True)


def _oddity(x: Tensor) -> str:
    """Say what a tensor is that a network's weights are not; empty for a plain one."""
    if x.is_meta:
        return "on the meta device, without values"
    if x.layout != torch.strided or x.is_nested:
        return f"sparse or of another layout ({x.layout})"
    if x.is_quantized:
        return f"quantised ({x.dtype})"
    if x.numel() * x.element_size() > x.untyped_storage().nbytes():  # a view that repeats its values
        return f"of {x.numel()} elements, more than the file holds"
    return ""


def _refusal(message: str) -> str:
    """Say what torch's safe loading refused, without its advice to load unsafely."""
    found = re.search(r"GLOBAL ([\w.]+)", message)
    if not found:
        return (
            "(no file of torch's, or one that is cut off); accepted are .safetensors and .pth files that hold tensors"
        )
    return (
        f"(it holds {found[1]}, a Python object that could run code when it is opened); where you trust the file, save "
        "the weights alone: torch.save(model.state_dict(), 'weights.pth')"
    )


def _unwrap(content: Any) -> tuple[dict[str, Tensor], str]:
    """Return the tensors in a file, and a note where it holds several sets of them."""
    if not isinstance(content, Mapping):
        return {}, ""
    inside = [key for key in CONTAINERS if isinstance(content.get(key), Mapping) and content[key]]
    if inside:
        tensors, note = _unwrap(content[inside[0]])
        return tensors, joined(f"{inside[0]} was taken, not {', '.join(inside[1:])}" if inside[1:] else "", note)
    return {key: x for key, x in content.items() if isinstance(key, str) and isinstance(x, Tensor)}, ""


def strip(tensors: dict[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Remove any number of prefixes from the front of every name."""
    pattern = re.compile(f"^({'|'.join(map(re.escape, prefixes))})+")
    return {pattern.sub("", key): x for key, x in tensors.items()}


def joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def some(names: Iterable[str], limit: int = 3) -> str:
    """Return the first names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more
