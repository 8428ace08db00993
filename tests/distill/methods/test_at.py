"""Attention transfer against NumPy, and what it keeps for the gradient."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kdc.distill.batch import Batch
from kdc.distill.methods import Sizes, compose
from kdc.distill.methods.at import attention, energy
from kdc.distill.output import Output, Tap

BATCH = Batch(torch.zeros(0), torch.zeros(1, 8, 8, dtype=torch.long))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(s, t, at="dec"):
    taps = ({"logits": Tap(5, 8), at: Tap(x.shape[1], 8)} for x in (s, t))
    composite = compose("at", Sizes(5, *taps, iters=40, seed=0), {"at": {"at": at}})
    assert composite.taps == (at,) and not composite.state_dict()
    student, teacher = (Output(x if at == "logits" else torch.zeros(1, 5, 1, 1), None, {at: x}) for x in (s, t))
    return composite.losses(student, teacher, BATCH)["at.att"]


def numpy_map(x):
    q = (x.detach().numpy() ** 2).mean(1).reshape(len(x), -1)
    return q / np.linalg.norm(q, axis=1, keepdims=True)


def literal(s, t):
    a_s, a_t = (F.normalize(x.pow(2).mean(1).flatten(1)) for x in (s, t))
    return (a_s - a_t).pow(2).mean()


@pytest.mark.parametrize("at", ["bb", "bb3", "dec", "dec_pre", "logits"])
@pytest.mark.parametrize("shape", [(1, 5, 1, 3), (2, 5, 4, 7), (3, 5, 9, 5)])
def test_value_and_gradient(at, shape):
    s, t = draw(*shape).requires_grad_(), draw(*shape, seed=1)
    result = value(s, t, at)
    assert result.item() == pytest.approx(((numpy_map(s) - numpy_map(t)) ** 2).mean(), rel=1e-10)
    got, wanted = (torch.autograd.grad(x, s)[0] for x in (result, literal(s, t)))
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-14)


def test_widths_may_differ():
    s, t = draw(2, 3, 4, 6).requires_grad_(), draw(2, 182, 4, 6, seed=1)
    result = value(s, t)
    assert result.item() == pytest.approx(literal(s, t).item(), rel=1e-10)


def test_other_sizes_meet_at_the_teachers():
    s, t = draw(2, 3, 3, 5), draw(2, 4, 6, 8, seed=1)
    larger = F.interpolate(s, (6, 8), mode="bilinear", align_corners=True)
    assert value(s, t).item() == pytest.approx(literal(larger, t).item(), rel=1e-10)


def test_equal_features_and_scaled_ones_give_nothing():
    s = draw(2, 3, 4, 6).requires_grad_()
    for factor in (1.0, 3.0):
        result = value(s, factor * s.detach())
        assert result.item() == pytest.approx(0, abs=1e-30)
        assert torch.autograd.grad(result, s)[0].abs().max() < 1e-15


def test_zero_feature_stays_finite():
    s = torch.zeros(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    result = value(s, draw(2, 3, 4, 6))
    assert result.item() == pytest.approx(1 / 24) and not torch.autograd.grad(result, s)[0].any()


def test_gradients_by_differences():
    assert torch.autograd.gradcheck(energy, draw(2, 3, 2, 3).requires_grad_())
    assert torch.autograd.gradcheck(attention, draw(2, 3, 2, 3).requires_grad_())


def test_nothing_but_the_feature_is_kept():
    s, kept = draw(2, 64, 8, 8).requires_grad_(), {}

    def keep(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        attention(s).sum()
    feature = kept.pop(s.untyped_storage().data_ptr())
    assert feature == s.numel() * 8 and max(kept.values()) <= feature / 64
