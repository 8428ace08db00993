"""Training that feels quantisation: what is rounded to what, where gradients pass, and what stays as it was."""

import copy

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from kdc.distill.errors import WeightsError
from kdc.distill.settings.config import Quantise
from kdc.distill.training.fake_quantise import NARROW, TOP, QuantisedConv2d, _eighth, fake_quantise

GRIDS = ("s8", "u8", "e4m3")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()


def conv(model: nn.Sequential, index: int = 0) -> nn.Conv2d:
    layer = model[index]
    assert isinstance(layer, nn.Conv2d)
    return layer


def rounding(grid: str, low: float, high: float, narrow: bool = False) -> QuantisedConv2d:
    model = network()
    fake_quantise(model, Quantise.model_validate({"grid": grid, "layers": [("0", low, high)], "narrow": narrow}))
    layer = conv(model)
    assert isinstance(layer, QuantisedConv2d) and type(model[3]) is nn.Conv2d
    return layer


def expected(values: np.ndarray, low: float, high: float, grid: str) -> np.ndarray:
    """Round in float64, by the definition of each grid."""
    if grid == "u8":
        step = (high - low) / 255
        zero = np.rint(-low / step)
        return (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step
    step = max(-low, high) / TOP[grid]
    inside = np.clip(values / step, -128 if grid == "s8" else -TOP[grid], TOP[grid])  # QuantizeLinear uses all of int8
    kept = np.rint(inside) if grid == "s8" else inside.astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
    return kept.astype(np.float64) * step


@pytest.mark.parametrize(("low", "high"), [(-2.1, 2.6), (0.0, 6.0), (-7.0, 12.5)])
@pytest.mark.parametrize("grid", GRIDS)
def test_activations_are_rounded_as_the_grid_is_defined(grid: str, low: float, high: float) -> None:
    layer = rounding(grid, low, high)
    x = torch.linspace(1.5 * min(low, -1.0), 1.5 * high, 4001, dtype=torch.float64)
    # away from the middle between two levels, where float32 and float64 may choose differently
    step = (high - low) / 255 if grid == "u8" else max(-low, high) / TOP[grid]
    clear = (x / step - torch.floor(x / step) - 0.5).abs() > 1e-3
    given = x[clear].float()
    made = layer.rounded_input(given).double().numpy()
    if grid == "e4m3":  # its steps are unequal: a neighbour at most
        wanted = expected(given.double().numpy(), low, high, grid)
        assert (np.abs(made - wanted) <= 2.0**-3 * np.maximum(np.abs(wanted), 2.0**-6 * step)).all()
        assert (np.isclose(made, wanted, rtol=1e-6)).mean() > 0.99
    else:
        np.testing.assert_allclose(made, expected(given.double().numpy(), low, high, grid), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("grid", GRIDS)
def test_weights_are_rounded_channel_by_channel(grid: str, narrow: bool) -> None:
    layer = rounding(grid, -1, 1, narrow)
    with torch.no_grad():
        layer.weight[3] *= 40
    top = TOP["e4m3"] if grid == "e4m3" else NARROW if narrow else TOP["s8"]
    for made, weight in zip(layer.rounded_weight(), layer.weight, strict=True):
        values = weight.detach().double().numpy()
        step = np.abs(values).max() / top
        levels = values / step
        if grid == "e4m3":
            kept = levels.astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
        else:
            kept = np.rint(levels)
        assert np.mean(np.isclose(made.detach().double().numpy(), kept * step, rtol=1e-5, atol=1e-9)) > 0.95


def test_rounding_before_or_after_the_batch_norm_is_folded_in_is_the_same() -> None:
    layer = rounding("s8", -1, 1)
    factor = torch.tensor([0.5, -2.0, 3.0, 0.01, -0.2, 1.0, 7.0, -1.0]).view(-1, 1, 1, 1)
    folded = copy.deepcopy(layer)
    with torch.no_grad():
        folded.weight.mul_(factor)
    torch.testing.assert_close(folded.rounded_weight(), layer.rounded_weight() * factor)


@pytest.mark.parametrize("grid", GRIDS)
def test_gradients_pass_within_the_range_alone(grid: str) -> None:
    layer = rounding(grid, -1.0, 2.0)
    bottom = -1.5 if grid == "u8" else -2.5  # a symmetric grid reaches as far below as above
    x = torch.tensor([bottom, -0.6, 0.3, 1.7, 2.5], requires_grad=True)
    layer.rounded_input(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 1, 0]
    layer.rounded_weight().sum().backward()
    assert layer.weight.grad is not None and (layer.weight.grad == 1).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_a_step_trains_plain_weights_in_any_precision(grid: str) -> None:
    model = network()
    keys = list(model.state_dict())
    fake_quantise(model, Quantise.model_validate({"grid": grid, "layers": [("0", -2.0, 2.0), ("3", 0.0, 3.0)]}))
    assert list(model.state_dict()) == keys
    before = conv(model).weight.detach().clone()
    tool = torch.optim.SGD(model.parameters(), 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        out = copy.deepcopy(model)(torch.randn(2, 3, 8, 8)), model(torch.randn(2, 3, 8, 8))
    out[1].float().square().mean().backward()
    tool.step()
    assert torch.isfinite(out[0]).all() and not torch.equal(before, conv(model).weight)
    plain = network()
    plain.load_state_dict(model.state_dict())
    x = torch.rand(1, 3, 8, 8)
    difference = (plain(x) - model(x)).abs().max()
    assert 0 < difference < 0.2
    layer = conv(model)
    with torch.autocast("cpu", torch.bfloat16):
        levels = layer(x)
    assert torch.equal(levels, layer(x)), "the levels must not be rounded again"


def test_what_lies_far_outside_stays_finite() -> None:
    x = torch.tensor([1e8, -1e30, float("inf"), 0.5], requires_grad=True)
    out = _eighth(x, torch.tensor(1.7 / 448))
    assert torch.allclose(out[:3], torch.tensor([1.7, -1.7, 1.7])) and abs(out[3].item() - 0.5) < 0.05
    out.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("name", ["1", "0.weight", "backbone.conv"])
def test_another_network_s_layers_are_refused(name: str) -> None:
    with pytest.raises(WeightsError, match=rf"quantise.layers: {name} is no convolution.*--qat"):
        fake_quantise(network(), Quantise(grid="s8", layers=[(name, 0.0, 1.0)]))
