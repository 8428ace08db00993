"""The shared kernels against independent forms, in float64."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kdc.distill import losses
from kdc.distill.losses import channel_kl, labels_at, pixel_kl, raised, softmax_kl, task_loss, unit, upsample
from kdc.distill.output import Output


def draw(*shape, seed=0, dtype=torch.float64, scale=2.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale).to(dtype)


def gradient(value, x):
    return torch.autograd.grad(value, x, retain_graph=True)[0]


def labels_of(*shape, classes=5, seed=3, ignored=0.2):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, shape)
    labels[rng.random(shape) < ignored] = 255
    return torch.from_numpy(labels)


def numpy_kl(s, t, axis, T):
    def log_softmax(x):
        x = x / T - (x / T).max(axis, keepdims=True)
        return x - np.log(np.exp(x).sum(axis, keepdims=True))

    log_s, log_t = log_softmax(s.numpy()), log_softmax(t.numpy())
    return (np.exp(log_t) * (log_t - log_s)).sum()


class TestSoftmaxKl:
    @pytest.mark.parametrize("T", [1.0, 4.0])
    def test_values_equal_numpy(self, T):
        s, t = draw(2, 5, 4, 6), draw(2, 5, 4, 6, seed=1)
        np.testing.assert_allclose(pixel_kl(s, t, T), T * T / 48 * numpy_kl(s, t, 1, T), rtol=1e-12)
        expected = T * T / 10 * numpy_kl(s.flatten(2), t.flatten(2), 2, T)
        np.testing.assert_allclose(channel_kl(s, t, T), expected, rtol=1e-12)

    def test_gradients_by_differences(self):
        s, t = draw(2, 3, 2, 3).requires_grad_(), draw(2, 3, 2, 3, seed=1)
        weight = torch.tensor([0.0, 1.0, 0.5, 1.0, 2.0, 0.0]).double().view(2, 1, 1, 3)
        assert torch.autograd.gradcheck(lambda x: pixel_kl(x, t, 2.0), s)
        assert torch.autograd.gradcheck(lambda x: channel_kl(x, t, 4.0), s)
        assert torch.autograd.gradcheck(lambda x: softmax_kl(x, t, 1, 3.0, 0.7, weight, cross=True), s)

    def test_equal_inputs_give_nothing(self):
        s = draw(2, 5, 4, 6).requires_grad_()
        value = channel_kl(s, s.detach())
        assert value == 0 and not gradient(value, s).any()

    def test_extreme_logits_stay_finite(self):
        s = (draw(1, 3, 4, 4, dtype=torch.float32) * 1e4).requires_grad_()
        for kl in (pixel_kl, channel_kl):
            value = kl(s, -s.detach())
            assert value.isfinite() and gradient(value, s).isfinite().all()

    def test_slices_do_not_matter(self, monkeypatch):
        s, t = draw(3, 5, 4, 6).requires_grad_(), draw(3, 5, 4, 6, seed=1)
        whole = channel_kl(s, t)
        for limit in (1, 50, 100):
            monkeypatch.setattr(losses, "_CPU_SLICE", limit)
            sliced = channel_kl(s, t)
            assert sliced.item() == pytest.approx(whole.item(), rel=1e-14)
            assert torch.equal(gradient(sliced, s), gradient(whole, s))

    def test_strides_do_not_matter(self):
        s, t = draw(2, 5, 4, 6), draw(2, 5, 4, 6, seed=1)
        last_s, last_t = (x.contiguous(memory_format=torch.channels_last) for x in (s, t))
        assert channel_kl(last_s, last_t).item() == pytest.approx(channel_kl(s, t).item(), rel=1e-14)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_raised(self, dtype):
        s, t = draw(2, 5, 4, 6, dtype=dtype).requires_grad_(), draw(2, 5, 4, 6, seed=1, dtype=dtype)
        value = channel_kl(s, t)
        assert value.dtype == torch.float32 and gradient(value, s).dtype == dtype
        assert value.item() == channel_kl(s.detach().float(), t.float()).item()


class TestTaskLoss:
    def reference(self, logits, labels):
        full = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=True)
        return F.cross_entropy(full, labels, ignore_index=255)

    @pytest.mark.parametrize("size", [(9, 13), (4, 6), (3, 5)])
    def test_value_and_gradient(self, size):
        logits, aux, labels = draw(3, 5, 4, 6), draw(3, 5, 4, 6, seed=1), labels_of(3, *size)
        inputs = logits.requires_grad_(), aux.requires_grad_()
        values = task_loss(Output(logits, aux), labels, 0.4)
        mine, expected = (
            values["ce"] + values["aux"],
            self.reference(logits, labels) + 0.4 * self.reference(aux, labels),
        )
        assert mine.item() == pytest.approx(expected.item(), rel=1e-13)
        for x in inputs:
            torch.testing.assert_close(gradient(mine, x), gradient(expected, x), rtol=1e-11, atol=1e-15)

    def test_all_ignored_gives_zero(self):
        logits = draw(2, 5, 4, 6).requires_grad_()
        value = task_loss(Output(logits), torch.full((2, 9, 13), 255))["ce"]
        assert value == 0 and not gradient(value, logits).any()

    def test_divisor_of_the_global_batch(self):
        """Two halves, each divided by half the global count, average to the whole batch's loss."""
        logits, labels = draw(2, 5, 4, 6), labels_of(2, 9, 13)
        labels[0, :5] = 255
        share = (labels != 255).sum() / 2
        halves = [task_loss(Output(logits[i : i + 1]), labels[i : i + 1], valid=share)["ce"] for i in range(2)]
        assert ((halves[0] + halves[1]) / 2).item() == pytest.approx(self.reference(logits, labels).item(), rel=1e-6)

    def test_aux_is_left_out(self):
        logits, labels = draw(1, 5, 4, 6), labels_of(1, 9, 13)
        assert list(task_loss(Output(logits), labels, 0.4)) == ["ce"]
        assert list(task_loss(Output(logits, logits), labels, 0.0)) == ["ce"]


def test_upsample_aligns_corners():
    x = draw(1, 2, 3, 4)
    y = upsample(x, (7, 9))
    assert upsample(x, (3, 4)) is x
    torch.testing.assert_close(y[:, :, [0, 0, -1, -1], [0, -1, 0, -1]], x[:, :, [0, 0, -1, -1], [0, -1, 0, -1]])


def test_labels_at_takes_the_floor():
    labels = torch.arange(6 * 10).view(1, 6, 10)
    torch.testing.assert_close(labels_at(labels, (3, 4))[0], labels[0][[0, 2, 4]][:, [0, 2, 5, 7]])


def test_unit():
    x = draw(2, 3, 4, 5)
    x[0, :, 0, 0] = 0
    x.requires_grad_()
    y = unit(x, 1)
    norms = y.detach().norm(dim=1)
    assert norms[0, 0, 0] == 0 and gradient(y.sum(), x).isfinite().all()
    torch.testing.assert_close(norms.flatten()[1:], torch.ones(39).double())


def test_raised_keeps_float64():
    assert [
        raised(torch.ones(1, dtype=d)).dtype for d in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    ] == [
        torch.float32,
        torch.float32,
        torch.float32,
        torch.float64,
    ]
