"""DeepLabV3+ against the published counts and a literal float64 form of the published networks, then end to end."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdc import cli
from kdc.distill import models
from kdc.distill.cost import params
from kdc.distill.data import open_data
from kdc.distill.errors import UsageError
from kdc.distill.probe.memory import estimate_memory
from kdc.distill.run.card import DataCard
from kdc.distill.run.checkpoint import load_student, save_student
from kdc.distill.run.folder import Run
from kdc.distill.settings.config import Config, resolve
from kdc.distill.training.teacher import find_teacher
from kdc.export.settings import ExportSettings
from kdc.export.to_onnx import export_run

PUBLISHED = json.loads((Path(__file__).parents[2] / "golden" / "index.json").read_text())["model_counts"]
SMALL = "deeplabv3plus-mv2_035"


def images(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def uneven(name: str, **options: Any) -> models.SegmentationModel:
    """A network in float64 whose batch norms differ from each other, in eval mode."""
    model = models.build(name, 4, seed=0, **options).double().eval()
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, centre in ((module.weight, 1.0), (module.bias, 0.0), (module.running_mean, 0.0)):
                assert values is not None
                values.data = centre + 0.2 * torch.randn(values.shape, generator=generator, dtype=torch.float64)
            module.running_var = 0.5 + torch.rand(module.num_features, generator=generator, dtype=torch.float64)
    return model


# ---- the published networks, written out ------------------------------------------------------------------------


class Literal:
    """The published networks from a state dict: dilations, ends of stages and padding as in the original code."""

    def __init__(self, model: models.SegmentationModel) -> None:
        self.state, self.stride = model.state_dict(), model.output_stride

    def conv_norm(self, x: Tensor, conv: str, norm: str, **options: Any) -> Tensor:
        mean, var, weight, bias = (
            self.state[f"{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        x = F.conv2d(x, self.state[f"{conv}.weight"], **options)
        return (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * weight[:, None, None] + bias[
            :, None, None
        ]

    def resnet(self, x: Tensor) -> dict[int, Tensor]:
        at = "backbone."
        x = F.max_pool2d(self.conv_norm(x, f"{at}conv1", f"{at}bn1", stride=2, padding=3).relu(), 3, 2, 1)
        strides, dilations = {16: ((1, 2, 2, 1), (1, 1, 1, 2)), 8: ((1, 2, 1, 1), (1, 1, 2, 4))}[self.stride]
        stages = {}
        for stage in (1, 2, 3, 4):
            for i in range(99):
                at = f"backbone.layer{stage}.{i}."
                if f"{at}conv1.weight" not in self.state:
                    break
                bottleneck = f"{at}conv3.weight" in self.state
                dilation = dilations[stage - 1] * ((1, 2, 4)[i] if stage == 4 and bottleneck else 1)
                wide = {"dilation": dilation, "padding": dilation}
                stride = strides[stage - 1] if i == 0 else 1
                x = rest = x.relu()
                if bottleneck:
                    y = self.conv_norm(x, f"{at}conv1", f"{at}bn1").relu()
                    y = self.conv_norm(y, f"{at}conv2", f"{at}bn2", stride=stride, **wide).relu()
                    y = self.conv_norm(y, f"{at}conv3", f"{at}bn3")
                else:
                    y = self.conv_norm(x, f"{at}conv1", f"{at}bn1", stride=stride, **wide).relu()
                    y = self.conv_norm(y, f"{at}conv2", f"{at}bn2", **wide)
                if f"{at}downsample.0.weight" in self.state:
                    rest = self.conv_norm(x, f"{at}downsample.0", f"{at}downsample.1", stride=stride)
                x = y + rest
            stages[stage] = x
        return stages

    def mobilenet(self, x: Tensor) -> dict[int, Tensor]:
        x = self.conv_norm(x, "backbone.conv_stem", "backbone.bn1", stride=2, padding=1).clamp(0, 6)
        stages, stride, rate = {}, 2, 1
        for stage, step in enumerate((1, 2, 2, 2, 1, 2, 1)):
            if stride == self.stride:
                first, dilation, rate = 1, rate, rate * step
            else:
                first, dilation, stride = step, 1, stride * step
            for i in range(99):
                at = f"backbone.blocks.{stage}.{i}."
                if f"{at}conv_dw.weight" not in self.state:
                    break
                y = F.pad(x, (dilation,) * 4)
                norms = iter(("bn1", "bn2", "bn3"))
                if stage:
                    y = self.conv_norm(y, f"{at}conv_pw", at + next(norms)).clamp(0, 6)
                groups, move = y.shape[1], first if i == 0 else 1
                y = self.conv_norm(
                    y, f"{at}conv_dw", at + next(norms), stride=move, dilation=dilation, groups=groups
                ).clamp(0, 6)
                y = self.conv_norm(y, f"{at}conv_pwl" if stage else f"{at}conv_pw", at + next(norms))
                x = x + y if y.shape[1] == x.shape[1] and move == 1 else y
            stages[{1: 1, 2: 2, 4: 3, 6: 4}.get(stage, 0)] = x
        return stages

    def head(self, low: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        at = "head.aspp.branches."
        parts = [self.conv_norm(x, f"{at}0.0", f"{at}0.1").relu()]
        for i, rate in enumerate((6, 12, 18) if self.stride == 16 else (12, 24, 36), start=1):
            parts.append(self.conv_norm(x, f"{at}{i}.0", f"{at}{i}.1", padding=rate, dilation=rate).relu())
        pooled = self.conv_norm(x.mean((2, 3), keepdim=True), "head.aspp.image.1", "head.aspp.image.2").relu()
        x = torch.cat([*parts, pooled.expand_as(parts[0])], 1)
        aspp_pre = self.conv_norm(x, "head.aspp.project.0", "head.aspp.project.1")
        low = self.conv_norm(low, "head.low.0", "head.low.1").relu()
        x = F.interpolate(aspp_pre.relu(), low.shape[2:], mode="bilinear", align_corners=True)
        x = self.conv_norm(torch.cat([x, low], 1), "head.refine.0", "head.refine.1", padding=1).relu()
        dec_pre = self.conv_norm(x, "head.scorer.conv", "head.scorer.norm", padding=1)
        last = (self.state[f"head.scorer.classifier.{key}"] for key in ("weight", "bias"))
        return F.conv2d(dec_pre.relu(), *last), dec_pre, aspp_pre


@pytest.mark.parametrize("stride", [16, 8])
@pytest.mark.parametrize("backbone", ["r18", "r50", "mv2_050"])
def test_computes_what_the_published_network_computes(backbone: str, stride: int) -> None:
    model = uneven(f"deeplabv3plus-{backbone}", output_stride=stride)
    # large enough for the widest dilation of a stage to reach another position
    x = torch.randn(1, 3, 129, 161, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    literal = Literal(model)
    with torch.no_grad():
        output = model(x)
        mobile = backbone.startswith("mv2")
        stages = literal.mobilenet(x) if mobile else literal.resnet(x)
        read = [stages[i] if mobile else stages[i].relu() for i in (1, 4)]
        logits, dec_pre, aspp_pre = literal.head(*read)
    expected = {"low": stages[1], "bb3": stages[3], "bb": stages[4], "aspp_pre": aspp_pre}
    expected |= {"dec_pre": dec_pre, "dec": dec_pre.relu(), "logits": logits}
    assert expected.keys() == model.taps.keys()
    for tap, value in expected.items():
        torch.testing.assert_close(output.tap(tap), value, rtol=1e-10, atol=1e-10 * value.abs().max().item())


# ---- counts, taps, training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["r101", "r18", "mv2"])
def test_parameters_equal_the_published_ones(backbone: str) -> None:
    with torch.device("meta"):
        model = models.build(f"deeplabv3+-{backbone}", 21)
    golden = PUBLISHED[f"deeplabv3plus_{backbone.replace('mv2', 'mbv2')}_os16"]
    assert params(model) == (golden["21"], golden["21"])  # no auxiliary head
    assert model.output_stride == models.stride_of("deeplabv3plus-r18") == 16 and "aux" not in model.taps


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("backbone", ["r18", "mv2_035"])
@pytest.mark.parametrize("size", [(64, 96), (49, 67)])
def test_every_tap_has_its_own_stride(backbone: str, stride: int, size: tuple[int, int]) -> None:
    model = models.build(f"deeplabv3plus-{backbone}", 5, output_stride=stride, seed=0)
    output = model(images(2, *size))
    fine, coarse = ("logits", "dec", "dec_pre", "low"), ("aspp_pre", "bb", "bb3")
    assert {tap: t.stride for tap, t in model.taps.items()} == {
        **dict.fromkeys(fine, 4),
        **dict.fromkeys(coarse, stride),
    }
    for tap, t in model.taps.items():
        assert output.tap(tap).shape == (2, t.channels, *(-(-side // t.stride) for side in size)), tap
    for tap in ("dec_pre", "aspp_pre", "bb", "bb3", "low"):
        assert (output.tap(tap) < 0).any(), f"{tap} is after a ReLU"
    assert {model.taps[t].channels for t in ("dec", "dec_pre", "aspp_pre")} == {256}


def test_gradients_reach_every_tap_and_weight() -> None:
    model = models.build("deeplabv3plus-r18", 5, seed=0).train()
    output = model(images(2, 49, 67))
    for feature in output.features.values():
        feature.retain_grad()
    output.logits.square().mean().backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in model.parameters())
    for tap, feature in output.features.items():
        assert feature.grad is not None and (feature.grad != 0).any(), tap
        if tap in ("low", "bb"):  # read behind a ReLU alone
            assert (feature.grad[feature < 0] == 0).all()


def test_named_like_the_others_but_with_the_plain_stem() -> None:
    described = models.describe("deeplabv3plus-r101")
    assert described.imagenet == "resnet101.tv_in1k" and "7x7" in described.stem
    mine = [name.split("-")[1] for name in models.names() if name.startswith("deeplabv3plus-")]
    assert mine == ["r18", "r34", "r50", "r101", "mv2", "mv2_050", "mv2_035"]
    with pytest.raises(UsageError, match=r"deeplabv3plus-r18: heads 'v2'; accepted are v1"):
        models.build("deeplabv3plus-r18", 5, heads="v2")


# ---- through the rooms ------------------------------------------------------------------------------------------


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--classes", "21", "--size", "513x513", "--json"]
    assert cli.run(["models", "ls", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["models"]}
    assert rows["deeplabv3plus-r18"]["output_stride"] == 16 and rows["deeplabv3-r18"]["output_stride"] == 8
    assert cli.run(["models", "info", "deeplabv3+-mv2", *at]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["params"], info["output_stride"]) == (5_816_053, 16)
    assert info["taps"]["low"] == {"channels": 24, "stride": 4}
    assert cli.run(["bench", "flops", "deeplabv3+-r18", "r18", *at]) == 0
    plus, plain = json.loads(capsys.readouterr().out.splitlines()[-1])["networks"]
    assert (plus["output_stride"], plain["output_stride"]) == (16, 8) and round(plus["macs"] / 1e9, 2) == 42.67
    assert cli.run(["models", "info", "deeplabv3+-mv2", *at, "--output-stride", "8"]) == 0
    assert json.loads(capsys.readouterr().out)["taps"]["bb"]["stride"] == 8


def test_the_default_stride_is_the_architectures(tmp_path: Path) -> None:
    data = DataCard("streets", "streets", num_classes=4, fingerprint="f" * 8)
    for stride in (16, 8):
        network = models.build(SMALL, 4, output_stride=stride, seed=stride)
        card = {"kind": "train", "status": "finished", "student": network.spec().to_dict(), "data": data.to_dict()}
        run = Run.create("run", Config(), out=tmp_path / str(stride), created=f"2026-01-{30 - stride}", **card)
        save_student(run.checkpoints / "best.safetensors", network, {})
        run.unlock()
    for asked, expected in ((None, 16), (8, 8)):
        config = resolve({"model.arch": "deeplabv3+", "model.teacher": "mv2_035", "model.teacher_stride": asked})
        found = find_teacher(config, data, tmp_path)
        assert found and found.model.output_stride == expected
    assert Config().model.output_stride is None and Config().model.teacher_stride is None
    plus = resolve({"model.student": "deeplabv3+-mv2_035", "train.crop": (64, 96)})
    fine = plus.changed(model__output_stride=8)
    assert estimate_memory(plus, 2, None).total < estimate_memory(fine, 2, None).total


@pytest.mark.process
def test_export_passes_the_gate(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    data = open_data("builtin", "val", size=(36, 60), val_count=2)
    card: dict[str, Any] = {"source": "builtin", "options": {"size": (36, 60), "val_count": 2}, "size": [36, 60]}
    card |= {"classes": list(data.classes), "palette": [list(c) for c in data.palette], "num_classes": data.num_classes}
    run = Run.create("export", Config(), out=tmp_path / "run", data=card)
    model = models.build(SMALL, data.num_classes, seed=0)
    save_student(run.checkpoints / "best.safetensors", model, {"data": card})
    run.record(status="finished")
    run.unlock()
    with torch.no_grad():
        logits = model.eval()(images(1, 48, 64)).logits
        assert torch.equal(load_student(run)(images(1, 48, 64)).logits, logits)
    (done,) = export_run(run, ExportSettings(images=2))
    assert done.manifest.to_dict()["inputs"][0]["shape"] == [1, 3, 48, 64]  # multiples of 16
    assert done.gate and done.gate.passed and (done.gate.max_relative or 0) < 1e-4
    with pytest.raises(UsageError, match="multiples of the output stride 16"):
        export_run(run, ExportSettings(size=(40, 64)))
