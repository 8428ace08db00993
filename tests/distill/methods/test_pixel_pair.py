"""pixel-pair and the pair-wise term against loops in NumPy, and gradients of literal forms."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdc.distill.batch import Batch
from kdc.distill.errors import UsageError
from kdc.distill.methods import Sizes, compose
from kdc.distill.methods._pairs import check_pool, pair_wise
from kdc.distill.methods.at import At
from kdc.distill.output import Output, Tap

POOLS = ("scale:0.5", "scale:0.25", "scale:1", "2x2")
MAPS = [(7, 9), (8, 8), (1, 1), (3, 1), (33, 33), (2, 20)]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def gradient(value, x):
    return torch.autograd.grad(value, x, retain_graph=True)[0]


def numpy_pool(x, pool):
    """Return the positions' maxima ``(C, n)`` of one feature ``(C, H, W)``, window by window."""
    _, H, W = x.shape
    share = float(pool[6:]) if pool != "2x2" else 0
    kh, kw = (2, 2) if pool == "2x2" else (max(1, int(share * H)), max(1, int(share * W)))
    windows = [x[:, i : i + kh, j : j + kw] for i in range(0, H, kh) for j in range(0, W, kw)]
    return np.stack([window.max((1, 2)) for window in windows], 1)


def numpy_pair_wise(student, teacher, pool):
    total, images = 0.0, len(student)
    for s, t in zip(student.detach().numpy(), teacher.numpy(), strict=True):
        graphs = []
        for x in (s, t):
            nodes = numpy_pool(x, pool)
            norms = np.linalg.norm(nodes, axis=0) + (0 if pool == "2x2" else 1e-8)
            graphs.append((nodes / norms).T @ (nodes / norms))
        total += ((graphs[1] - graphs[0]) ** 2).mean()
    return total / images


def literal_pair_wise(student, teacher, pool):
    def graph(x):
        kernel = (2, 2) if pool == "2x2" else tuple(max(1, int(float(pool[6:]) * side)) for side in x.shape[2:])
        x = F.max_pool2d(x, kernel, kernel, ceil_mode=True).flatten(2)
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        x = x / norm if pool == "2x2" else x / (norm + 1e-8).detach()
        return x.mT @ x

    return (graph(teacher) - graph(student)).square().mean()


class TestPairWise:
    @pytest.mark.parametrize("pool", POOLS)
    @pytest.mark.parametrize("size", MAPS)
    def test_equals_the_loops(self, pool, size):
        s, t = draw(2, 3, *size).requires_grad_(), draw(2, 5, *size, seed=1)
        mine = pair_wise(s, t, pool)
        assert mine.item() == pytest.approx(numpy_pair_wise(s, t, pool), rel=1e-10, abs=1e-16)
        wanted = gradient(literal_pair_wise(s, t, pool), s)
        torch.testing.assert_close(gradient(mine, s), wanted, rtol=1e-8, atol=1e-14)

    def test_nodes_of_the_published_map(self):
        """33 x 33 gives windows of 16 and, with the partial ones, 3 x 3 nodes; an even map gives 2 x 2."""
        assert numpy_pool(np.zeros((1, 33, 33)), "scale:0.5").shape == (1, 9)
        assert numpy_pool(np.zeros((1, 32, 64)), "scale:0.5").shape == (1, 4)

    @pytest.mark.parametrize("pool", POOLS)
    def test_equal_features_and_zeros(self, pool):
        s = draw(2, 3, 8, 12).float()
        s[:, :, :4] = 0
        s.requires_grad_()
        value = pair_wise(s, s.detach(), pool)
        assert value == 0 and gradient(value, s).isfinite().all()

    @pytest.mark.parametrize("pool", ["", "0.5", "scale", "scale:", "scale:x", "scale:0", "scale:-1", "scale:2", "3x3"])
    def test_bad_pools(self, pool):
        with pytest.raises(UsageError, match=r"skd.pool=.*accepted are 2x2, or scale:x"):
            check_pool("skd.pool", pool)


def build(c_s=4, c_t=6, **settings) -> Any:
    sides = [{tap: Tap(c, 8) for tap in ("logits", "aspp_pre", "dec_pre", "bb")} for c in (c_s, c_t)]
    return compose("pixel-pair", Sizes(5, *sides, iters=40, seed=0), {"pixel-pair": settings})


def outputs(c_s=4, c_t=6, size_s=(5, 7), size_t=(5, 7), images=2, dtype=torch.float64):
    sides = []
    for k, (channels, size) in enumerate(((c_s, size_s), (c_t, size_t))):
        maps = {
            tap: draw(images, channels, *size, seed=10 * k + i).to(dtype).requires_grad_(k == 0)
            for i, tap in enumerate(("aspp_pre", "dec_pre", "bb"))
        }
        sides.append(Output(torch.zeros(images, 5, 1, 1), None, maps))
    return sides


def values(composite, student, teacher):
    found = composite.losses(student, teacher, Batch(torch.zeros(0), torch.zeros(2, 8, 8).long()))
    return {term.removeprefix("pixel-pair."): value for term, value in found.items()}


class TestPixelWise:
    @pytest.mark.parametrize("norm", ["column", "map"])
    @pytest.mark.parametrize("images", [1, 2])
    def test_equals_numpy(self, norm, images):
        student, teacher = outputs(images=images)
        mine = values(build(pi_norm=norm), student, teacher)["pi"]
        strengths = [(x.features["dec_pre"].detach().numpy() ** 2).mean(1) for x in (student, teacher)]
        axes = 1 if norm == "column" else (1, 2)
        s, t = (a / np.sqrt((a**2).sum(axes, keepdims=True)) for a in strengths)
        assert mine.item() == pytest.approx(((s - t) ** 2).mean(), rel=1e-12)

        def literal(x):
            return F.normalize(x.pow(2).mean(1) if norm == "column" else x.pow(2).mean(1).flatten(1), dim=1)

        x, y = student.features["dec_pre"], teacher.features["dec_pre"]
        wanted = gradient((literal(x) - literal(y)).square().mean(), x)
        torch.testing.assert_close(gradient(mine, x), wanted, rtol=1e-9, atol=1e-15)

    def test_whole_map_is_attention_transfer(self):
        student, teacher = outputs()
        at = At(build().sizes, at="dec_pre")
        (expected,) = at.losses(student, teacher, Batch(torch.zeros(0), torch.zeros(2, 8, 8).long())).values()
        assert values(build(pi_norm="map"), student, teacher)["pi"] == expected


class TestMethod:
    def test_taps_of_the_terms_that_are_on(self):
        assert build().taps == ("aspp_pre", "dec_pre")
        assert build(pi=0).taps == ("aspp_pre",) and build(pa=0).taps == ("dec_pre",)
        assert build(aspp="bb", dec="bb").taps == ("bb",)

    def test_other_tap_and_pool(self):
        student, teacher = outputs()
        mine = values(build(aspp="bb", pool="2x2", pi=0), student, teacher)["pa"]
        expected = numpy_pair_wise(student.features["bb"], teacher.features["bb"], "2x2")
        assert mine.item() == pytest.approx(expected, rel=1e-10)

    def test_the_students_map_is_resized(self):
        student, teacher = outputs(size_s=(3, 9))
        resized = Output(
            student.logits,
            None,
            {tap: F.interpolate(x, (5, 7), mode="bilinear", align_corners=True) for tap, x in student.features.items()},
        )
        assert values(build(), student, teacher) == values(build(), resized, teacher)

    def test_a_copy_of_the_teacher_is_taught_nothing(self):
        student, _ = outputs(dtype=torch.float32)
        for norm in ("column", "map"):
            found = values(build(4, 4, pi_norm=norm), student, student.detached())
            assert found["pa"] == 0 and found["pi"] == 0

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("pi_norm", "row", "pi.norm='row': accepted are column, map"),
            ("pool", "half", "pool='half': accepted are 2x2"),
            ("teacher_bn", "frozen", "teacher.bn='frozen': accepted are eval, train"),
        ],
    )
    def test_bad_options(self, option, value, message):
        with pytest.raises(UsageError, match=message):
            build(**{option: value})


class Teacher(nn.Module):
    """A network with batch norms and dropout, in eval mode as teachers are."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.BatchNorm2d(3, affine=False))
        self.load_state_dict(self.state_dict() | {"body.0.running_mean": torch.full((3,), 3.0)})
        self.eval().requires_grad_(False)

    def forward(self, images):
        return Output(self.body(images))


class TestTeacherStatistics:
    images = draw(2, 3, 6, 6).float()
    batch = Batch(images, torch.zeros(2, 6, 6).long())

    def test_batch_statistics_without_drift(self):
        teacher = Teacher()
        before = {key: x.clone() for key, x in teacher.state_dict().items()}
        shown = build(teacher_bn="train").teach(teacher, self.batch).logits
        mean = self.images.mean((0, 2, 3), keepdim=True)
        wanted = (self.images - mean) / (self.images.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(shown, wanted, rtol=1e-4, atol=1e-4)
        assert all(torch.equal(x, before[key]) for key, x in teacher.state_dict().items())
        assert not any(module.training for module in teacher.modules())
        assert torch.equal(build().teach(teacher, self.batch).logits, teacher(self.images).logits)

    def test_eval_is_the_default(self):
        teacher = Teacher()
        assert torch.equal(build().teach(teacher, self.batch).logits, teacher(self.images).logits)
        assert not torch.allclose(
            build(teacher_bn="train").teach(teacher, self.batch).logits, teacher(self.images).logits
        )

    def test_restored_after_an_error(self):
        teacher = Teacher()
        with pytest.raises(RuntimeError):
            build(teacher_bn="train").teach(teacher, Batch(torch.zeros(2, 4, 6, 6), self.batch.labels))
        assert not any(module.training for module in teacher.modules())
        assert all(norm.track_running_stats for norm in teacher.body if isinstance(norm, nn.BatchNorm2d))
