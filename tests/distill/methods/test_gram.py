"""The gap between two cosine graphs against the N x N matrices it never holds."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdc.distill.losses import unit
from kdc.distill.methods import _gram
from kdc.distill.methods._gram import full_float32, gram_gap, gram_rows

#: images, student's and teacher's channels, positions: few positions, about as many as channels, many, one
SHAPES = [(2, 4, 6, 7), (1, 3, 5, 8), (2, 4, 6, 11), (3, 2, 9, 60), (1, 5, 5, 1), (2, 1, 1, 9)]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(B, c_s, c_t, N):
    return draw(B, c_s, N), draw(B, c_t, N, seed=1)


def alike(channels=32, positions=300, noise=0.05):
    """Return a teacher whose positions are all rather alike, as real features are, and a student close to it."""
    teacher = draw(2, channels, positions, seed=1) + 1
    return unit(teacher + noise * draw(2, channels, positions, seed=2), 1), unit(teacher, 1)


def squared_gap(s, t):
    return (s.mT @ s - t.mT @ t).square()


def gradient(value, x):
    return torch.autograd.grad(value, x, retain_graph=True)[0]


@pytest.fixture(params=["whole", "position by position"])
def slices(request, monkeypatch):
    if request.param != "whole":
        monkeypatch.setattr(_gram, "_CPU_SLICE", 1)


@pytest.mark.usefixtures("slices")
@pytest.mark.parametrize("shape", SHAPES)
class TestExact:
    def test_gap(self, shape):
        s, t = features(*shape)
        s.requires_grad_()
        mine = gram_gap(s, t)
        graphs = [np.einsum("bcn,bcm->bnm", x.detach().numpy(), x.detach().numpy()) for x in (s, t)]
        np.testing.assert_allclose(mine.detach(), ((graphs[0] - graphs[1]) ** 2).sum((1, 2)), rtol=1e-11)
        weight = torch.arange(1.0, 1 + shape[0]).double()
        expected = (squared_gap(s, t).sum((1, 2)) * weight).sum()
        torch.testing.assert_close(gradient((mine * weight).sum(), s), gradient(expected, s), rtol=1e-9, atol=1e-10)

    def test_rows(self, shape):
        s, t = features(*shape)
        s.requires_grad_()
        mine = gram_rows(s, t)
        graphs = [np.einsum("bcn,bcm->bnm", x.detach().numpy(), x.detach().numpy()) for x in (s, t)]
        np.testing.assert_allclose(mine.detach(), ((graphs[0] - graphs[1]) ** 2).sum(2), rtol=1e-11, atol=1e-12)
        weight = draw(shape[0], shape[3], seed=3)
        expected = (squared_gap(s, t).sum(2) * weight).sum()
        torch.testing.assert_close(gradient((mine * weight).sum(), s), gradient(expected, s), rtol=1e-9, atol=1e-10)


def test_gradients_by_differences():
    for shape in ((1, 2, 3, 4), (1, 2, 3, 7)):
        s, t = features(*shape)
        s.requires_grad_()
        assert torch.autograd.gradcheck(lambda x, t=t: gram_gap(x, t), s)
        assert torch.autograd.gradcheck(lambda x, t=t: gram_rows(x, t).clamp_min(1e-12).sqrt(), s)


@pytest.mark.parametrize("positions", [50, 300])
def test_float32_of_graphs_alike(positions):
    """Large numbers cancel: what is left is 1e-5 of them, and must still be right to 1e-5."""
    s, t = (x.float() for x in alike(positions=positions))
    exact, s = s.double().requires_grad_(), s.requires_grad_()
    for mine, expected in (
        (gram_gap(s, t).sum(), squared_gap(exact, t.double()).sum()),
        (gram_rows(s, t).sqrt().sum(), squared_gap(exact, t.double()).sum(2).sqrt().sum()),
    ):
        assert mine.dtype == torch.float32 and mine.item() == pytest.approx(expected.item(), rel=2e-6)
        got, wanted = gradient(mine, s).double(), gradient(expected, exact)
        assert (got - wanted).norm() < 2e-5 * wanted.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("positions", [50, 300])
def test_equal_graphs(positions, dtype):
    _, t = alike(positions=positions)
    s = t.to(dtype).requires_grad_()
    gap, rows = gram_gap(s, t.to(dtype)), gram_rows(s, t.to(dtype))
    assert gap.max() / positions**2 < 1e-12 and rows.max() / positions < 1e-12
    assert gradient(gap.sum(), s).abs().max() < 1e-6
    assert gradient(rows.clamp_min(1e-24).sqrt().sum(), s).isfinite().all()


def test_half_precision_is_raised():
    s, t = (x.bfloat16() for x in features(2, 4, 6, 30))
    s.requires_grad_()
    for form in (gram_gap, gram_rows):
        value = form(s, t)
        assert value.dtype == torch.float32 and torch.equal(value, form(s.float(), t.float()))
        assert gradient(value.sum(), s).dtype == torch.bfloat16


def test_the_teacher_gets_no_gradient():
    s, t = features(2, 4, 6, 30)
    s.requires_grad_()
    t.requires_grad_()
    (gram_gap(s, t).sum() + gram_rows(s, t).sum()).backward()
    assert t.grad is None and s.grad is not None


class Watch(TorchDispatchMode):
    """Remember the most numbers that any operation put out."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.most = max([self.most, *sizes])
        return out


@pytest.mark.parametrize("channels", [8, 600])
@pytest.mark.parametrize("form", [gram_gap, gram_rows])
def test_no_map_of_positions_by_positions(form, channels, monkeypatch):
    """Neither with many positions for the channels nor with few."""
    N = 1100
    monkeypatch.setattr(_gram, "_CPU_SLICE", 2**16)
    s, t = (unit(x, 1).float() for x in features(1, channels, channels, N))
    s.requires_grad_()
    with Watch() as watch:
        form(s, t).sum().backward()
    assert watch.most <= max(2**16, channels * N, channels**2) < N * N


def test_tf32_is_off_inside_and_comes_back():
    flags = torch.backends.cuda.matmul
    before = flags.fp32_precision
    try:
        flags.fp32_precision = "tf32"
        with full_float32():
            assert flags.fp32_precision == "ieee"
        assert flags.fp32_precision == "tf32"
    finally:
        flags.fp32_precision = before
