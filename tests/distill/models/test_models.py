"""The networks against the published parameter tables, the papers' dilations, torchvision, and the model contract."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from kdc.distill import models
from kdc.distill.cost import params
from kdc.distill.errors import UsageError
from kdc.distill.models._backbones import BACKBONES, make
from kdc.distill.models._heads import PooledBatchNorm2d
from kdc.distill.network_spec import NetworkSpec
from kdc.distill.output import Output
from kdc.distill.preprocess import BGR_MEAN, IMAGENET, Preprocess

PUBLISHED = json.loads((Path(__file__).parents[2] / "golden" / "index.json").read_text())["model_counts"]
# parameters with 19, 21, 150 and 11 classes, and of the auxiliary head with 19
TABLE = {
    "deeplabv3-r101": (61_118_950, 61_119_978, 61_186_284, 61_114_838, 2_364_691),
    "deeplabv3-r18": (13_607_974, 13_608_362, 13_633_388, 13_606_422, 148_819),
    "pspnet-r18": (12_919_334, 12_919_722, 12_944_748, 12_917_782, 148_819),
    "deeplabv3-mv2": (3_233_171, 3_233_429, 3_250_070, 3_232_139, 0),
    "pspnet-mv2": (2_654_739, 2_654_997, 2_671_638, 2_653_707, 0),
    "pspnet-r101": (68_072_166, 68_073_706, 68_173_036, 68_066_006, 2_364_691),
}
# parameters with 19 classes and the heads of CIRKD's later code; those of the last two did not change
LATER = {"deeplabv3-r101": 79_084_262, "deeplabv3-r18": 22_762_918, "pspnet-r101": 58_629_606}
LATER |= {"pspnet-r18": TABLE["pspnet-r18"][0], "deeplabv3-mv2": TABLE["deeplabv3-mv2"][0]}
SMALL = "deeplabv3-mv2_035"


def images(batch: int = 2, height: int = 32, width: int = 64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def small() -> models.SegmentationModel:
    return models.build(SMALL, 5, seed=1).eval()


# ---- counts and structure ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLE)
def test_parameters_equal_the_published_tables(name: str) -> None:
    with torch.device("meta"):
        counts = {k: params(models.build(name, k)) for k in (19, 21, 150, 11)}
    assert tuple(counts[k][0] for k in (19, 21, 150, 11)) == TABLE[name][:4]
    assert {with_aux - without for with_aux, without in (counts[19],)} == {TABLE[name][4]}
    golden = PUBLISHED[name.replace("-", "_").replace("mv2", "mbv2")]
    assert all(counts[k][0] == golden[str(k)] for k in counts if str(k) in golden)
    assert golden["aux_19"] == TABLE[name][4]


def test_without_aux_head() -> None:
    with torch.device("meta"):
        with_head, without = (models.build("r18", 19, aux=aux) for aux in (True, False))
    assert without.aux_head is None and "aux" not in without.taps
    assert params(without)[0] == params(with_head)[1] == 13_459_155
    assert not without.spec().aux


@pytest.mark.parametrize("name", LATER)
def test_later_heads(name: str) -> None:
    with torch.device("meta"):
        model = models.build(name, 19, heads="v2")
    assert params(model)[0] == LATER[name]
    assert model.spec().to_dict()["heads"] == "v2" and "heads" not in models.build(SMALL, 5).spec().to_dict()
    with torch.device("meta"):
        assert models.rebuild(model.spec()).taps == model.taps


def dilations(backbone: str, stride: int, kernel: int = 3) -> list[int]:
    with torch.device("meta"):
        convs = [m for m in make(BACKBONES[backbone], stride).modules() if isinstance(m, nn.Conv2d)]
    assert all(m.padding == (m.dilation[0] * (m.kernel_size[0] - 1) // 2,) * 2 for m in convs)
    return [m.dilation[0] for m in convs if m.kernel_size == (kernel, kernel)]


def test_dilations_of_the_papers() -> None:
    stem, first, second = [1, 1, 1], [1] * 4, [1] * 4
    # two basic blocks of two 3x3 each: the second 3x3 dilates even in the first block
    assert dilations("r18", 8) == [*stem, *first, *second, 1, 2, 2, 2, 2, 4, 4, 4]
    assert dilations("r18", 16) == [*stem, *first, *second, 1, 1, 1, 1, 1, 2, 2, 2]
    assert dilations("r101", 8) == [*stem, *[1] * 7, 1, *[2] * 22, 2, 4, 4]
    # features 1-6, 7 (formerly stride 2), 8-13, 14 (formerly stride 2), 15-17, after the stem
    assert dilations("mv2", 8) == [1, *[1] * 6, 1, *[2] * 6, 2, *[4] * 3]


def test_aspp_rates_halve_with_the_map() -> None:
    with torch.device("meta"):
        for stride, expected in ((8, [12, 24, 36]), (16, [6, 12, 18])):
            aspp = models.build("r18", 5, output_stride=stride).head.get_submodule("aspp.branches")
            assert [m.dilation[0] for m in aspp.modules() if isinstance(m, nn.Conv2d)][1:] == expected


@pytest.mark.parametrize("v1b", ["r18v1b", "r34v1b", "r50v1b", "r101v1b"])
def test_v1b_is_the_same_network_with_the_other_stem(v1b: str) -> None:
    with torch.device("meta"):
        deep, plain = models.build(v1b.removesuffix("v1b"), 19), models.build(v1b, 19)
    differing = deep.state_dict().keys() ^ plain.state_dict().keys()
    assert differing and all("backbone.conv1" in k or "layer1.0.downsample" in k for k in differing)


def test_backbones_compute_what_torchvision_computes() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 32, 64)
    theirs = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, True, True]).eval()
    ours = make(BACKBONES["r50v1b"], 8).eval()
    assert not ours.load_state_dict(theirs.state_dict(), strict=False).missing_keys
    with torch.no_grad():
        stages = theirs.layer2(theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))))
        bb3 = theirs.layer3(stages)
        for got, expected in zip(ours(x), (bb3, theirs.layer4(bb3)), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_initialisation_is_kaiming_fan_out() -> None:
    for backbone in ("r18", "mv2"):
        for module in make(BACKBONES[backbone], 8).modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
                fan_out = module.out_channels * module.kernel_size[0] ** 2 / module.groups
                assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.06)
            if isinstance(module, nn.BatchNorm2d):  # no zero-initialised residual branches
                assert (module.weight == 1).all() and (module.bias == 0).all()


# ---- forward ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", ["deeplabv3-r18", "pspnet-r18", "deeplabv3-mv2", "pspnet-mv2_050"])
def test_taps_are_what_they_are_said_to_be(name: str, stride: int) -> None:
    model = models.build(name, 5, output_stride=stride, seed=0)
    output = model(images(2, 48, 64))
    wanted = {"logits", "dec", "dec_pre", "aspp_pre", "bb", "bb3"} | ({"aux"} if "r18" in name else set())
    assert set(model.taps) == wanted
    for tap, shape in model.taps.items():
        assert shape.stride == stride
        assert output.tap(tap).shape == (2, shape.channels, 48 // stride, 64 // stride), tap
    with pytest.raises(UsageError, match=r"no tap 'decc'; it has logits.*bb3.*did you mean 'dec'"):
        output.tap("decc")


def test_published_widths() -> None:
    with torch.device("meta"):
        taps = {name: models.build(name, 19).taps for name in TABLE}
    assert {n: (t["bb3"].channels, t["bb"].channels, t["dec"].channels) for n, t in taps.items()} == {
        "deeplabv3-r101": (1024, 2048, 256),
        "deeplabv3-r18": (256, 512, 128),
        "pspnet-r18": (256, 512, 128),
        "deeplabv3-mv2": (96, 320, 128),
        "pspnet-mv2": (96, 320, 128),
        "pspnet-r101": (1024, 2048, 512),
    }


def test_dec_is_after_dropout_and_dec_pre_before_relu(small: models.SegmentationModel) -> None:
    model = copy.deepcopy(small).train()
    features = model(images()).features
    assert (features["dec_pre"] < 0).any() and (features["aspp_pre"] < 0).any()
    kept = features["dec"] > 0
    torch.testing.assert_close(features["dec"][kept], features["dec_pre"][kept] / 0.9)
    positive = features["dec_pre"] > 0
    assert 0.05 < 1 - kept.sum() / positive.sum() < 0.15  # a tenth of the positive ones dropped
    still = small(images()).features
    torch.testing.assert_close(still["dec"], still["dec_pre"].relu())


def test_without_a_projection_of_its_own_pspnet_shows_the_next_batch_norm() -> None:
    features = models.build("pspnet-mv2_035", 5, seed=0)(images()).features
    assert features["aspp_pre"] is features["dec_pre"] and (features["aspp_pre"] < 0).any()


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("deeplabv3-r18", [0.1, 0.1, 0.5]),
        ("pspnet-r18", [0.1, 0.1]),
        ("deeplabv3-mv2", [0.1, 0.5]),
        ("pspnet-mv2", [0.1]),
        ("deeplabv3plus-r18", [0.1, 0.5, 0.5]),
    ],
)
def test_dropout_settings(name: str, published: list[float]) -> None:
    def rates(dropout: float | None) -> list[float]:
        with torch.device("meta"):
            return sorted(m.p for m in models.build(name, 5, dropout=dropout).modules() if isinstance(m, nn.Dropout))

    assert rates(None) == published
    assert rates(0.0) == [0.0] * len(published)
    assert rates(0.01) == [0.01] * len(published)


@pytest.mark.parametrize("preprocess", [IMAGENET, BGR_MEAN, Preprocess((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "bgr")])
def test_normalises_uint8_and_takes_floats_as_they_are(preprocess: Preprocess) -> None:
    model = models.build(SMALL, 5, preprocess=preprocess, seed=0).eval()
    rgb = images()
    prepared = torch.from_numpy(preprocess.apply(np.ascontiguousarray(rgb.permute(0, 2, 3, 1).numpy())))
    torch.testing.assert_close(model.normalise(rgb), prepared, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(model(rgb).logits, model(prepared).logits, rtol=1e-4, atol=1e-4)


def test_channels_last_and_bf16(small: models.SegmentationModel) -> None:
    model = copy.deepcopy(small).to(memory_format=torch.channels_last)
    x = images().to(memory_format=torch.channels_last)
    with torch.no_grad():
        output, expected = model(x), small(images())
        assert output.features["bb"].is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(output.logits, expected.logits, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            low = model(x)
    assert low.logits.dtype == torch.bfloat16
    raised = low.raised()
    assert {raised.tap(t).dtype for t in model.taps} == {torch.float32}
    assert (raised.logits - expected.logits).abs().max() < 0.1 * expected.logits.abs().max()
    assert Output(torch.zeros(1, dtype=torch.float64)).raised().logits.dtype == torch.float64


@pytest.mark.parametrize("name", ["deeplabv3-mv2_035", "pspnet-mv2_035", "deeplabv3plus-mv2_035", "deeplabv3-r18"])
def test_trains_with_a_batch_of_one(name: str) -> None:
    model = models.build(name, 5, seed=0).train()
    output = model(images(1))
    (output.logits.square().mean() + (0 if output.aux is None else output.aux.square().mean())).backward()
    lacking = [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not lacking


def test_one_pooled_value_uses_running_statistics() -> None:
    norm = PooledBatchNorm2d(3).train()
    norm.running_mean, norm.running_var = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 4.0, 4.0])
    got = norm(torch.full((1, 3, 1, 1), 5.0))
    torch.testing.assert_close(got.flatten(), torch.tensor([2.0, 1.5, 1.0]), rtol=1e-4, atol=1e-4)
    assert norm.running_mean.tolist() == [1.0, 2.0, 3.0]
    two = torch.tensor([0.0, 2.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    torch.testing.assert_close(norm(two)[:, 0].flatten(), torch.tensor([-1.0, 1.0]), rtol=1e-3, atol=1e-3)
    assert norm.running_mean.tolist() != [1.0, 2.0, 3.0]


# ---- state ------------------------------------------------------------------------------------------------------


def test_state_dict_is_complete(small: models.SegmentationModel) -> None:
    other = models.rebuild(NetworkSpec.from_dict(json.loads(json.dumps(small.spec().to_dict()))))
    assert other.spec() == small.spec()
    other.load_state_dict(small.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(other.eval()(images()).logits, small(images()).logits)
    assert {"mean", "std"} <= small.state_dict().keys()


def test_normalisation_travels_in_the_state_dict() -> None:
    theirs = Preprocess((104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0), "bgr")
    source, model = models.build(SMALL, 5, preprocess=theirs, seed=0), models.build(SMALL, 5, seed=1)
    model.load_state_dict(source.state_dict())
    assert model.preprocess.order == "bgr"
    assert model.preprocess.mean == pytest.approx(theirs.mean, rel=1e-6)
    with torch.no_grad():
        assert torch.equal(model.eval()(images()).logits, source.eval()(images()).logits)
    same = models.build(SMALL, 5, seed=2)
    same.load_state_dict(models.build(SMALL, 5, seed=0).state_dict())
    assert same.preprocess is IMAGENET  # to the last digit


def test_pickles_and_copies(small: models.SegmentationModel) -> None:
    for twin in (pickle.loads(pickle.dumps(small)), copy.deepcopy(small)):  # noqa: S301
        with torch.no_grad():
            assert torch.equal(twin(images()).logits, small(images()).logits)


def test_seed_decides_the_weights_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, same, other = (models.build(SMALL, 5, seed=s).state_dict() for s in (3, 3, 4))
    models.build(SMALL, 5)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(x, same[k]) for k, x in first.items())
    assert not torch.equal(first["backbone.conv_stem.weight"], other["backbone.conv_stem.weight"])


def test_aux_head_does_not_change_the_rest() -> None:
    with_head, without = (models.build("r18", 5, aux=aux, seed=0).state_dict() for aux in (True, False))
    assert all(torch.equal(x, with_head[k]) for k, x in without.items())


# ---- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("r101", "deeplabv3-r101"),
        ("resnet18", "deeplabv3-r18"),
        ("mobilenetv2", "deeplabv3-mv2"),
        ("PSPNet-mbv2", "pspnet-mv2"),
        ("deeplabv3-mv2_050", "deeplabv3-mv2_050"),
        ("deeplabv3+-r18", "deeplabv3plus-r18"),
        ("DeepLabV3Plus-resnet101", "deeplabv3plus-r101"),
        ("deeplabv3+-r34v1b", "deeplabv3plus-r34"),
    ],
)
def test_expand(given: str, full: str) -> None:
    assert models.expand(given) == full
    assert models.expand(full) == full


def test_expand_with_another_architecture_and_unknown_names() -> None:
    assert models.expand("r18", arch="pspnet") == "pspnet-r18"
    assert models.expand("r18v1b", arch="DeepLabV3+") == "deeplabv3plus-r18"
    with pytest.raises(UsageError, match=r"no model 'pspnt-r18'.*pspnet.*r18v1b.*did you mean 'pspnet-r18'"):
        models.expand("pspnt-r18")
    with pytest.raises(UsageError, match="no model 'r19'"):
        models.expand("r19")


def test_registry_is_the_folder() -> None:
    folder = Path(models.__file__).parent
    files = {p.stem for p in folder.glob("*.py") if not p.name.startswith("_")}
    assert set(models.architectures()) == files >= {"deeplabv3", "deeplabv3plus", "pspnet"}
    assert {n.split("-")[0] for n in models.names()} == files
    described = models.describe("r101")
    assert described.params == 61_118_950 and described.imagenet == "resnet101s.gluon_in1k"
    assert models.describe("r18").imagenet is None and "deep stem" in models.describe("r18").stem


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "0 classes"),
        ({"num_classes": 256}, "256 classes"),
        ({"num_classes": 5, "output_stride": 4}, "output stride 4; accepted are 8 and 16"),
        ({"num_classes": 5, "dropout": 1.0}, "dropout 1.0"),
        ({"num_classes": 5, "in_channels": 5}, "5 input channels; accepted are 3 and 4"),
        ({"num_classes": 5, "heads": "v3"}, "heads 'v3'; accepted are v1, v2"),
    ],
)
def test_refuses_values_with_the_accepted_ones(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        models.build("r18", **options)
