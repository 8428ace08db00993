"""Double similarity against NumPy: residual attention and the classes' likeness."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kdc.distill.batch import Batch
from kdc.distill.errors import UsageError
from kdc.distill.methods import Sizes, compose
from kdc.distill.output import Output, Tap

BATCH = Batch(torch.zeros(0), torch.zeros(1, 8, 8, dtype=torch.long))
PARTS = {"psd": {"csd": 0}, "csd": {"psd": 0}}


def side(seed, shape=(2, 4, 6), classes=5, aux=True, width=3, at="dec"):
    def draw(channels, i):
        rng = torch.Generator().manual_seed(10 * seed + i)
        images, height, columns = shape
        x = torch.randn(images, channels, height, columns, generator=rng, dtype=torch.float64) * 2
        return x.requires_grad_(seed == 0)

    return Output(draw(classes, 0), draw(classes, 1) if aux else None, {at: draw(width, 2)})


def build(student, teacher, **settings):
    def taps(out):
        maps = {"logits": out.logits, **({} if out.aux is None else {"aux": out.aux}), **out.features}
        return {tap: Tap(x.shape[1], 8) for tap, x in maps.items()}

    return compose("dsd", Sizes(student.logits.shape[1], taps(student), taps(teacher), 40, 0), {"dsd": settings})


def value(term, student, teacher, **settings):
    return build(student, teacher, **PARTS[term], **settings).losses(student, teacher, BATCH)[f"dsd.{term}"]


def numpy_psd(maps_s, maps_t):
    def unit(x):
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    def residuals(maps):
        a = [unit((x.detach().numpy() ** 2).mean(1).reshape(len(x), -1)) for x in maps]
        return [unit(n - m) for m, n in combinations(a, 2)]

    return np.mean([((s - t) ** 2).mean() for s, t in zip(residuals(maps_s), residuals(maps_t), strict=True)])


def literal_psd(maps_s, maps_t):
    def residuals(maps):
        a = [F.normalize(x.pow(2).mean(1).flatten(1)) for x in maps]
        return [F.normalize(n - m) for m, n in combinations(a, 2)]

    pairs = zip(residuals(maps_s), residuals(maps_t), strict=True)
    return torch.stack([(s - t).pow(2).mean() for s, t in pairs]).mean()


def numpy_csd(s, t, T=4.0):
    def gram(x):
        x = x.detach().numpy()
        images, classes, height, width = x.shape
        pooled = np.zeros((images, classes, -(-height // 2), -(-width // 2)))
        for i, j in np.ndindex(*pooled.shape[2:]):
            pooled[:, :, i, j] = x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3))
        z = pooled.reshape(images, classes, -1) / T
        p = np.exp(z - z.max(2, keepdims=True))
        p /= p.sum(2, keepdims=True)
        return np.einsum("bkn,bln->bkl", p, p)

    return ((gram(s) - gram(t)) ** 2).mean()


def literal_csd(s, t, T=4.0):
    s, t = (F.avg_pool2d(x, 2, ceil_mode=True).flatten(2).div(T).softmax(2) for x in (s, t))
    return (s @ s.mT - t @ t.mT).pow(2).mean()


def same_gradients(got, wanted, inputs):
    for x in inputs:
        mine, theirs = (torch.autograd.grad(v, x, retain_graph=True)[0] for v in (got, wanted))
        assert theirs.any()
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10 * theirs.abs().max().item())


@pytest.mark.parametrize(
    ("shape", "classes"), [((1, 2, 3), 2), ((2, 4, 6), 5), ((3, 7, 5), 19), ((2, 5, 9), 182), ((2, 1, 5), 5)]
)
class TestAgainstNumpy:
    def test_residual_attention(self, shape, classes):
        student, teacher = (side(i, shape, classes, width=w) for i, w in ((0, 3), (1, 8)))
        result = value("psd", student, teacher)
        maps = [(out.aux, out.features["dec"], out.logits) for out in (student, teacher)]
        assert result.item() == pytest.approx(numpy_psd(*maps), rel=1e-10)
        same_gradients(result, literal_psd(*maps), maps[0])

    def test_likeness_of_classes(self, shape, classes):
        student, teacher = (side(i, shape, classes) for i in (0, 1))
        result = value("csd", student, teacher)
        assert result.item() == pytest.approx(numpy_csd(student.logits, teacher.logits), rel=1e-10)
        same_gradients(result, literal_csd(student.logits, teacher.logits), [student.logits])


def test_temperature():
    student, teacher = side(0), side(1)
    assert value("csd", student, teacher, T=1.5).item() == pytest.approx(
        numpy_csd(student.logits, teacher.logits, 1.5), rel=1e-10
    )
    with pytest.raises(UsageError, match="above 0"):
        build(student, teacher, T=-1)


@pytest.mark.parametrize("aux", [(False, True), (True, False), (False, False)])
class TestWithoutAux:
    def test_the_maps_that_both_have(self, aux):
        student, teacher = (side(i, aux=there) for i, there in enumerate(aux))
        assert build(student, teacher).taps == ("dec", "logits")
        maps = [(out.features["dec"], out.logits) for out in (student, teacher)]
        assert value("psd", student, teacher).item() == pytest.approx(numpy_psd(*maps), rel=1e-10)

    def test_the_repositorys_list(self, aux):
        student, teacher = (side(i, aux=there) for i, there in enumerate(aux))
        maps = [
            (out.logits if out.aux is None else out.aux, out.features["dec"], out.logits) for out in (student, teacher)
        ]
        result = value("psd", student, teacher, parity=True)
        assert set(build(student, teacher, parity=True).taps) == {"dec", "logits"}
        assert result.item() == pytest.approx(numpy_psd(*maps), rel=1e-10)
        # the pair of a map with itself is constant: what it would add to the gradient is rounding
        pairs = [pair for pair in combinations(range(3), 2) if maps[0][pair[0]] is not maps[0][pair[1]]]
        parts = [literal_psd([maps[0][m], maps[0][n]], [maps[1][m], maps[1][n]]) for m, n in pairs]
        same_gradients(result, torch.stack(parts).sum() / 3, [student.logits, student.features["dec"]])


def test_parity_changes_nothing_with_aux():
    student, teacher = side(0), side(1)
    assert value("psd", student, teacher, parity=True) == value("psd", student, teacher)


class TestTap:
    @pytest.mark.parametrize("at", ["bb", "bb3", "dec_pre"])
    def test_another_in_the_middle(self, at):
        student, teacher = side(0, at=at), side(1, at=at, width=8)
        assert build(student, teacher, at=at).taps == ("aux", at, "logits")
        maps = [(out.aux, out.features[at], out.logits) for out in (student, teacher)]
        assert value("psd", student, teacher, at=at).item() == pytest.approx(numpy_psd(*maps), rel=1e-10)

    def test_logits_leave_one_pair(self):
        student, teacher = side(0), side(1)
        maps = [(out.aux, out.logits) for out in (student, teacher)]
        assert value("psd", student, teacher, at="logits").item() == pytest.approx(numpy_psd(*maps), rel=1e-10)

    def test_one_map_is_too_few(self):
        student, teacher = side(0, aux=False), side(1)
        for parity in (False, True):
            with pytest.raises(UsageError, match="at=logits leaves one"):
                build(student, teacher, at="logits", parity=parity)
        assert build(student, teacher, at="logits", psd=0).taps == ("logits",)


def test_terms_read_what_they_need():
    student, teacher = side(0), side(1)
    assert build(student, teacher, csd=0).taps == ("aux", "dec", "logits")
    assert build(student, teacher, psd=0).taps == ("logits",)


def test_sizes_meet_at_the_teachers_logits():
    student, teacher = side(0, (2, 3, 4)), side(1, (2, 4, 6))
    teacher.features["dec"] = side(1, (2, 8, 12)).features["dec"]
    sizes = [
        [F.interpolate(out.tap(tap), (4, 6), mode="bilinear", align_corners=True) for tap in ("aux", "dec", "logits")]
        for out in (student, teacher)
    ]
    assert value("psd", student, teacher).item() == pytest.approx(numpy_psd(*sizes), rel=1e-10)
    assert value("csd", student, teacher).item() == pytest.approx(numpy_csd(sizes[0][2], teacher.logits), rel=1e-10)


def test_equal_networks_give_nothing():
    student = side(0)
    values = build(student, student).losses(student, student.detached(), BATCH)
    assert all(x.item() == pytest.approx(0, abs=1e-30) for x in values.values())
