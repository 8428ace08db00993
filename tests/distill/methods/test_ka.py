"""Knowledge adaptation: its losses against NumPy and literal forms, its auto-encoder, and the phase that trains it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kdc.distill.batch import Batch
from kdc.distill.errors import UsageError
from kdc.distill.methods import Sizes, compose
from kdc.distill.methods._autoencoder import AutoEncoder
from kdc.distill.methods.ka import adaptation, affinity_gap, reconstruction
from kdc.distill.output import Output, Tap


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(value, x):
    return torch.autograd.grad(value, x, retain_graph=True)[0]


def norm(x, order, axis):
    return (np.abs(x) ** order).sum(axis, keepdims=True) ** (1 / order)


class TestAdaptation:
    @pytest.mark.parametrize("images", [1, 2])
    @pytest.mark.parametrize("q", [1, 2])
    @pytest.mark.parametrize("p", [1, 2])
    def test_vectors_along_channels(self, p, q, images):
        s, t = draw(images, 4, 3, 5).requires_grad_(), draw(images, 4, 3, 5, seed=1)
        mine = adaptation(s, t, p, q)
        x, y = s.detach().numpy(), t.numpy()
        gap = x / norm(x, q, 1) - y / norm(y, q, 1)
        assert mine.item() == pytest.approx(norm(gap, p, 1).mean(), rel=1e-12)

        def literal(z):
            return z / torch.linalg.vector_norm(z, q, dim=1, keepdim=True)

        wanted = gradient(torch.linalg.vector_norm(literal(s) - literal(t), p, dim=1).mean(), s)
        torch.testing.assert_close(gradient(mine, s), wanted, rtol=1e-9, atol=1e-14)

    @pytest.mark.parametrize("q", [1, 2])
    def test_flat(self, q):
        s, t = draw(2, 4, 3, 5).requires_grad_(), draw(2, 4, 3, 5, seed=1)
        mine = adaptation(s, t, 2, q, flat=True)
        x, y = s.detach().flatten(1).numpy(), t.flatten(1).numpy()
        assert mine.item() == pytest.approx(np.abs(x / norm(x, q, 1) - y / norm(y, q, 1)).mean(), rel=1e-12)

        def literal(z):
            return z.flatten(1) / torch.linalg.vector_norm(z.flatten(1), q, dim=1, keepdim=True)

        wanted = gradient((literal(s) - literal(t)).abs().mean(), s)
        torch.testing.assert_close(gradient(mine, s), wanted, rtol=1e-9, atol=1e-14)

    @pytest.mark.parametrize("flat", [False, True])
    @pytest.mark.parametrize("p", [1, 2])
    @pytest.mark.parametrize("q", [1, 2])
    def test_equal_and_zero_vectors(self, p, q, flat):
        """Both zero count nothing, one of two counts 1, and no gradient is lost to infinity."""
        s = torch.zeros(1, 2, 1, 4)
        s[..., 0] = 3
        t = s.clone()
        t[0, 0, 0, 1] = 1
        s.requires_grad_()
        equal, mixed = adaptation(s, s.detach(), p, q, flat), adaptation(s, t, p, q, flat)
        assert equal < 1e-9 and all(gradient(x, s).isfinite().all() for x in (equal, mixed))
        if not flat:
            assert mixed.item() == pytest.approx(1 / 4)

    def test_zero_vectors_behind_a_relu_send_nothing_back(self):
        x = torch.tensor([[-1.0, 2.0], [-1.0, 3.0]]).view(1, 2, 1, 2).requires_grad_()
        grad = gradient(adaptation(F.relu(x), torch.ones(1, 2, 1, 2), 2, 2), x)
        assert not grad[..., 0].any() and grad[..., 1].any()


class TestAffinity:
    #: student's and teacher's channels, size: more positions than channels, and fewer
    SHAPES = [(4, 6, (3, 5)), (3, 3, (5, 7)), (20, 30, (3, 4))]

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("form", ["rows", "fro", "mse"])
    @pytest.mark.parametrize("images", [1, 2])
    def test_equals_numpy(self, form, shape, images):
        c_s, c_t, size = shape
        s, t = draw(images, c_s, *size).requires_grad_(), draw(images, c_t, *size, seed=1)
        mine = affinity_gap(s, t, form)
        maps = []
        for x in (s, t):
            x = x.detach().flatten(2).numpy()
            x = x / norm(x, 2, 1)
            maps.append(np.einsum("bcn,bcm->bnm", x, x) / x.shape[2])
        gap = maps[0] - maps[1]
        expected = {
            "rows": np.sqrt((gap**2).sum(2)).sum(1),
            "fro": np.sqrt((gap**2).sum((1, 2))),
            "mse": (gap**2).sum((1, 2)),
        }[form]
        assert mine.item() == pytest.approx(expected.mean(), rel=1e-10)

        def literal(x):
            x = F.normalize(x.flatten(2), dim=1)
            return x.mT @ x / x.shape[2]

        d = literal(s) - literal(t)
        value = {
            "rows": d.square().sum(2).sqrt().sum(1),
            "fro": d.square().sum((1, 2)).sqrt(),
            "mse": d.square().sum((1, 2)),
        }[form].mean()
        torch.testing.assert_close(gradient(mine, s), gradient(value, s), rtol=1e-8, atol=1e-13)

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("form", ["rows", "fro", "mse"])
    def test_equal_features(self, form, shape):
        s = draw(2, shape[0], *shape[2]).float().requires_grad_()
        value = affinity_gap(s, s.detach(), form)
        assert value < 1e-9 and gradient(value, s).isfinite().all()


def test_reconstruction():
    feature, rebuilt, code = draw(2, 6, 4, 6), draw(2, 6, 4, 6, seed=1), draw(2, 3, 2, 3, seed=2)
    parts = reconstruction(feature, code, rebuilt, 0.01)
    assert parts["reconstruction"].item() == pytest.approx(((feature - rebuilt).numpy() ** 2).mean(), rel=1e-12)
    assert parts["sparsity"].item() == pytest.approx(0.01 * np.abs(code.numpy()).sum((1, 2, 3)).mean(), rel=1e-12)


class TestAutoEncoder:
    def build(self, stride=1):
        return AutoEncoder(6, 3, stride, torch.Generator().manual_seed(0))

    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 1), (2, 9)])
    def test_shapes(self, size, stride):
        x = draw(2, 6, *size).float()
        code, rebuilt = self.build(stride)(x)
        assert code.shape == (2, 3, *(-(-side // stride) for side in size)) and rebuilt.shape == x.shape

    def test_layers(self):
        """Three convolutions each way, 3 x 3; ReLU ends the code, and nothing bounds what is rebuilt."""
        weights = {key: tuple(x.shape) for key, x in self.build(2).state_dict().items() if x.dim() == 4}
        assert list(weights.values()) == [(3, 6, 3, 3), *[(3, 3, 3, 3)] * 4, (3, 6, 3, 3)]
        code, rebuilt = self.build(2)(draw(2, 6, 8, 8).float() * 9)
        assert (code >= 0).all() and (code == 0).any() and (rebuilt < 0).any()

    def test_frozen_it_stays_in_eval_mode(self):
        net = self.build()
        assert not any(m.training for m in net.train().modules())
        net.requires_grad_(True)
        assert all(m.training for m in net.train().modules())
        net.requires_grad_(False).eval()
        assert not any(m.training for m in net.train().modules())


def build(c_s=4, c_t=6, strides=(8, 8), **settings) -> Any:
    sides = [{"logits": Tap(5, 8), "dec": Tap(c, stride)} for c, stride in zip((c_s, c_t), strides, strict=True)]
    return compose("ka", Sizes(5, *sides, iters=40, seed=0, epoch=7), {"ka": settings})


def ka_of(composite) -> Any:
    return composite.methods["ka"]


def outputs(c_s=4, c_t=6, size_s=(5, 7), size_t=(5, 7), images=2):
    s, t = draw(images, c_s, *size_s).float(), draw(images, c_t, *size_t, seed=1).float()
    logits = torch.zeros(images, 5, 1, 1)
    return Output(logits, None, {"dec": s.requires_grad_()}), Output(logits, None, {"dec": t})


BATCH = Batch(torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8).long())


class TestMethod:
    def test_networks(self):
        method = ka_of(build())
        assert method.autoencoder.shape == "6 -> 3 -> 6 (3x3, first stride 1)"
        assert len([m for m in method.feature_adapter if isinstance(m, torch.nn.Conv2d)]) == 3
        assert [tuple(x.shape) for x in method.affinity_adapter.parameters()] == [(3, 4, 3, 3), (3,)]
        assert len(ka_of(build(adapter_depth=1)).feature_adapter) == 3
        assert ka_of(build(code=5)).autoencoder.shape.startswith("6 -> 5 -> 6")
        assert ka_of(build(c_t=1)).autoencoder.shape.startswith("1 -> 1 -> 1")

    def test_only_what_the_terms_need(self):
        assert ka_of(build(aff=0)).affinity_adapter is None and ka_of(build(adapt=0)).feature_adapter is None
        assert ka_of(build(adapt=0)).compared(*outputs()) is None

    @pytest.mark.parametrize(
        ("strides", "size_s", "size_t", "stride", "code"),
        [
            ((8, 8), (5, 7), (5, 7), 1, (5, 7)),
            ((16, 8), (3, 4), (5, 7), 2, (3, 4)),
            ((16, 4), (3, 4), (10, 14), 2, (5, 7)),
            ((8, 16), (9, 13), (5, 7), 1, (5, 7)),
        ],
    )
    def test_code_size(self, strides, size_s, size_t, stride, code):
        """The code is at the student's size where a stride of 1 or 2 allows it; what remains, resizing does."""
        composite = build(strides=strides)
        student, teacher = outputs(size_s=size_s, size_t=size_t)
        x_s, x_t = ka_of(composite).compared(student, teacher)
        assert ka_of(composite).key["stride"] == stride
        assert x_s.shape == x_t.shape == (2, 3, *code)
        assert all(v.isfinite() for v in composite.losses(student, teacher, BATCH).values())

    def test_terms_are_the_losses_of_what_the_networks_give(self):
        composite = build(p=1, q=1, affinity="fro")
        method = ka_of(composite)
        student, teacher = outputs()
        found = composite.losses(student, teacher, BATCH)
        code = method.autoencoder.encoder(teacher.features["dec"])
        x = method.feature_adapter(student.features["dec"])
        assert torch.equal(found["ka.adapt"], adaptation(x, code, 1, 1))
        x = method.affinity_adapter(student.features["dec"])
        assert torch.equal(found["ka.aff"], affinity_gap(x, code, "fro"))

    def test_the_autoencoder_rests_while_the_student_trains(self):
        composite = build().train()
        before = {key: x.clone() for key, x in ka_of(composite).autoencoder.state_dict().items()}
        losses = composite.losses(*outputs(), BATCH)
        torch.stack(list(losses.values())).sum().backward()
        assert all(torch.equal(x, before[key]) for key, x in ka_of(composite).autoencoder.state_dict().items())
        fixed = {id(p) for p in ka_of(composite).autoencoder.parameters()}
        joint = composite.joint_parameters()
        assert joint and not fixed & {id(p) for p in joint} and all(p.grad is not None for p in joint)

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("p", 3, "ka.p='3': accepted are 1, 2"),
            ("q", 0, "ka.q='0': accepted are 1, 2"),
            ("affinity", "row", "ka.affinity='row': accepted are rows, fro, mse; did you mean 'rows'"),
            ("adapter_depth", 0, "ka.adapter.depth=0: a whole number of at least 1"),
            ("code", 1.5, "code=1.5: a whole number is needed"),
            ("ae_iters", -1, "ae_iters=-1: a finite number of at least 0"),
        ],
    )
    def test_bad_options(self, option, value, message):
        with pytest.raises(UsageError, match=message):
            build(**{option: value})


class Teacher(torch.nn.Module):
    """Shows its input as the feature; the weight tells whether a gradient came."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, images):
        return Output(images, None, {"dec": images * self.scale})


class TestPhase:
    def phase(self, teacher=None, **settings):
        composite = build(c_t=3, **settings)
        return composite, composite.phases(teacher or Teacher())[0]

    def test_settings(self):
        composite, phase = self.phase()
        assert phase.name == "ka.autoencoder" and phase.module is ka_of(composite).autoencoder
        assert (phase.lr, phase.momentum, phase.weight_decay, phase.iters) == (0.1, 0.9, 1e-3, 7)
        assert phase.key == {"tap": "dec", "channels": 3, "code": 1, "stride": 1, "alpha": 1e-6}
        _, other = self.phase(ae_iters=3, ae_lr=0.2, ae_momentum=0.5, ae_weight_decay=0.0, alpha=1.0, code=2)
        assert (other.lr, other.momentum, other.weight_decay, other.iters) == (0.2, 0.5, 0.0, 3)
        assert other.key == phase.key | {"code": 2, "alpha": 1.0}

    def test_it_learns_to_rebuild_and_the_teacher_rests(self):
        teacher = Teacher()
        composite, phase = self.phase(teacher, code=4)
        x = draw(2, 1, 8, 8).float() * torch.tensor([1.0, -2.0, 0.5]).view(3, 1, 1)
        batch = Batch(x, torch.zeros(2, 8, 8).long())
        module = phase.module.requires_grad_(True).train()
        tool = torch.optim.SGD(module.parameters(), lr=phase.lr, momentum=phase.momentum)
        history = []
        for _ in range(60):
            feature, code, rebuilt = phase.run(module, batch)
            assert torch.equal(feature, x) and rebuilt.shape == x.shape
            parts = phase.loss((feature, code, rebuilt), batch)
            assert list(parts) == ["reconstruction", "sparsity"]
            tool.zero_grad()
            torch.stack(list(parts.values())).sum().backward()
            assert all(p.grad is not None for p in module.parameters())
            tool.step()
            history.append(parts["reconstruction"].item())
        assert history[-1] < 0.2 * history[0] and teacher.scale.grad is None
        assert any("autoencoder" in key for key in composite.state_dict())
