"""The networks, one file per architecture: its name is the first half of a model's name, the backbone the second."""

import importlib
import pkgutil
from types import ModuleType
from typing import Any

import torch

from ..cost import params
from ..errors import UsageError, closest
from ..preprocess import Preprocess
from ._backbones import ALIASES, BACKBONES, make
from ._heads import Scorer
from ._model import NORMALISATION, Output, SegmentationModel, Tap
from ._weights import LoadReport, load_backbone, load_full

__all__ = [
    "NORMALISATION",
    "LoadReport",
    "Output",
    "SegmentationModel",
    "Tap",
    "architectures",
    "build",
    "describe",
    "expand",
    "load_backbone",
    "load_full",
    "names",
    "rebuild",
]


def architectures() -> list[str]:
    """Return the names of the architectures: the files of this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def names() -> list[str]:
    """Return the names of all models, ``architecture-backbone``."""
    return [f"{arch}-{backbone}" for arch in architectures() for backbone in BACKBONES]


def expand(name: str, arch: str = "deeplabv3") -> str:
    """Return the full name of a model: ``r101`` and ``resnet101`` become ``deeplabv3-r101``.

    Raises:
        UsageError: there is no such model.
    """
    first, _, second = name.strip().lower().rpartition("-")
    if not first and _architecture(arch) not in architectures():
        raise UsageError(
            f"no architecture '{arch}'{closest(arch, architectures())}; there are: {', '.join(architectures())}"
        )
    full = f"{_architecture(first or arch)}-{ALIASES.get(second, second)}"
    accepted = names()
    if full not in accepted:
        backbones = [*BACKBONES, *ALIASES]
        near = closest(name, [*accepted, *backbones]) or closest(full, accepted)
        raise UsageError(
            f"no model '{name}'; a model is ARCHITECTURE-BACKBONE with {', '.join(architectures())} and "
            f"{', '.join(BACKBONES)}{near}"
        )
    return full


def build(
    name: str,
    num_classes: int,
    *,
    output_stride: int = 8,
    aux: bool = True,
    dropout: float | None = None,
    preprocess: Preprocess | None = None,
    seed: int | None = None,
) -> SegmentationModel:
    """Build a model with random weights.

    Args:
        name: a name that ``expand`` knows.
        num_classes: 1 to 255; label 255 is the ignored one.
        output_stride: 8 or 16 input pixels per position.
        aux: with the auxiliary head, where the architecture has one (the MobileNetV2 networks have none).
        dropout: one rate for every dropout; None for the papers' (0.5 after ASPP, 0.1 before each classifier).
        preprocess: the input normalisation; None for ImageNet's.
        seed: of the initial weights; None continues from torch's generator. Either way that generator stays untouched.

    Raises:
        UsageError: a value that is not accepted.
    """
    full = expand(name)
    if not 1 <= num_classes <= 255:
        raise UsageError(f"{full}: {num_classes} classes; accepted are 1 to 255")
    if output_stride not in (8, 16):
        raise UsageError(f"{full}: output stride {output_stride}; accepted are 8 and 16")
    if dropout is not None and not 0 <= dropout < 1:
        raise UsageError(f"{full}: dropout {dropout}; accepted are 0 up to, not including, 1, or none for the papers'")
    arch, backbone = full.split("-")
    kind = BACKBONES[backbone]
    low, high = kind.channels
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too
        body = make(backbone, output_stride)
        head = importlib.import_module(f".{arch}", __name__).Head(kind, num_classes, output_stride, dropout)
        # last, so that a network has the same weights with and without it
        fcn = Scorer(low, low // 4, num_classes, 0.1 if dropout is None else dropout) if aux and kind.aux else None
    return SegmentationModel(
        full,
        body,
        head,
        fcn,
        features={"bb3": low, "bb": high, **head.channels},
        num_classes=num_classes,
        output_stride=output_stride,
        dropout=dropout,
        preprocess=preprocess,
    )


def rebuild(spec: dict[str, Any]) -> SegmentationModel:
    """Build the module that ``SegmentationModel.spec`` describes, with random weights."""
    values = dict(spec)
    return build(
        values.pop("name"),
        values.pop("num_classes"),
        preprocess=Preprocess.from_dict(values.pop("preprocess")),
        **values,
    )


def describe(name: str) -> dict[str, Any]:
    """Return what ``kdc models ls`` shows of a model; parameters are those with 19 classes."""
    full = expand(name)
    arch, backbone = full.split("-")
    kind = BACKBONES[backbone]
    with torch.device("meta"):
        total, without_aux = params(build(full, 19))
    return {
        "name": full,
        "arch": arch,
        "backbone": backbone,
        "stem": kind.stem,
        "params": total,
        "params_without_aux": without_aux,
        "imagenet": kind.imagenet,
    }


def _architecture(name: str) -> str:
    """Resolve other spellings of an architecture; unknown names come back as they are."""
    name = name.replace("+", "plus")
    for arch in architectures():
        module: ModuleType = importlib.import_module(f".{arch}", __name__)
        if name in module.ALIASES:
            return arch
    return name
