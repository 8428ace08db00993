"""The networks, one file per architecture: its name is the first half of a model's name, the backbone the second."""

from dataclasses import dataclass

import torch

from ..cost import params
from ..errors import UsageError
from ..network_spec import NetworkSpec
from ..output import Tap
from ..preprocess import Preprocess
from ._backbones import STAGES, widen_stem
from ._heads import Scorer
from ._model import NORMALISATION, SegmentationModel
from ._names import architectures, expand, find, names, stride_of
from ._weights import LoadReport, load_backbone, load_full

__all__ = [
    "NORMALISATION",
    "LoadReport",
    "SegmentationModel",
    "architectures",
    "build",
    "describe",
    "expand",
    "load_backbone",
    "load_full",
    "names",
    "rebuild",
    "stride_of",
]


def build(
    name: str,
    num_classes: int,
    *,
    output_stride: int | None = None,
    in_channels: int = 3,
    aux: bool = True,
    heads: str = "v1",
    dropout: float | None = None,
    preprocess: Preprocess | None = None,
    seed: int | None = None,
    align_corners: bool = True,
) -> SegmentationModel:
    """Build a model with random weights.

    Args:
        name: a name that ``expand`` knows.
        num_classes: 1 to 255; label 255 is the ignored one.
        output_stride: 8 or 16 input pixels per position of the last stage; None for the architecture's own.
        in_channels: 3, or 4 for a network that takes a hint beside the image; the other weights are the same.
        aux: with the auxiliary head, where the architecture has one (the MobileNetV2 networks have none).
        heads: "v1", the published sizes, or "v2", those of CIRKD's later code, where an architecture has them.
        dropout: one rate for every dropout; None for the papers' (0.5 after ASPP, 0.1 before each classifier).
        preprocess: the input normalisation; None for ImageNet's.
        align_corners: how the network's code enlarges maps; False of torchvision's and mmsegmentation's.
        seed: of the initial weights; None continues from torch's generator. Either way that generator stays untouched.

    Raises:
        UsageError: a value that is not accepted.
    """
    full = expand(name)
    head_class, kind = find(full)
    stride = stride_of(full, output_stride)
    if not 1 <= num_classes <= 255:
        raise UsageError(f"{full}: {num_classes} classes; accepted are 1 to 255")
    if stride not in (8, 16):
        raise UsageError(f"{full}: output stride {stride}; accepted are 8 and 16")
    if in_channels not in (3, 4):
        raise UsageError(f"{full}: {in_channels} input channels; accepted are 3 and 4")
    if heads not in head_class.versions:
        raise UsageError(f"{full}: heads {heads!r}; accepted are {', '.join(head_class.versions)}")
    if dropout is not None and not 0 <= dropout < 1:
        raise UsageError(f"{full}: dropout {dropout}; accepted are 0 up to, not including, 1, or none for the papers'")

    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too
        body = head_class.body(kind, stride)
        head = head_class(kind, num_classes, stride, dropout, heads)
        if in_channels == 4:
            with torch.random.fork_rng(devices=[]):  # apart: the auxiliary head is that of the 3-channel network
                widen_stem(body)
        # last, so that a network has the same weights with and without it
        aux_head, low = None, kind.channels[2]
        if aux and head_class.aux and not kind.mobile:
            aux_head = Scorer(low, low // 4, num_classes, 0.1 if dropout is None else dropout)

    signed = kind.mobile or head_class.signed
    stages = {STAGES[i]: Tap(kind.channels[i - 1], min(2 ** (i + 1), stride), signed) for i in head_class.read()}
    scores = {} if aux_head is None else {"aux": Tap(num_classes, stages["bb3"].stride, signed=True)}
    return SegmentationModel(
        full,
        body,
        head,
        aux_head,
        taps={"logits": head.taps["logits"], **scores, **stages, **head.taps},
        num_classes=num_classes,
        output_stride=stride,
        in_channels=in_channels,
        heads=heads,
        dropout=dropout,
        preprocess=preprocess,
        align_corners=align_corners,
    )


def rebuild(spec: NetworkSpec) -> SegmentationModel:
    """Build the module that ``SegmentationModel.spec`` describes, with random weights."""
    return build(**vars(spec))


@dataclass(frozen=True)
class ModelInfo:
    """The facts about a model; parameters are those with 19 classes."""

    name: str
    arch: str
    backbone: str
    stem: str
    output_stride: int
    params: int
    params_without_aux: int
    #: the timm tag of its ImageNet weights
    imagenet: str | None


def describe(name: str) -> ModelInfo:
    """Return the facts about a model."""
    full = expand(name)
    arch, backbone = full.split("-")
    kind = find(full)[1]
    with torch.device("meta"):
        total, without_aux = params(build(full, 19))
    return ModelInfo(full, arch, backbone, kind.stem, stride_of(full), total, without_aux, kind.imagenet)
