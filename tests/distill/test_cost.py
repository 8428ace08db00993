"""Multiply-adds against the published tables, and by hand."""

import json
from pathlib import Path

import pytest
import torch

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


def test_all_products_are_counted() -> None:
    """Linear layers, attention and a transposed convolution, by hand; an embedding and a pooling multiply nothing."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.attention = (
                torch.nn.Conv2d(3, 8, 4, 4),
                torch.nn.MultiheadAttention(8, 2, batch_first=True),
            )
            self.position, self.back = torch.nn.Embedding(6, 8), torch.nn.ConvTranspose2d(8, 5, 4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.patch(x).flatten(2).mT + self.position(torch.arange(6, device=x.device))
            tokens = self.attention(tokens, tokens, tokens, need_weights=False)[0]
            return torch.nn.functional.adaptive_avg_pool2d(self.back(tokens.mT.reshape(1, 8, 2, 3)), 3)

    patch, attention, back = 6 * 8 * 48, 6 * 8 * 24 + 2 * 6 * 6 * 8 + 6 * 8 * 8, 6 * 8 * 5 * 16
    assert cost.macs(Net().train(), (8, 12)) == patch + attention + back
    assert cost.params(Net())[0] == (8 * 48 + 8) + (24 * 8 + 24 + 64 + 8) + 6 * 8 + (8 * 5 * 16 + 5)


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
