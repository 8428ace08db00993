"""The row-wise KL of similarities: parts of a batch, what is held at a time, and float32 products."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kdc.distill.losses import unit
from kdc.distill.methods import _cross_image as cross
from kdc.distill.methods._cross_image import memory_kl, mini_batch_kl


def draw(*shape, seed=0):
    """Return unit features ``(B, C, N)``."""
    return unit(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), 1)


def test_rows_of_some_images():
    """The parts of a batch average to the whole, in value and gradient."""
    s, t = draw(3, 4, 7).requires_grad_(), draw(3, 6, 7, seed=1)
    whole = mini_batch_kl(s, t, 0.1)
    parts = 2 / 3 * mini_batch_kl(s, t, 0.1, range(2)) + 1 / 3 * mini_batch_kl(s, t, 0.1, range(2, 3))
    assert parts.item() == pytest.approx(whole.item(), rel=1e-12)
    got, wanted = (torch.autograd.grad(x, s)[0] for x in (parts, whole))
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-15)


def test_upstream_gradient_is_multiplied():
    s, t = draw(2, 4, 7).requires_grad_(), draw(2, 6, 7, seed=1)
    once, thrice = (torch.autograd.grad(w * mini_batch_kl(s, t, 0.1), s)[0] for w in (1, 3))
    torch.testing.assert_close(thrice, 3 * once)


class Largest(TorchDispatchMode):
    """Note the most elements that any result had."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            self.elements = max(self.elements, x.numel() if isinstance(x, torch.Tensor) else 0)
        return result


def test_no_map_of_all_positions_is_held():
    N = 2048
    s, t = draw(1, 3, N).float().requires_grad_(), draw(1, 3, N, seed=1).float()
    keys, weight = draw(N, 3, seed=2).float(), torch.ones(1, N)
    for term in (lambda: mini_batch_kl(s, t, 0.1), lambda: memory_kl(s, t, keys, 0.1, 1.0, weight)):
        with Largest() as seen:
            term().backward()
        assert N < seen.elements <= 2**20 < N * N


def test_products_are_exact_inside_and_as_before_outside(monkeypatch):
    seen, real = [], cross.slice_kl

    def looking(*args):
        seen.append(torch.backends.cuda.matmul.fp32_precision)
        return real(*args)

    monkeypatch.setattr(cross, "slice_kl", looking)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        mini_batch_kl(draw(1, 3, 5), draw(1, 3, 5, seed=1), 0.1)
        assert seen and "tf32" not in seen and torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)
