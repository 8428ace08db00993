"""Multiply-adds against the published tables and torch's own counter."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kdc.distill import cost, models
from kdc.distill.errors import UsageError

PUBLISHED = json.loads((Path(__file__).parents[1] / "golden" / "index.json").read_text())["model_counts"]
NAMES = ["deeplabv3-r101", "deeplabv3-r18", "pspnet-r18", "deeplabv3-mv2", "pspnet-mv2", "pspnet-r101"]


@pytest.mark.parametrize("name", NAMES)
def test_macs_equal_the_published_and_the_true_numbers(name: str) -> None:
    golden = PUBLISHED[name.replace("-", "_").replace("mv2", "mbv2")]
    for size, classes in (((512, 1024), 19), ((512, 512), 21)):
        with torch.device("meta"):
            model = models.build(name, classes)
        for counter, key in (("true", "true"), ("cirkd", "official")):
            expected = golden.get(f"{key}_macs_g_{size[0]}x{size[1]}_{classes}")
            if expected is not None:
                assert round(cost.macs(model, size, counter=counter) / 1e9, 2) == expected


@pytest.mark.parametrize("backbone", ["r101", "r18", "mv2"])
def test_macs_of_deeplabv3plus(backbone: str) -> None:
    golden = PUBLISHED[f"deeplabv3plus_{backbone.replace('mv2', 'mbv2')}_os16"]
    with torch.device("meta"):
        model = models.build(f"deeplabv3plus-{backbone}", 21)
    assert round(cost.macs(model, (513, 513)) / 1e9, 2) == golden["true_macs_g_513x513"]


def test_a_hint_costs_a_fourth_channel_of_the_stem() -> None:
    with torch.device("meta"):
        three, four = (models.build("r18v1b", 5, in_channels=n) for n in (3, 4))
    assert cost.params(four)[0] - cost.params(three)[0] == 64 * 7 * 7
    assert cost.macs(four, (64, 96)) - cost.macs(three, (64, 96)) == 32 * 48 * 64 * 7 * 7


def test_macs_at_full_cityscapes_size() -> None:
    with torch.device("meta"):
        model = models.build("deeplabv3-r101", 19)
    assert round(cost.macs(model, (1024, 2048), counter="cirkd") / 1e9, 2) == 2371.66
    assert round(cost.macs(model, (1024, 2048)) / 1e9, 2) == 2063.35


@pytest.mark.parametrize("name", ["deeplabv3-r18", "pspnet-mv2"])
def test_macs_are_half_of_torchs_flops(name: str) -> None:
    with torch.device("meta"):
        model = models.build(name, 5).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, 64, 96))
    assert 2 * cost.macs(model, (64, 96)) == counter.get_total_flops()


def test_aux_head_is_counted_on_request_and_the_model_is_left_as_it_was() -> None:
    model = models.build("pspnet-r18", 5, seed=0).train()
    model.backbone.eval()
    modes = {name: m.training for name, m in model.named_modules()}
    state = {k: v.clone() for k, v in model.state_dict().items()}
    total, without = cost.macs(model, (64, 64)), cost.macs(model, (64, 64), aux=False)
    assert total - without == 8 * 8 * (256 * 64 * 9 + 64 * 5)
    assert without == cost.macs(models.build("pspnet-r18", 5, aux=False), (64, 64))
    assert modes == {name: m.training for name, m in model.named_modules()}
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    with pytest.raises(UsageError, match="no counter 'flops'; accepted are true, cirkd"):
        cost.macs(model, (64, 64), counter="flops")
