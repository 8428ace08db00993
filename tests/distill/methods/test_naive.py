"""Raw features and their magnitudes against NumPy, and the identity between the two."""

import numpy as np
import pytest
import torch

from kdc.distill.batch import Batch
from kdc.distill.errors import UsageError
from kdc.distill.methods import Sizes, compose
from kdc.distill.methods.md import norms
from kdc.distill.output import Output, Tap

BATCH = Batch(torch.zeros(0), torch.zeros(1, 8, 8, dtype=torch.long))
SHAPES = [(1, 4, 1, 1), (2, 5, 3, 7), (3, 2, 9, 5), (1, 182, 5, 5)]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def build(method, c_s, c_t, at="bb", **settings):
    taps = ({"logits": Tap(5, 8), at: Tap(c, 8)} for c in (c_s, c_t))
    return compose(method, Sizes(5, *taps, iters=40, seed=0), {method: {"at": at, **settings}}).double()


def value(composite, s, t, at="bb"):
    logits = torch.zeros(len(s), 5, 1, 1)
    (result,) = composite.losses(Output(logits, None, {at: s}), Output(logits, None, {at: t}), BATCH).values()
    return result


def gradient(result, x):
    return torch.autograd.grad(result, x, retain_graph=True)[0]


def m_n_cos(s, t):
    """Return each image's norms, teacher first, and cosine, in NumPy."""
    s, t = (x.detach().numpy().reshape(len(x), -1) for x in (s, t))
    m, n = np.linalg.norm(t, axis=1), np.linalg.norm(s, axis=1)
    return m, n, (s * t).sum(1) / (m * n)


@pytest.mark.parametrize("shape", SHAPES)
class TestAgainstNumpy:
    def test_naive(self, shape):
        s, t = draw(*shape).requires_grad_(), draw(*shape, seed=1)
        result = value(build("naive", shape[1], shape[1]), s, t)
        assert result.item() == pytest.approx(((t - s.detach()).numpy() ** 2).mean(), rel=1e-12)
        torch.testing.assert_close(gradient(result, s), 2 * (s - t) / s.numel(), rtol=1e-10, atol=0)

    def test_md(self, shape):
        s, t = draw(*shape).requires_grad_(), draw(*shape, seed=1)
        result = value(build("md", shape[1], shape[1]), s, t)
        m, n, _ = m_n_cos(s, t)
        assert result.item() == pytest.approx(((m - n) ** 2).mean() / s[0].numel(), rel=1e-10)
        share = torch.from_numpy(2 * (n - m) / n / s.numel()).view(-1, 1, 1, 1)
        torch.testing.assert_close(gradient(result, s), share * s, rtol=1e-8, atol=1e-18)

    def test_naive_is_md_and_the_angle(self, shape):
        """Equation 3: naive = md + 2 m n (1 - cos) / (C N), for each image and so for their mean."""
        s, t = draw(*shape), draw(*shape, seed=1)
        naive, md = (build(name, shape[1], shape[1]) for name in ("naive", "md"))
        m, n, cos = m_n_cos(s, t)
        angle = 2 * m * n * (1 - cos) / s[0].numel()
        for b in range(len(s)):
            expected = value(md, s[b : b + 1], t[b : b + 1]).item() + angle[b]
            assert value(naive, s[b : b + 1], t[b : b + 1]).item() == pytest.approx(expected, rel=1e-12)
        assert value(naive, s, t).item() == pytest.approx(value(md, s, t).item() + angle.mean(), rel=1e-12)


@pytest.mark.parametrize("method", ["naive", "md"])
class TestAdapter:
    def literal(self, x, adapter):
        """Apply 1x1 convolution, BN of the batch and ReLU, written out."""
        y = torch.einsum("oc,bchw->bohw", adapter[0].weight[:, :, 0, 0], x)
        if len(adapter) > 1:
            mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), correction=0, keepdim=True)
            scale, shift = (x.view(1, -1, 1, 1) for x in (adapter[1].weight, adapter[1].bias))
            y = ((y - mean) / (var + 1e-5).sqrt() * scale + shift).relu()
        return y

    @pytest.mark.parametrize("kind", ["conv", "conv-bn-relu"])
    def test_where_channels_differ(self, method, kind):
        s, t = draw(2, 4, 3, 5).requires_grad_(), draw(2, 7, 3, 5, seed=1)
        composite = build(method, 4, 7, adapter=kind)
        result = value(composite, s, t)
        adapted = self.literal(s, composite.methods[method].get_submodule("adapter"))
        if method == "naive":
            expected = (adapted - t).square().mean()
        else:
            norm_s, norm_t = (torch.linalg.vector_norm(x, dim=(1, 2, 3)) for x in (adapted, t))
            expected = (norm_s - norm_t).square().mean() / t[0].numel()
        assert result.item() == pytest.approx(expected.item(), rel=1e-10)
        for x in (s, *composite.joint_parameters()):
            torch.testing.assert_close(gradient(result, x), gradient(expected, x), rtol=1e-8, atol=1e-14)

    def test_everywhere_on_request(self, method):
        assert build(method, 4, 4).methods[method].adapter is None
        adapter = build(method, 4, 4, adapter="conv", always=True).methods[method].get_submodule("adapter")
        assert list(adapter.state_dict()) == ["0.weight"]

    def test_unknown_kind(self, method):
        with pytest.raises(UsageError, match=f"{method}.adapter='linear': accepted are conv, conv-bn-relu"):
            build(method, 4, 4, adapter="linear")

    def test_is_behind_what_is_compared(self, method):
        s, t = draw(2, 4, 3, 5), draw(2, 7, 3, 5, seed=1)
        composite = build(method, 4, 7, adapter="conv")
        adapted = self.literal(s, composite.methods[method].get_submodule("adapter"))
        m, n, _ = m_n_cos(adapted, t)
        outputs = [Output(torch.zeros(2, 5, 1, 1), None, {"bb": x}) for x in (s, t)]
        found = composite.magnitudes(*outputs)[method]
        assert found == pytest.approx({"m": m.mean(), "n": n.mean(), "mn/N": (m * n).mean() / t[0].numel()})


@pytest.mark.parametrize("method", ["naive", "md"])
@pytest.mark.parametrize("at", ["bb", "bb3", "dec", "dec_pre", "aspp_pre", "aux"])
def test_any_tap(method, at):
    s, t = draw(2, 5, 3, 5).requires_grad_(), draw(2, 5, 3, 5, seed=1)
    composite = build(method, 5, 5, at)
    student, teacher = (Output(x, x if at == "aux" else None, {} if at == "aux" else {at: x}) for x in (s, t))
    (result,) = composite.losses(student, teacher, BATCH).values()
    assert composite.taps == (at,) and gradient(result, s).any()
    assert result.item() == pytest.approx(value(build(method, 5, 5), s, t).item(), rel=1e-14)


@pytest.mark.parametrize("method", ["naive", "md"])
def test_equal_features_give_nothing(method):
    s = draw(2, 5, 3, 5).requires_grad_()
    result = value(build(method, 5, 5), s, s.detach())
    assert result == 0 and not gradient(result, s).any()


@pytest.mark.parametrize(("method", "weight"), [("naive", 1000.0), ("md", 1000.0)])
def test_weight(method, weight):
    assert build(method, 5, 5).weight(next(iter(build(method, 5, 5).terms)), 0) == weight


def test_zero_image_gets_no_gradient():
    s, t = draw(2, 5, 3, 5), draw(2, 5, 3, 5, seed=1)
    s[0] = 0
    s.requires_grad_()
    result = value(build("md", 5, 5), s, t)
    assert result.isfinite() and not gradient(result, s)[0].any() and gradient(result, s)[1].any()


def test_norms_of_large_float32_features():
    x = draw(1, 64, 128, 256, dtype=torch.float32)
    assert norms(x).item() == pytest.approx(x.double().square().sum().sqrt().item(), rel=5e-7)
    assert torch.autograd.gradcheck(norms, draw(2, 3, 2, 3).requires_grad_())
