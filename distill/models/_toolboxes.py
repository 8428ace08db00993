"""Whose a checkpoint is, by its names: other toolboxes' networks, renamed where they are the same as kdc's.

Names read from winycg/CIRKD (KT, DIST and label-assisted share them), AmirMansurian/AICSD, torchvision and
mmsegmentation.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..preprocess import BGR_MEAN, IMAGENET, Preprocess

Rename = tuple[str, str]

_ASPP = "head.aspp."
_SCORER = "head.scorer."


@dataclass(frozen=True)
class Toolbox:
    """A kind of checkpoint: its name, the names that mark it, and what its network is here.

    Attributes:
        name: for people.
        marks: patterns, each of which must fit a name of the file.
        arch: of the same network here; None where there is none.
        renames: pattern and replacement, of which the first that fits is taken.
        unused: pattern of names that the network does not use.
        preprocess: how its code prepares images.
        align_corners: how its code enlarges logits.
    """

    name: str
    marks: tuple[str, ...]
    arch: str | None = None
    renames: tuple[Rename, ...] = ()
    unused: str = ""
    preprocess: Preprocess = IMAGENET
    align_corners: bool = False


_CIRKD: tuple[Rename, ...] = (
    (r"auxlayer\.block\.0\.", "aux_head.conv."),
    (r"auxlayer\.block\.1\.", "aux_head.norm."),
    (r"auxlayer\.block\.4\.", "aux_head.classifier."),
    (r"head\.block\.0\.", f"{_SCORER}conv."),
    (r"head\.block\.1\.", f"{_SCORER}norm."),
    (r"head\.(block\.4|classifier)\.", f"{_SCORER}classifier."),
    (r"pretrained\.", "backbone."),
)
_MMSEG: tuple[Rename, ...] = (
    (r"auxiliary_head\.convs\.0\.conv\.", "aux_head.conv."),
    (r"auxiliary_head\.convs\.0\.bn\.", "aux_head.norm."),
    (r"auxiliary_head\.conv_seg\.", "aux_head.classifier."),
    (r"decode_head\.bottleneck\.conv\.", f"{_SCORER}conv."),
    (r"decode_head\.bottleneck\.bn\.", f"{_SCORER}norm."),
    (r"decode_head\.conv_seg\.", f"{_SCORER}classifier."),
)
#: the first whose marks are all there is taken
TOOLBOXES = (
    Toolbox(
        "DeepLabV3 of CIRKD, KT or their kin",
        (r"head\.aspp\.b0\.0\.weight", r"pretrained\."),
        "deeplabv3",
        (
            (r"head\.aspp\.b0\.", f"{_ASPP}branches.0."),
            (r"head\.aspp\.b([123])\.block\.", rf"{_ASPP}branches.\1."),
            (r"head\.aspp\.b4\.gap\.", f"{_ASPP}image."),
            *_CIRKD,
        ),
        preprocess=BGR_MEAN,
        align_corners=True,
    ),
    Toolbox(
        "PSPNet of CIRKD, KT or their kin",
        (r"head\.psp\.conv1\.0\.weight", r"pretrained\."),
        "pspnet",
        (
            *(
                (rf"head\.psp\.conv{n}\.{i}\.", f"head.ppm.levels.{n - 1}.{i + 1}.")
                for n in (1, 2, 3, 4)
                for i in (0, 1)
            ),
            *_CIRKD,
        ),
        preprocess=BGR_MEAN,
        align_corners=True,
    ),
    Toolbox(
        "DeepLabV3+ of AICSD or its kin",
        (r"aspp\.aspp1\.atrous_conv\.weight", r"decoder\.last_conv\.0\.weight"),
        "deeplabv3plus",
        (
            *(
                (rf"aspp\.aspp{n}\.{name}\.", f"{_ASPP}branches.{n - 1}.{i}.")
                for n in (1, 2, 3, 4)
                for i, name in enumerate(("atrous_conv", "bn"))
            ),
            (r"aspp\.global_avg_pool\.", f"{_ASPP}image."),
            (r"aspp\.conv1\.", f"{_ASPP}project.0."),
            (r"aspp\.bn1\.", f"{_ASPP}project.1."),
            (r"decoder\.conv1\.", "head.low.0."),
            (r"decoder\.bn1\.", "head.low.1."),
            (r"decoder\.last_conv\.([01])\.", r"head.refine.\1."),
            (r"decoder\.last_conv\.4\.", f"{_SCORER}conv."),
            (r"decoder\.last_conv\.5\.", f"{_SCORER}norm."),
            (r"decoder\.last_conv\.8\.", f"{_SCORER}classifier."),
        ),
        unused=r"aspp\.conv2\.|decoder\.conv2\.|(backbone|aspp|decoder)\.cbam|backbone\.(low|high)_level_features\.",
        align_corners=True,
    ),
    Toolbox(
        "DeepLabV3 of torchvision",
        (
            r"classifier\.0\.convs\.0\.0\.weight",
            r"classifier\.0\.project\.0\.weight",
            r"backbone\.layer1\.0\.conv1\.weight",
        ),
        "deeplabv3",
        (
            (r"classifier\.0\.convs\.([0123])\.", rf"{_ASPP}branches.\1."),
            (r"classifier\.0\.convs\.4\.", f"{_ASPP}image."),
            (r"classifier\.0\.project\.", f"{_ASPP}project."),
            (r"classifier\.1\.", f"{_SCORER}conv."),
            (r"classifier\.2\.", f"{_SCORER}norm."),
            (r"classifier\.4\.", f"{_SCORER}classifier."),
            (r"aux_classifier\.0\.", "aux_head.conv."),
            (r"aux_classifier\.1\.", "aux_head.norm."),
            (r"aux_classifier\.4\.", "aux_head.classifier."),
        ),
    ),
    Toolbox("UPerNet of mmsegmentation", (r"decode_head\.fpn_convs\.",)),
    Toolbox(
        "a network of mmsegmentation on ResNetV1c, whose stem is 32, 32 and 64 wide",
        (r"decode_head\.conv_seg\.", r"backbone\.stem\."),
    ),
    Toolbox(
        "PSPNet of mmsegmentation",
        (
            r"decode_head\.psp_modules\.0\.1\.conv\.weight",
            r"decode_head\.conv_seg\.",
            r"backbone\.layer1\.0\.conv1\.weight",
        ),
        "pspnet",
        (
            *(
                (rf"decode_head\.psp_modules\.([0123])\.1\.{name}\.", rf"head.ppm.levels.\1.{i}.")
                for i, name in ((1, "conv"), (2, "bn"))
            ),
            *_MMSEG,
        ),
    ),
    Toolbox(
        "DeepLabV3 of mmsegmentation",
        (
            r"decode_head\.image_pool\.",
            r"decode_head\.aspp_modules\.0\.conv\.weight",
            r"decode_head\.aspp_modules\.1\.conv\.",
        ),
    ),
    Toolbox("DeepLabV3+ of mmsegmentation", (r"decode_head\.c1_bottleneck\.",)),
    Toolbox("SegFormer of mmsegmentation", (r"decode_head\.fusion_conv\.",)),
    Toolbox("a network of mmsegmentation", (r"decode_head\.conv_seg\.",)),
    Toolbox("SegFormer of transformers", (r"segformer\.encoder\.|encoder\.patch_embeddings\.",)),
    Toolbox("a network of transformers", (r"pixel_level_module\.|upernet|auxiliary_head\.classifier\.",)),
    Toolbox("EfficientViT-Seg", (r"backbone\.stages\.\d+\.op_list\.",)),
    Toolbox("ESPNet", (r"(encoder\.)?level1\.conv\.weight", r"(encoder\.)?level2_0\.")),
    Toolbox("a network of segmentation_models_pytorch", (r"segmentation_head\.0\.weight",)),
    Toolbox("DeepLabV3+ of VainF's DeepLabV3Plus-Pytorch", (r"classifier\.aspp\.convs\.",)),
    Toolbox("DeepLabV3 of torchvision on MobileNetV3", (r"classifier\.0\.convs\.0\.0\.weight",)),
    Toolbox("LR-ASPP of torchvision", (r"classifier\.low_classifier\.weight",)),
    Toolbox("FCN of torchvision", (r"classifier\.4\.weight", r"backbone\.layer1\.0\.conv1\.weight")),
    Toolbox("a YOLO of Ultralytics", (r"\d+\.(conv|cv1\.conv)\.weight", r"\d+\.m\.0\.cv1\.conv\.weight")),
    Toolbox("HRNet", (r"(backbone\.)?stage4\.0\.fuse_layers\.",)),
    Toolbox("a classifier of images on ResNet", (r"fc\.weight", r"layer1\.0\.conv1\.weight")),
    Toolbox(
        "a classifier of images on MobileNetV2", (r"classifier\.(1\.)?weight", r"(features\.0\.0|conv_stem)\.weight")
    ),
    Toolbox("a vision transformer", (r"(.*\.)?blocks\.0\.attn\.qkv\.weight",)),
)


def recognise(names: Iterable[str]) -> Toolbox | None:
    """Return whose checkpoint has these names, None where nobody's that is known."""
    every = list(names)
    for toolbox in TOOLBOXES:
        if all(any(re.match(mark, name) for name in every) for mark in toolbox.marks):
            return toolbox
    return None


def renamed(
    toolbox: Toolbox, tensors: Mapping[str, Tensor], mobile: Callable[[str], str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors under kdc's names, and the names of those that the network does not use.

    ``mobile`` renames MobileNetV2's blocks.
    """
    result, unused = {}, []
    for name, tensor in tensors.items():
        if toolbox.unused and re.match(toolbox.unused, name):
            unused.append(name)
            continue
        for pattern, replacement in toolbox.renames:
            new, count = re.subn(f"^{pattern}", replacement, name)
            if count:
                name = new
                break
        if name.startswith("backbone.features."):
            name = f"backbone.{mobile(name.removeprefix('backbone.'))}"
        result[name] = tensor
    return _deep_stem(result), unused


def _deep_stem(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn the stem's conv1, bn1, conv2, bn2, conv3, bn3 into a sequence and its last norm."""
    if "backbone.conv3.weight" not in tensors:
        return tensors
    places = {
        "conv1": "conv1.0",
        "bn1": "conv1.1",
        "conv2": "conv1.3",
        "bn2": "conv1.4",
        "conv3": "conv1.6",
        "bn3": "bn1",
    }
    pattern = re.compile(rf"^backbone\.({'|'.join(places)})\.(\w+)$")
    return {pattern.sub(lambda m: f"backbone.{places[m[1]]}.{m[2]}", name): x for name, x in tensors.items()}


def model_name(arch: str, tensors: Mapping[str, Tensor]) -> str | None:
    """Return kdc's name of the network that tensors under its names belong to, None where none has such a backbone."""
    if "backbone.conv_stem.weight" in tensors:
        return f"{arch}-mv2"
    depth = len({name.split(".")[2] for name in tensors if name.startswith("backbone.layer3.")})
    bottleneck = "backbone.layer1.0.conv3.weight" in tensors
    number = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101}.get((depth, bottleneck))
    plain = "backbone.conv1.weight" in tensors and arch != "deeplabv3plus"
    return f"{arch}-r{number}{'v1b' if plain else ''}" if number else None
