"""Intra-class feature variation against the published formula written out class by class."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdc.distill.batch import Batch
from kdc.distill.methods import Sizes, compose, ifvd
from kdc.distill.methods.ifvd import class_variation
from kdc.distill.output import Output, Tap


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels_of(*shape, classes=5, seed=0, ignored=0.2):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, shape)
    labels[rng.random(shape) < ignored] = 255
    return torch.from_numpy(labels)


def literal(student, teacher, labels, classes, exclude_ignore=False):
    """A map of centres, filled class by class with masks, and torch's cosine."""
    cosines = []
    for x in (student, teacher):
        centre = x.clone()
        for b in range(len(x)):
            for c in range(classes):
                mask = labels[b] == c
                mean = (x[b] * mask).sum((1, 2)) / (mask.sum() + 1e-6)
                centre[b] = torch.where(mask, mean[:, None, None], centre[b])
        cosines.append(torch.nn.functional.cosine_similarity(x, centre, dim=1, eps=1e-8))
    squares = (cosines[0] - cosines[1]) ** 2
    return squares.sum() / (labels < classes).sum().clamp(min=1) if exclude_ignore else squares.mean()


def in_numpy(student, teacher, labels, classes):
    total = 0.0
    for b in range(len(student)):
        for c in range(classes):
            inside = (labels[b] == c).numpy()
            if not inside.any():
                continue
            cosines = []
            for x in (student, teacher):
                f = x[b].detach().numpy()[:, inside]
                mu = f.sum(1) / (inside.sum() + 1e-6)
                cosines.append(f.T @ mu / (np.linalg.norm(f, axis=0) * np.linalg.norm(mu)))
            total += ((cosines[0] - cosines[1]) ** 2).sum()
    return total / labels.numel()


@pytest.mark.parametrize("exclude_ignore", [False, True])
@pytest.mark.parametrize(
    ("images", "classes", "c_s", "c_t", "size", "labels"),
    [
        (2, 5, 3, 4, (6, 8), {}),
        (1, 2, 4, 4, (5, 7), {}),
        (2, 182, 7, 3, (9, 5), {}),
        (3, 19, 2, 6, (7, 11), {"classes": 3}),
        (1, 5, 3, 4, (4, 4), {"ignored": 1.1}),
        (2, 5, 3, 4, (6, 8), {"ignored": 0.0}),
        (1, 11, 1, 2, (1, 9), {}),
    ],
)
def test_equals_the_literal_form(images, classes, c_s, c_t, size, labels, exclude_ignore):
    student = draw(images, c_s, *size).requires_grad_()
    teacher = draw(images, c_t, *size, seed=1)
    given = labels_of(images, *size, **({"classes": classes} | labels))
    value = class_variation(student, teacher, given, classes, exclude_ignore)
    expected = literal(student, teacher, given, classes, exclude_ignore)
    assert value.item() == pytest.approx(expected.item(), rel=1e-10, abs=1e-15)
    if not exclude_ignore:
        assert value.item() == pytest.approx(in_numpy(student, teacher, given, classes), rel=1e-10, abs=1e-15)
    got, wanted = (torch.autograd.grad(3 * x, student)[0] for x in (value, expected))
    # where cosines cannot move, with one channel or without labels, the literal form has rounding left
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-14)
    assert (got.abs().max() > 1e-6) == bool((given < classes).any() and c_s > 1)


def test_method_reads_labels_and_sizes_as_the_others():
    """The student comes to the teacher's size, and labels are taken nearest there."""
    taps = {"logits": Tap(5, 8), "dec": Tap(3, 8)}
    method = compose("ifvd", Sizes(5, taps, taps | {"dec": Tap(4, 8)}, iters=1, seed=0))
    student, teacher = draw(2, 3, 3, 5).requires_grad_(), draw(2, 4, 5, 7, seed=1)
    labels = labels_of(2, 33, 57)
    given = Batch(torch.zeros(0), labels)
    value = method.losses(Output(teacher, None, {"dec": student}), Output(teacher, None, {"dec": teacher}), given)
    rows, columns = np.arange(5) * 33 // 5, np.arange(7) * 57 // 7
    grown = torch.nn.functional.interpolate(student, (5, 7), mode="bilinear", align_corners=True)
    expected = literal(grown, teacher, labels[:, rows][:, :, columns], 5)
    assert value["ifvd.ifvd"].item() == pytest.approx(expected.item(), rel=1e-10)
    got, wanted = (torch.autograd.grad(x, student)[0] for x in (value["ifvd.ifvd"], expected))
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-14)


def test_zero_features_count_and_send_no_gradient():
    student, teacher = draw(1, 3, 4, 6), draw(1, 4, 4, 6, seed=1)
    labels = labels_of(1, 4, 6, classes=2, ignored=0.0)
    labels[:, 3] = 2
    student[:, :, 0] = 0
    student[:, :, 3] = 0  # a class whose mean is zero as well
    value = class_variation(student.requires_grad_(), teacher, labels, 3)
    assert value.item() == pytest.approx(literal(student, teacher, labels, 3).item(), rel=1e-10)
    value.backward()
    assert student.grad is not None and student.grad.abs().max() < 1 and not student.grad[:, :, 3].any()


def test_bf16_is_computed_in_float32():
    student, teacher = draw(2, 8, 6, 8).bfloat16().requires_grad_(), draw(2, 8, 6, 8, seed=1).bfloat16()
    labels = labels_of(2, 6, 8)
    value = class_variation(student, teacher, labels, 5)
    expected = literal(student.double(), teacher.double(), labels, 5)
    assert value.dtype == torch.float32 and value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.autograd.grad(value, student)[0].dtype == torch.bfloat16


def test_equal_networks_differ_by_nothing():
    student, labels = draw(2, 3, 6, 8).requires_grad_(), labels_of(2, 6, 8)
    value = class_variation(student, student.detach(), labels, 5)
    assert value.item() == 0 and not torch.autograd.grad(value, student)[0].any()


class Largest(TorchDispatchMode):
    """The largest tensor that is made, what is given apart."""

    def __init__(self, *given):
        super().__init__()
        self.given, self.numel = {x.untyped_storage().data_ptr() for x in given}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in self.given:
                self.numel = max(self.numel, x.numel())
        return out


def test_nothing_larger_than_the_students_gradient_is_made(monkeypatch):
    """No map of centres of the teacher, no mask per class and channel, no squares of a whole feature."""
    monkeypatch.setattr(ifvd, "_CPU_SLICE", 2**12)
    student, teacher, labels = draw(2, 32, 16, 16).requires_grad_(), draw(2, 64, 16, 16, seed=1), labels_of(2, 16, 16)
    with Largest(student, teacher) as seen:
        class_variation(student, teacher, labels, 5).backward()
    assert seen.numel == student.numel()
