"""Masked generation against its formula written out, the mask's draw, and the cost that is said before."""

import numpy as np
import pytest
import torch

from kdc.distill.batch import Batch
from kdc.distill.errors import UsageError
from kdc.distill.methods import Composite, Sizes, compose
from kdc.distill.methods.mgd import Mgd
from kdc.distill.output import Output, Tap


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(step=0, part=0):
    return Batch(torch.zeros(0), torch.zeros(1, 8, 8, dtype=torch.long), step, part)


def build(c_s, c_t, at="bb", seed=0, **settings):
    taps = ({"logits": Tap(5, 8), at: Tap(c, 8)} for c in (c_s, c_t))
    return compose("mgd", Sizes(5, *taps, iters=40, seed=seed), {"mgd": {"at": at, **settings}}).double()


def mgd_of(composite: Composite) -> Mgd:
    (method,) = composite.methods.values()
    assert isinstance(method, Mgd)
    return method


def value(composite, s, t, given=None, at="bb"):
    logits = torch.zeros(len(s), 5, 1, 1)
    outputs = [Output(logits, None, {at: x}) for x in (s, t)]
    return composite.losses(*outputs, given or batch())["mgd.mgd"]


def convolve(x, weight, bias):
    """Slide a 3x3 window over ``(B, C, H, W)`` with zeros around it, in NumPy."""
    height, width = x.shape[2:]
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    shifted = [[x[:, :, i : i + height, j : j + width] for j in range(3)] for i in range(3)]
    return np.einsum("ijbchw,ocij->bohw", np.array(shifted), weight) + bias[:, None, None]


def numpy_mgd(method, s, t, keep):
    s, t, keep = (x.detach().numpy() for x in (s, t, keep))
    weights = {name: p.detach().numpy() for name, p in method.named_parameters()}
    if "align.weight" in weights:
        s = np.einsum("oc,bchw->bohw", weights["align.weight"][:, :, 0, 0], s) + weights["align.bias"][:, None, None]
    first, second = ((weights[f"generator.{i}.0.weight"], weights[f"generator.{i}.0.bias"]) for i in (0, 2))
    made = convolve(np.maximum(convolve(s * keep, *first), 0), *second)
    return ((made - t) ** 2).sum() / len(s)


@pytest.mark.parametrize("mask", [0.0, 0.5, 0.75])
@pytest.mark.parametrize(("c_s", "c_t", "shape"), [(3, 7, (2, 4, 6)), (4, 4, (1, 5, 3)), (9, 4, (2, 1, 1))])
def test_value_and_gradient(c_s, c_t, shape, mask):
    images, height, width = shape
    s, t = draw(images, c_s, height, width).requires_grad_(), draw(images, c_t, height, width, seed=1)
    composite = build(c_s, c_t, mask=mask)
    method = mgd_of(composite)
    keep = (method.drawn(batch(), s) <= 1 - mask).double()
    result = value(composite, s, t)
    assert result.item() == pytest.approx(numpy_mgd(method, s, t, keep), rel=1e-10)

    first, second = (method.generator.get_submodule(f"{i}.0") for i in (0, 2))
    x = s if method.align is None else method.align(s)
    expected = (second(first(keep * x).relu()) - t).square().sum() / images
    for p in (s, *composite.joint_parameters()):
        got, wanted = (torch.autograd.grad(v, p, retain_graph=True)[0] for v in (result, expected))
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("at", ["bb", "bb3", "dec", "dec_pre", "aspp_pre"])
def test_any_tap(at):
    s, t = draw(2, 3, 4, 6), draw(2, 7, 4, 6, seed=1)
    composite = build(3, 7, at)
    assert composite.taps == (at,)
    assert value(composite, s, t, at=at).item() == value(build(3, 7), s, t).item()


def test_no_align_for_equal_channels():
    assert [name.partition(".")[0] for name in mgd_of(build(4, 4)).state_dict()] == ["generator"] * 4


class TestMask:
    def test_share_and_shape(self):
        u = mgd_of(build(3, 7)).drawn(batch(), torch.zeros(4, 7, 64, 128))
        assert u.shape == (4, 1, 64, 128)
        assert (u > 0.25).double().mean().item() == pytest.approx(0.75, abs=0.01)

    def test_each_step_and_part_has_its_own(self):
        x = torch.zeros(2, 7, 8, 8)
        drawn = [
            mgd_of(build(3, 7, seed=seed)).drawn(batch(step, part), x)
            for seed, step, part in ((0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0))
        ]
        assert all(not torch.equal(drawn[0], other) for other in drawn[1:])
        assert torch.equal(drawn[0], mgd_of(build(3, 7)).drawn(batch(), x))

    def test_dropped_positions_send_no_gradient(self):
        s, t = draw(2, 4, 6, 8).requires_grad_(), draw(2, 4, 6, 8, seed=1)
        composite = build(4, 4)
        keep = (mgd_of(composite).drawn(batch(3), s) <= 0.25).expand_as(s)
        value(composite, s, t, batch(3)).backward()
        assert s.grad is not None and not s.grad[~keep].any() and s.grad[keep].all()

    @pytest.mark.parametrize("mask", [-0.1, 1, 1.5])
    def test_share_is_checked(self, mask):
        with pytest.raises(UsageError, match="at least 0"):
            build(3, 7, mask=mask)


class TestCost:
    def notes(self, at, width):
        taps = {"logits": Tap(5, 8), at: Tap(width, 8)}
        with torch.device("meta"):
            method = Mgd(Sizes(5, taps, taps, 40, 0), at=at)
        return " ".join(method.notes())

    def test_is_said(self):
        said = self.notes("bb", 2048)
        assert "75,501,568 parameters and 618 GMACs" in said and said.endswith("at=dec is the cheap tap")

    def test_cheap_tap(self):
        said = self.notes("dec", 256)
        assert "9.66 GMACs" in said and "cheap" not in said
