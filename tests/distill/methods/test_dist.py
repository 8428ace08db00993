"""DIST against NumPy's own correlation coefficients."""

import numpy as np
import pytest
import torch

from kdc.distill.batch import Batch
from kdc.distill.errors import UsageError
from kdc.distill.methods import Sizes, compose
from kdc.distill.methods.dist import decorrelation
from kdc.distill.output import Output, Tap

SHAPES = [(1, 2, 1, 2), (2, 5, 4, 6), (3, 19, 3, 5), (2, 182, 3, 3)]


def draw(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(step=0):
    return Batch(torch.zeros(0), torch.zeros(1, 8, 8, dtype=torch.long), step)


def build(classes=5, aux=(True, True), **settings):
    taps = ({"logits": Tap(classes, 8)} | ({"aux": Tap(classes, 8)} if there else {}) for there in aux)
    return compose("dist", Sizes(classes, *taps, iters=40, seed=0), {"dist": settings})


def numpy_parts(s, t, tau=1.0):
    """Return inter and intra from NumPy's correlation coefficients; the published 1e-8 is put beside the norms."""

    def rows(x):
        x = np.moveaxis(x.detach().numpy(), 1, -1).reshape(-1, x.shape[1]) / tau
        p = np.exp(x - x.max(1, keepdims=True))
        return p / p.sum(1, keepdims=True)

    def mean_correlation(a, b):
        found = []
        for x, y in zip(a, b, strict=True):
            norms = np.linalg.norm(x - x.mean()) * np.linalg.norm(y - y.mean())
            found.append(np.corrcoef(x, y)[0, 1] * norms / (norms + 1e-8))
        return np.mean(found)

    p, q = rows(s), rows(t)
    return 1 - mean_correlation(p, q), 1 - mean_correlation(p.T, q.T)


def literal(s, t, beta=1.0, gamma=1.0, tau=1.0):
    def pearson(a, b):
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)

    p, q = (torch.softmax(x / tau, 1).movedim(1, -1).flatten(0, 2) for x in (s, t))
    inter, intra = 1 - pearson(p, q).mean(), 1 - pearson(p.T, q.T).mean()
    return tau**2 * (beta * inter + gamma * intra)


def gradient(result, x):
    return torch.autograd.grad(result, x, retain_graph=True)[0]


@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient(shape, tau):
    s, t = draw(*shape).requires_grad_(), draw(*shape, seed=1)
    student, teacher = Output(s), Output(t)
    result = build(shape[1], (False, False), tau=tau).losses(student, teacher, batch())["dist.dist"]
    assert result.item() == pytest.approx(tau**2 * sum(numpy_parts(s, t, tau)), rel=1e-10)
    wanted = gradient(literal(s, t, tau=tau), s)
    torch.testing.assert_close(gradient(result, s), wanted, rtol=1e-8, atol=1e-8 * wanted.abs().max().item())


@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 0.0), (0.0, 1.0), (2.0, 0.5)])
def test_parts_have_their_weights(beta, gamma):
    s, t = draw(2, 5, 4, 6).requires_grad_(), draw(2, 5, 4, 6, seed=1)
    inter, intra = numpy_parts(s, t)
    result = build(aux=(False, False), beta=beta, gamma=gamma).losses(Output(s), Output(t), batch())["dist.dist"]
    assert result.item() == pytest.approx(beta * inter + gamma * intra, rel=1e-10)
    torch.testing.assert_close(gradient(result, s), gradient(literal(s, t, beta, gamma), s), rtol=1e-8, atol=1e-14)


def test_gradient_by_differences():
    t = draw(2, 3, 2, 3, seed=1)
    assert torch.autograd.gradcheck(
        lambda x: decorrelation(x, t, 1.5, 0.7, 2.0), draw(2, 3, 2, 3, scale=1.0).requires_grad_()
    )


@pytest.mark.parametrize("aux", [(True, True), (True, False), (False, True), (False, False)])
def test_aux_where_both_have_it(aux):
    s, t, s_aux, t_aux = (draw(2, 5, 3, 4, seed=i) for i in range(4))
    composite = build(aux=aux)
    student, teacher = (Output(x, y if there else None) for x, y, there in zip((s, t), (s_aux, t_aux), aux))
    expected = literal(s, t) + (0.4 * literal(s_aux, t_aux) if all(aux) else 0)
    assert composite.losses(student, teacher, batch())["dist.dist"].item() == pytest.approx(expected.item(), rel=1e-10)
    assert composite.taps == (("logits", "aux") if all(aux) else ("logits",))


def test_aux_can_be_left_out():
    assert build(aux_weight=0.0).taps == ("logits",)


def test_temperature_follows_its_schedule():
    composite, (s, t) = build(aux=(False, False), tau="linear(4,1,10)"), (draw(1, 5, 3, 3), draw(1, 5, 3, 3, seed=1))
    for step, tau in ((0, 4.0), (10, 1.0)):
        value = composite.losses(Output(s), Output(t), batch(step))["dist.dist"]
        assert value.item() == pytest.approx(literal(s, t, tau=tau).item(), rel=1e-10)
    with pytest.raises(UsageError, match="above 0"):
        build(tau=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extremes_stay_finite(dtype):
    """Certain, equal and constant scores: a class may have the same probability, even 0, at every position."""
    for scale, shape in ((1e4, (1, 5, 3, 3)), (0.0, (2, 5, 3, 3)), (1.0, (1, 5, 1, 1))):
        s, t = draw(*shape, scale=scale).to(dtype).requires_grad_(), draw(*shape, seed=1).to(dtype)
        result = decorrelation(s, t)
        assert result.dtype == torch.float32 and result.isfinite() and gradient(result, s).isfinite().all()


def test_equal_logits_give_nothing():
    s = draw(2, 5, 4, 6).requires_grad_()
    result = decorrelation(s, s.detach())
    assert result.item() == pytest.approx(0, abs=1e-7) and gradient(result, s).abs().max() < 1e-7


def test_float32_is_as_good_as_its_inputs():
    s, t = draw(2, 19, 32, 64).requires_grad_(), draw(2, 19, 32, 64, seed=1)
    rough = s.detach().float().requires_grad_()
    result = decorrelation(rough, t.float())
    assert result.item() == pytest.approx(literal(s, t).item(), rel=2e-6)
    wanted = gradient(literal(s, t), s)
    torch.testing.assert_close(
        gradient(result, rough).double(), wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item()
    )


def test_one_gradient_is_kept():
    s, kept = draw(2, 5, 4, 6).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        decorrelation(s, draw(2, 5, 4, 6, seed=1))
    assert kept == [s.numel()]
