"""Every published recipe resolves, builds its method and weighs its terms as it was launched."""

import pytest
import torch

from kdc.distill import models
from kdc.distill.batch import Batch
from kdc.distill.errors import UsageError
from kdc.distill.methods import Sizes, compose
from kdc.distill.output import Output, Tap
from kdc.distill.settings.config import resolve
from kdc.distill.settings.presets import PRESETS, preset

K = 5
#: those of DeepLabV3 R101 and R18, a few channels wide, and those of DeepLabV3+ that pixel-pair reads
WIDTHS = {"bb": (6, 16), "bb3": (4, 8), "dec": (4, 8), "dec_pre": (4, 8), "aspp_pre": (4, 8)}
SCORES = ("logits", "aux")

#: what the methods book lists: every term that is on, with its weight
TERMS = {
    "cirkd-kd": {"kd.kd": 1},
    "cirkd-skd": {"skd.pixel": 1, "skd.pair": 10, "skd.adv": 0.001},
    "cirkd-ifvd": {"kd.kd": 1, "ifvd.ifvd": 20, "adv.adv": 0.001},
    "cirkd-cwd": {"kd.kd": 1, "cwd.logits": 3, "cwd.feature": 50, "adv.adv": 0.001},
    "cirkd-at": {"kd.kd": 1, "at.att": 10000},
    "cirkd-fitnet": {"kd.kd": 1, "naive.mse": 10},
    "cirkd-dsd": {"dsd.psd": 1000, "dsd.csd": 10},
    "cirkd": {"cirkd.kd": 1, "cirkd.mb": 1, "cirkd.mp": 0.1, "cirkd.mr": 0.1},
    "fitnet": {"naive.mse": 10},
    "skd-original": {"skd.pixel": 10, "skd.pair": 0.5, "skd.adv": 0.1},
    "ifvd-original": {"kd.kd": 10, "ifvd.ifvd": 200, "adv.adv": 0.001},
    "cwd-original": {"cwd.logits": 3},
    "dist": {"dist.dist": 1},
    "mgd": {"mgd.mgd": 2e-5, "cwd.logits": 3},
    "kt": {"kt.kd": 1, "kt.lt": 1, "kt.ft": 1, "kt.tri": 1},
    "label-assisted": {"label-assisted.logits": 3},
    "label-assist-teacher": {},
    "pixel-pair": {"pixel-pair.pa": 1, "pixel-pair.pi": 100},
    "ka": {"ka.adapt": 50, "ka.aff": 1},
    "lad": {"lad.ad": 10, "kd.kd": 10},
    "cad": {"cad.ad": 10, "kd.kd": 10},
    "pad": {"pad.ad": 10, "kd.kd": 10},
}
#: learning rate, weight decay and steps
RECIPES = {
    **dict.fromkeys(TERMS, (0.02, 1e-4, 40000)),
    **dict.fromkeys(("kt", "dist"), (0.02, 5e-4, 40000)),
    **dict.fromkeys(("skd-original", "ifvd-original", "cwd-original", "mgd"), (0.01, 5e-4, 40000)),
    **dict.fromkeys(("lad", "cad", "pad"), (0.01, 5e-4, 80000)),
    "pixel-pair": (0.007, 5e-4, 88200),
    "ka": (0.007, 4e-5, 90000),
}


def composed(name):
    sizes = (
        {**{tap: Tap(K, 8) for tap in SCORES}, **{tap: Tap(widths[side], 8) for tap, widths in WIDTHS.items()}}
        for side in (0, 1)
    )
    method = resolve({}, layers=[preset(name)]).method
    return compose(method.name, Sizes(K, *sizes, iters=100, seed=0), method.settings())


def output(side):
    rng = torch.Generator().manual_seed(side)
    widths = {**dict.fromkeys(SCORES, (K, K)), **WIDTHS}
    maps = {
        tap: torch.randn(2, pair[side], 4, 6, generator=rng).requires_grad_(side == 0) for tap, pair in widths.items()
    }
    return Output(maps.pop("logits"), maps.pop("aux"), maps)


def test_all_of_the_books_presets_are_there():
    assert set(PRESETS) == set(TERMS)


@pytest.mark.parametrize("name", PRESETS)
class TestPreset:
    def test_composes_with_its_weights(self, name):
        composite = composed(name)
        assert {term: composite.weight(term, 0) for term in composite.terms} == TERMS[name]

    def test_trains(self, name):
        composite, student, teacher = composed(name), output(0), output(1)
        batch = Batch(torch.zeros(2, 3, 32, 48, dtype=torch.uint8), torch.arange(2 * 32 * 48).view(2, 32, 48) % K)
        composite.remember(teacher, batch)
        values = composite.losses(student, teacher, batch)
        assert all(value.isfinite() for value in values.values())
        if TERMS[name]:
            torch.stack(list(values.values())).sum().backward()
            leaves = [student.logits, *student.features.values()]
            assert any(x.grad is not None and x.grad.any() for x in leaves)

    def test_resolves_to_its_recipe(self, name):
        config = resolve({}, layers=[preset(name)])
        train = config.train
        assert (train.lr, train.weight_decay, train.iters) == RECIPES[name]
        models.expand(config.model.student, config.model.arch)

    def test_is_a_copy(self, name):
        preset(name)["train.lr"] = 0
        assert preset(name)["train.lr"] != 0


@pytest.mark.parametrize(
    ("name", "method", "attribute", "expected"),
    [
        ("ifvd-original", "kd", "reduction", "element"),
        ("lad", "kd", "reduction", "element"),
        ("cirkd-kd", "kd", "reduction", "pixel"),
        ("cirkd-cwd", "cwd", "factor", 2.0),
        ("cirkd-cwd", "cwd", "at", "dec"),
        ("mgd", "mgd", "mask", 0.75),
        ("mgd", "mgd", "taps", ("bb",)),
        ("fitnet", "naive", "taps", ("dec",)),
        ("cirkd-fitnet", "naive", "taps", ("dec",)),
        ("dist", "dist", "aux_weight", 0.4),
        ("kt", "kt", "tuning_point", 25.0),
    ],
)
def test_options_reach_the_method(name, method, attribute, expected):
    assert getattr(composed(name).methods[method], attribute) == expected


@pytest.mark.parametrize(
    ("name", "optimizer", "decay"),
    [
        ("cirkd-skd", "adam", False),
        ("cirkd-ifvd", "adam", False),
        ("cirkd-cwd", "adam", False),
        ("ifvd-original", "adam", True),
        ("skd-original", "sgd", True),
    ],
)
def test_critics(name, optimizer, decay):
    (critic,) = composed(name).critics().values()
    assert (critic.optimizer, critic.decay, critic.lr) == (optimizer, decay, 4e-4)


def test_fitnet_adapts_by_a_bare_convolution():
    adapter = composed("fitnet").methods["naive"].get_submodule("adapter")
    assert {key: tuple(x.shape) for key, x in adapter.state_dict().items()} == {"0.weight": (8, 4, 1, 1)}


class TestTask:
    @pytest.mark.parametrize(("name", "aux"), [("label-assisted", 0.02), ("kt", 0.4), ("skd-original", 0.4)])
    def test_aux_weight(self, name, aux):
        assert resolve({}, layers=[preset(name)]).task.aux_weight == aux

    def test_pixel_pair_divides_by_the_batch_on_its_own_networks(self):
        config = resolve({}, layers=[preset("pixel-pair")])
        assert config.task.divide_by_batch and config.train.batch == 6
        assert (config.model.output_stride, config.model.teacher_stride) == (16, 16)
        assert models.expand(config.model.student, config.model.arch) == "deeplabv3plus-r18"

    def test_assisted_teacher_is_shown_the_label(self):
        config = resolve({}, layers=[preset("label-assist-teacher")])
        assert config.model.hint and config.model.dropout == 0.01 and config.task.dual_path
        assert (config.task.consistency, config.task.hint_noise, config.task.aux_weight) == (5.0, 0.03, 0.4)
        assert not resolve({}, layers=[preset("label-assisted")]).model.hint


def test_cwd_of_cirkd_is_twice_the_papers():
    """CIRKD divides by the student's 4 channels, the paper by the teacher's 8; the same otherwise."""
    cirkd, plain = composed("cirkd-cwd").methods["cwd"], compose("cwd", composed("cirkd-cwd").sizes).methods["cwd"]
    batch = Batch(torch.zeros(0), torch.zeros(2, 8, 8, dtype=torch.long))
    values = [method(output(0), output(1), batch) for method in (cirkd, plain)]
    assert values[0]["feature"].item() == pytest.approx(2 * values[1]["feature"].item(), rel=1e-6)
    assert values[0]["logits"].item() == values[1]["logits"].item()


def test_unknown_division():
    with pytest.raises(UsageError, match=r"cwd\.divide='pupil': accepted are teacher, student"):
        compose("cwd", composed("cirkd-cwd").sizes, {"cwd": {"divide": "pupil"}})


def test_unknown_preset():
    with pytest.raises(UsageError, match="did you mean 'cirkd-kd'"):
        preset("cirkd-kt0")
