"""Weights from elsewhere: real ImageNet and legacy files, names of torchvision, wrappers, and refusals."""

import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file

from kdc.distill import models
from kdc.distill.errors import WeightsError
from kdc.distill.models import _weights
from kdc.distill.models._backbones import BACKBONES, make
from kdc.distill.preprocess import BGR_MEAN, IMAGENET

SHARED = Path(os.environ.get("KDC_SHARED", Path(__file__).resolve().parents[4] / "shared"))
SMALL = "deeplabv3-mv2_035"


def shared(name: str) -> Path:
    path = SHARED / "weights" / name
    if not path.is_file():
        pytest.skip(f"{name} is not here (KDC_SHARED names its folder)")
    return path


def small(seed: int = 0, **options: Any) -> models.SegmentationModel:
    return models.build(SMALL, options.pop("num_classes", 5), seed=seed, **options)


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=generator)


# ---- ImageNet start ---------------------------------------------------------------------------------------------


def test_real_imagenet_file_gives_timms_features() -> None:
    path = shared("mobilenetv2_100_imagenet_dequant_fp16.safetensors")
    model = models.build("deeplabv3-mv2", 11, seed=0).eval()
    report = models.load_backbone(model, path)
    assert (report.fitted, report.total, report.missing, report.mismatched) == (255, 255, [], [])
    assert report.unexpected and all(k.split(".")[0] in ("conv_head", "bn2", "classifier") for k in report.unexpected)
    assert "255 of 255 tensors fitted" in report.line()

    theirs = timm.create_model("mobilenetv2_100", features_only=True, output_stride=8, out_indices=(3, 4)).eval()
    theirs.load_state_dict(load_file(path), strict=False)
    rgb = images()
    prepared = torch.from_numpy(IMAGENET.apply(np.ascontiguousarray(rgb.permute(0, 2, 3, 1).numpy())))
    with torch.no_grad():
        output, expected = model(rgb), theirs(prepared)
    for tap, feature in zip(("bb3", "bb"), expected, strict=True):
        torch.testing.assert_close(output.tap(tap), feature, rtol=1e-3, atol=1e-4)
    assert output.tap("bb").abs().mean() > 0.1  # it answers to the image


def test_torchvision_mobilenet_is_recognised_and_computes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v2(weights=None).eval()
    for module in theirs.modules():  # no two batch norms alike
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 1, 0.1)
            assert module.running_mean is not None
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
    torch.save({"state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}}, tmp_path / "tv.pth")
    model = models.build("deeplabv3-mv2", 5, seed=0)
    report = models.load_backbone(model, tmp_path / "tv.pth")
    assert report.fitted == report.total == 255
    whole = make(BACKBONES["mv2"], 32).eval()  # torchvision's has no dilation
    whole.load_state_dict(model.backbone.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(whole(x)[1], theirs.features[:18](x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "backbone.", "module.model.backbone."])
def test_torchvision_resnet_and_wrappers(prefix: str, tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    save_file({prefix + k: v.contiguous() for k, v in theirs.items()}, tmp_path / "r18.safetensors")
    model = models.build("r18v1b", 5, seed=0)
    report = models.load_backbone(model, tmp_path / "r18.safetensors")
    assert report.fitted == report.total == 100 and report.unexpected == ["fc.bias", "fc.weight"]
    assert torch.equal(model.backbone.state_dict()["layer4.1.conv2.weight"], theirs["layer4.1.conv2.weight"])
    plus = models.build("deeplabv3plus-r18", 5, seed=0)
    assert models.load_backbone(plus, tmp_path / "r18.safetensors").fitted == 100
    assert torch.equal(plus.backbone.state_dict()["layer4.1.conv2.weight"], theirs["layer4.1.conv2.weight"])


def test_deep_stem_says_what_does_not_fit_and_names_the_twin(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "r18.pth")
    report = models.load_backbone(models.build("r18", 5, seed=0), tmp_path / "r18.pth")
    assert 0 < report.fitted < report.total
    assert report.fitted + len(report.missing) + len(report.mismatched) == report.total
    assert any(m.startswith("layer1.0.conv1.weight (file 64x64x3x3, network 64x128x3x3)") for m in report.mismatched)
    assert "r18v1b" in report.line()


def test_own_checkpoint_starts_a_backbone(tmp_path: Path) -> None:
    source, model = small(1), small(2, num_classes=9, preprocess=BGR_MEAN)
    save_file(source.state_dict(), tmp_path / "best.safetensors")
    head = {k: v.clone() for k, v in model.head.state_dict().items()}
    report = models.load_backbone(model, tmp_path / "best.safetensors")
    assert report.fitted == report.total
    assert all(torch.equal(v, model.backbone.state_dict()[k]) for k, v in source.backbone.state_dict().items())
    assert all(torch.equal(v, model.head.state_dict()[k]) for k, v in head.items())
    assert model.preprocess == BGR_MEAN and "normalisation is not ImageNet's" in report.line()


def test_legacy_file_of_another_network_is_refused_with_counts() -> None:
    path = shared("espnet_p2q8_camvid.pth")
    model = models.build("deeplabv3-mv2", 11, seed=0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(
        WeightsError, match=r"espnet_p2q8_camvid.pth: none of its \d+ tensors fits any of the 255 of mv2"
    ):
        models.load_backbone(model, path)
    with pytest.raises(WeightsError, match="is ESPNet: no network of kdc is the same"):
        models.load_full(model, path)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_imagenet_at_random_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.build("r18", 5, seed=0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    report = models.load_backbone(model, "imagenet")
    assert report.source == "random" and report.fitted == 0
    assert "r18 starts from random weights" in report.line() and "r18v1b" in report.line()
    assert "timm has no ImageNet weights" in models.load_backbone(small(), "imagenet").line()

    def no_network(*_args: Any, **_options: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", no_network)
    monkeypatch.setenv("TORCH_HOME", "/nonexistent")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    line = models.load_backbone(models.build("deeplabv3-mv2", 5), "imagenet").line()
    assert "mv2 starts from random weights: mobilenetv2_100.ra_in1k is in no cache" in line
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("answers", [False, True])
def test_a_dead_proxy_is_not_waited_for(answers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes the connection and says nothing costs the seconds of one question, one that is gone none."""
    asked = []
    real = _weights.huggingface_metadata

    def short(url: str, *, timeout: float) -> Any:
        asked.append(timeout)
        return real(url, timeout=0.5)

    monkeypatch.setattr(_weights, "huggingface_metadata", short)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setenv("TORCH_HOME", "/nonexistent")
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        if answers:
            proxy.listen()
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        report = models.load_backbone(models.build("deeplabv3-mv2", 5), "imagenet")
    assert asked == [5] and "cannot be reached" in report.line()


def test_imagenet_from_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = timm.create_model("mobilenetv2_050").state_dict()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(weights, folder / "mobilenetv2_050-3d30d450.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    model = models.build("deeplabv3-mv2_050", 5, seed=0)
    report = models.load_backbone(model, "imagenet")
    assert report.fitted == report.total and report.line().startswith("ImageNet weights mobilenetv2_050.lamb_in1k: 255")
    assert torch.equal(model.backbone.state_dict()["conv_stem.weight"], weights["conv_stem.weight"])


@pytest.mark.parametrize(
    ("name", "stem"),
    [("deeplabv3-r18v1b", "conv1"), ("deeplabv3plus-r18", "conv1"), ("pspnet-r18", "conv1.0"), (SMALL, "conv_stem")],
)
def test_a_fourth_input_channel_keeps_its_own_weights(name: str, stem: str, tmp_path: Path) -> None:
    source, model = models.build(name, 5, seed=1), models.build(name, 5, in_channels=4, seed=2)
    key = f"{stem}.weight"
    theirs, fourth = source.backbone.state_dict()[key], model.backbone.state_dict()[key][:, 3:].clone()
    save_file({k: v.half() for k, v in source.backbone.state_dict().items()}, tmp_path / "b.safetensors")
    report = models.load_backbone(model, tmp_path / "b.safetensors")
    assert report.fitted == report.total and not report.mismatched
    assert "fourth input channel keeps its random weights" in report.line()
    loaded = model.backbone.state_dict()[key]
    assert torch.equal(loaded[:, :3], theirs.half().float()) and torch.equal(loaded[:, 3:], fourth)


# ---- trained networks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "student._orig_mod."])
def test_full_weights_and_normalisation_come_along(prefix: str, tmp_path: Path) -> None:
    source, model = small(1, preprocess=BGR_MEAN).eval(), small(2).eval()
    torch.save({"model": {prefix + k: v for k, v in source.state_dict().items()}, "step": 3}, tmp_path / "full.pt")
    report = models.load_full(model, tmp_path / "full.pt")
    assert report.complete(ignore_aux=False) and report.fitted == report.total
    assert model.preprocess.order == "bgr"
    with torch.no_grad():
        assert torch.equal(model(images()).logits, source(images()).logits)


def test_a_label_assisted_student_loses_the_channel_that_it_was_given_zeros_in(tmp_path: Path) -> None:
    theirs, model = small(1, in_channels=4).eval(), small(2).eval()
    save_file(theirs.state_dict(), tmp_path / "four.safetensors")
    report = models.load_full(model, tmp_path / "four.safetensors")
    assert report.complete(ignore_aux=False) and "of the stem's 4 input channels the first 3" in report.line()
    with torch.no_grad():
        expected = theirs(images(), torch.zeros(2, 1, 64, 96)).logits
        torch.testing.assert_close(model(images()).logits, expected)
    again = small(3, in_channels=4).eval()
    assert models.load_full(again, tmp_path / "four.safetensors").note == ""
    assert torch.equal(
        again.backbone.state_dict()["conv_stem.weight"], theirs.backbone.state_dict()["conv_stem.weight"]
    )
    save_file(model.state_dict(), tmp_path / "three.safetensors")
    with pytest.raises(WeightsError, match=r"conv_stem.weight \(file 16x3x3x3, network 16x4x3x3\)"):
        models.load_full(again, tmp_path / "three.safetensors")


def test_half_precision_is_cast(tmp_path: Path) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in small(1).state_dict().items()}
    save_file({k: v for k, v in half.items() if k not in models.NORMALISATION}, tmp_path / "half.safetensors")
    model = small(2)
    report = models.load_full(model, tmp_path / "half.safetensors")
    assert {v.dtype for v in model.parameters()} == {torch.float32}
    assert model.preprocess == IMAGENET and "no input normalisation in the file" in report.line()


def test_a_missing_aux_head_is_all_that_may_be_missing(tmp_path: Path) -> None:
    without = models.build("r18", 5, aux=False, seed=1)
    save_file(without.state_dict(), tmp_path / "w.safetensors")
    report = models.load_full(models.build("r18", 5, seed=2), tmp_path / "w.safetensors")
    assert report.complete() and not report.complete(ignore_aux=False)
    assert all(name.startswith("aux_head.") for name in report.missing) and "missing (aux_head" in report.line()
    state = without.state_dict()
    del state["head.aspp.project.0.weight"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"missing \(head.aspp.project.0.weight"):
        models.load_full(models.build("r18", 5, seed=2), tmp_path / "w.safetensors")


def test_a_larger_network_of_the_family_is_refused(tmp_path: Path) -> None:
    state = small(1).state_dict()
    state["backbone.blocks.5.3.conv_pw.weight"] = torch.zeros(3)
    save_file(state, tmp_path / "larger.safetensors")
    with pytest.raises(WeightsError, match=r"1 of the file's unused \(backbone.blocks.5.3.conv_pw.weight\)"):
        models.load_full(small(2), tmp_path / "larger.safetensors")


def test_other_classes_are_refused(tmp_path: Path) -> None:
    save_file(small(1, num_classes=7).state_dict(), tmp_path / "seven.safetensors")
    with pytest.raises(WeightsError, match=r"seven.safetensors tells 7 classes apart, deeplabv3-mv2_035 is to tell 5"):
        models.load_full(small(2), tmp_path / "seven.safetensors")


# ---- files that are no weights ----------------------------------------------------------------------------------


class _Harmful:
    def __reduce__(self) -> tuple:
        return (os.system, ("touch harmed",))


def test_refuses_files_that_are_not_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="no such file"):
        _weights.read_tensors("absent.pth")
    with pytest.raises(WeightsError, match="a folder"):
        _weights.read_tensors(tmp_path)
    for name, content in (("a.pth", b""), ("b.pth", b"not weights"), ("c.safetensors", b"not weights at all")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=f"{name} cannot be read"):
            _weights.read_tensors(name)
    torch.save({"state_dict": _Harmful()}, "harmful.pth")
    with pytest.raises(WeightsError, match=r"harmful.pth cannot be read as weights"):
        _weights.read_tensors("harmful.pth")
    assert not (tmp_path / "harmed").exists()
    torch.save({"epoch": 3}, "empty.pth")
    with pytest.raises(WeightsError, match="holds no tensors"):
        _weights.read_tensors("empty.pth")
    whole = torch.rand(100)
    torch.save({"w": whole}, "cut.pth")
    Path("cut.pth").write_bytes(Path("cut.pth").read_bytes()[:-200])
    with pytest.raises(WeightsError, match=r"cut.pth cannot be read"):
        _weights.read_tensors("cut.pth")
    torch.save({"w": torch.tensor([1.0, float("nan")])}, "nan.pth")
    with pytest.raises(WeightsError, match="NaN or infinite numbers in w"):
        _weights.read_tensors("nan.pth")


# ---- what is no plain tensor ------------------------------------------------------------------------------------


def cyclic() -> dict[str, Any]:
    inside: dict[str, Any] = {}
    inside["state_dict"] = inside
    return inside


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.eye(3).to_sparse(), "sparse"),
        (torch.eye(4).to_sparse_csr(), "sparse"),
        (torch.empty(3, device="meta"), "meta device"),
        (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantised"),
        (torch.ones(1).expand(10**12), "more than the file holds"),
        (torch.ones(1).as_strided((10**6, 10**6), (0, 0)), "more than the file holds"),
    ],
    ids=["sparse", "csr", "meta", "quantised", "expanded", "strided"],
)
def test_only_plain_tensors_are_taken(tensor: torch.Tensor, said: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {"a": torch.ones(2), "b.weight": tensor}}, path)
    with pytest.raises(WeightsError, match=f"(b.weight, which is .*{said}|cannot be read)"):
        models.load_full(small(), path)


def test_a_file_that_holds_itself_ends(tmp_path: Path) -> None:
    torch.save(cyclic(), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"weights\.pth"):
        models.load_full(small(), tmp_path / "weights.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_git_lfs_pointer_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n")
    for load in (models.load_full, models.load_backbone):
        with pytest.raises(WeightsError, match=r"is a git-lfs pointer, .* git lfs pull"):
            load(small(), path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_is_cut_off_anywhere(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(3, 3)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"weights\.pth"):
            models.load_full(small(), path)
