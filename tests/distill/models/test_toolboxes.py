"""Checkpoints of other toolboxes: the same network under their names, and networks that are not the same."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision

from kdc.distill import models
from kdc.distill.errors import WeightsError
from kdc.distill.evaluation.evaluate import model_predictor
from kdc.distill.models import SegmentationModel, _weights
from kdc.distill.network_spec import NetworkSpec
from kdc.distill.preprocess import BGR_MEAN, IMAGENET

Tensors = dict[str, torch.Tensor]
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def written(model: SegmentationModel, path: Path, pairs: list[tuple[str, str]], extra: Tensors | None = None) -> Path:
    """Write a model's tensors under other names: of each the first pair, (kdc's beginning, theirs)."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name not in models.NORMALISATION:
            theirs = next((their + name.removeprefix(own) for own, their in pairs if name.startswith(own)), None)
            assert theirs is not None, name
            tensors[theirs] = tensor
    torch.save({"state_dict": {f"module.{name}": x for name, x in (tensors | (extra or {})).items()}}, path)
    return path


STEM = [
    (f"backbone.{own}.", f"pretrained.{their}.")
    for own, their in (
        ("conv1.0", "conv1"),
        ("conv1.1", "bn1"),
        ("conv1.3", "conv2"),
        ("conv1.4", "bn2"),
        ("conv1.6", "conv3"),
        ("bn1", "bn3"),
    )
]
CIRKD = [
    *STEM,
    ("backbone.", "pretrained."),
    *((f"head.aspp.branches.{n}.", f"head.aspp.b{n}.{'block.' if n else ''}") for n in range(4)),
    ("head.aspp.image.", "head.aspp.b4.gap."),
    ("head.aspp.project.", "head.aspp.project."),
    ("head.scorer.conv.", "head.block.0."),
    ("head.scorer.norm.", "head.block.1."),
    ("head.scorer.classifier.", "head.block.4."),
    ("aux_head.conv.", "auxlayer.block.0."),
    ("aux_head.norm.", "auxlayer.block.1."),
    ("aux_head.classifier.", "auxlayer.block.4."),
]
PYRAMID = [(f"head.ppm.levels.{n - 1}.{i + 1}.", f"head.psp.conv{n}.{i}.") for n in (1, 2, 3, 4) for i in (0, 1)]
AICSD = [
    ("backbone.", "backbone."),
    *(
        (f"head.aspp.branches.{n}.{i}.", f"aspp.aspp{n + 1}.{part}.")
        for n in range(4)
        for i, part in enumerate(("atrous_conv", "bn"))
    ),
    ("head.aspp.image.", "aspp.global_avg_pool."),
    ("head.aspp.project.0.", "aspp.conv1."),
    ("head.aspp.project.1.", "aspp.bn1."),
    ("head.low.0.", "decoder.conv1."),
    ("head.low.1.", "decoder.bn1."),
    ("head.refine.", "decoder.last_conv."),
    ("head.scorer.conv.", "decoder.last_conv.4."),
    ("head.scorer.norm.", "decoder.last_conv.5."),
    ("head.scorer.classifier.", "decoder.last_conv.8."),
]
MMSEG = [
    ("backbone.", "backbone."),
    *(
        (f"head.ppm.levels.{n}.{i}.", f"decode_head.psp_modules.{n}.1.{part}.")
        for n in range(4)
        for i, part in ((1, "conv"), (2, "bn"))
    ),
    ("head.scorer.conv.", "decode_head.bottleneck.conv."),
    ("head.scorer.norm.", "decode_head.bottleneck.bn."),
    ("head.scorer.classifier.", "decode_head.conv_seg."),
    ("aux_head.conv.", "auxiliary_head.convs.0.conv."),
    ("aux_head.norm.", "auxiliary_head.convs.0.bn."),
    ("aux_head.classifier.", "auxiliary_head.conv_seg."),
]


def mobile() -> list[tuple[str, str]]:
    """Pair timm's names of MobileNetV2 with torchvision's, which come in the same order."""
    ours = [name for name in models.build("deeplabv3-mv2", 5).state_dict() if name.startswith("backbone.")]
    theirs = torchvision.models.mobilenet_v2(weights=None).features.state_dict()
    return [(own, f"pretrained.features.{their}") for own, their in zip(ours, theirs, strict=False)]


@pytest.mark.parametrize(
    ("name", "pairs", "extra", "preprocess"),
    [
        ("deeplabv3-r18", lambda: CIRKD, {}, BGR_MEAN),
        ("deeplabv3-mv2", lambda: [*mobile(), *CIRKD[len(STEM) + 1 :]], {}, BGR_MEAN),
        ("pspnet-r18", lambda: [*PYRAMID, *CIRKD], {}, BGR_MEAN),
        (
            "deeplabv3plus-r18",
            lambda: AICSD,
            {"aspp.conv2.bias": torch.ones(5), "backbone.cbam.x": torch.ones(1)},
            IMAGENET,
        ),
    ],
)
def test_the_same_network_under_other_names(
    tmp_path: Path, name: str, pairs: Callable, extra: Tensors, preprocess: object
) -> None:
    source = models.build(name, 5, seed=1)
    file = written(source, tmp_path / "theirs.pth", pairs(), extra)
    model = models.build(name, 5, seed=2)
    report = models.load_full(model, file)
    assert report.complete() and report.fitted == report.total
    for key, tensor in source.state_dict().items():
        assert key in models.NORMALISATION or torch.equal(model.state_dict()[key], tensor), key
    assert model.preprocess == preprocess and model.align_corners and "renamed" in report.note
    assert ("left out" in report.note) == bool(extra)

    # the backbone alone
    start = models.build(name, 5, seed=3)
    models.load_backbone(start, file)
    assert torch.equal(next(iter(start.backbone.parameters())), next(iter(source.backbone.parameters())))


def test_torchvisions_deeplabv3_gives_the_same_scores_and_masks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    build = torchvision.models.segmentation.deeplabv3_resnet50
    theirs = build(weights=None, weights_backbone=None, num_classes=5, aux_loss=True).eval()
    for module in theirs.modules():  # so that the scores answer to the image
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.uniform_(-0.2, 0.2)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    model = models.build("deeplabv3-r50v1b", 5, seed=0).eval()
    report = models.load_full(model, tmp_path / "theirs.pth")
    assert report.complete(ignore_aux=False) and not model.align_corners

    x = torch.from_numpy(IMAGENET.apply(PIXELS[None]))
    with torch.no_grad():
        expected, output = theirs(x), model(torch.from_numpy(PIXELS).permute(2, 0, 1)[None])
        scores = theirs.classifier(theirs.backbone(x)["out"])
    torch.testing.assert_close(output.logits, scores, rtol=1e-4, atol=1e-5)
    assert expected["out"].std() > 0
    mask = expected["out"].argmax(1)[0].numpy()
    assert (model_predictor(model)(PIXELS) == mask).mean() > 0.999
    assert models.rebuild(model.spec()).align_corners is False


def test_mmsegmentations_pspnet_keeps_its_corners(tmp_path: Path) -> None:
    source = models.build("pspnet-r18v1b", 5, seed=1)
    model = models.build("pspnet-r18v1b", 5, seed=2).eval()
    models.load_full(model, written(source, tmp_path / "theirs.pth", MMSEG))
    assert model.preprocess == IMAGENET and not model.align_corners

    with torch.no_grad():
        output = model(torch.from_numpy(PIXELS).permute(2, 0, 1)[None])
        bb = output.tap("bb")
        levels = model.head.get_submodule("ppm.levels").children()
        pooled = [F.interpolate(level(bb), bb.shape[2:], mode="bilinear", align_corners=False) for level in levels]
        expected = model.head.get_submodule("scorer")(torch.cat([bb, *pooled], 1))[0]
    torch.testing.assert_close(output.logits, expected)
    spec = NetworkSpec.from_dict(model.spec().to_dict())
    assert models.rebuild(spec).head.get_submodule("ppm").align_corners is False


def names(*keys: str) -> Tensors:
    return {key: torch.ones(1) for key in keys}


@pytest.mark.parametrize(
    ("tensors", "whose"),
    [
        (names("backbone.stem.0.weight", "decode_head.conv_seg.weight"), "ResNetV1c"),
        (
            names(
                "backbone.conv1.weight",
                "decode_head.image_pool.1.conv.weight",
                "decode_head.conv_seg.weight",
                "decode_head.aspp_modules.0.conv.weight",
                "decode_head.aspp_modules.1.conv.weight",
            ),
            "DeepLabV3 of mmsegmentation",
        ),
        (names("segformer.encoder.block.0.0.x", "decode_head.linear_c.0.proj.weight"), "SegFormer of transformers"),
        (names("encoder.conv1.weight", "segmentation_head.0.weight"), "segmentation_models_pytorch"),
        (names("backbone.stages.0.op_list.0.x"), "EfficientViT"),
        (names("encoder.level1.conv.weight", "encoder.level2_0.bn.weight"), "ESPNet"),
        (names("fc.weight", "layer1.0.conv1.weight"), "classifier of images"),
    ],
)
def test_networks_that_are_not_the_same_are_named(tmp_path: Path, tensors: Tensors, whose: str) -> None:
    torch.save(tensors, tmp_path / "x.pth")
    model = models.build("deeplabv3-mv2_035", 5, seed=0)
    before = {key: x.clone() for key, x in model.state_dict().items()}
    with pytest.raises(WeightsError, match=f"{whose}.*cannot be loaded as deeplabv3-mv2_035"):
        models.load_full(model, tmp_path / "x.pth")
    assert all(torch.equal(x, before[key]) for key, x in model.state_dict().items())


def test_the_network_of_the_file_is_named(tmp_path: Path) -> None:
    file = written(models.build("deeplabv3-r18", 5, seed=1), tmp_path / "theirs.pth", CIRKD)
    with pytest.raises(
        WeightsError, match=r"which is deeplabv3-r18 here, not deeplabv3-mv2: name that network"
    ) as error:
        models.load_full(models.build("deeplabv3-mv2", 5), file)
    named = re.findall(r"which is (\S+) here", str(error.value))[0]  # the cure
    assert models.load_full(models.build(named, 5), file).complete()


@pytest.mark.parametrize("key", ["model_ema", "state_dict_ema", "teacher", "network", "model_state", "net"])
def test_wrappers_are_looked_into(tmp_path: Path, key: str) -> None:
    source = models.build("deeplabv3-mv2_035", 5, seed=1)
    torch.save({"epoch": 3, key: {"module": source.state_dict()}}, tmp_path / "x.pth")
    assert models.load_full(models.build("deeplabv3-mv2_035", 5, seed=2), tmp_path / "x.pth").complete()


def test_of_several_sets_the_choice_is_said(tmp_path: Path) -> None:
    source = models.build("deeplabv3-mv2_035", 5, seed=1)
    torch.save({"model": source.state_dict(), "model_ema": {"x": torch.ones(1)}}, tmp_path / "x.pth")
    report = models.load_full(models.build("deeplabv3-mv2_035", 5, seed=2), tmp_path / "x.pth")
    assert "model was taken, not model_ema" in report.note


@pytest.mark.parametrize("beside", [argparse.Namespace(lr=1), np.float64(0.7)], ids=["Namespace", "numpy scalar"])
def test_a_refused_pickle_is_one_plain_line(tmp_path: Path, beside: object) -> None:
    source = models.build("deeplabv3-mv2_035", 5, seed=1)
    torch.save({"state_dict": source.state_dict(), "args": beside}, tmp_path / "x.pth")
    with pytest.raises(
        WeightsError, match=r"x.pth cannot be read as weights \(it holds \w[\w.]+, a Python object"
    ) as error:
        _weights.read_tensors(tmp_path / "x.pth")
    assert str(error.value).isprintable() and "\n" not in str(error.value) and "weights_only" not in str(error.value)
    torch.save(source.state_dict(), tmp_path / "weights.pth")  # the cure
    assert models.load_full(models.build("deeplabv3-mv2_035", 5, seed=2), tmp_path / "weights.pth").complete()
