"""Knowledge Tailoring against literal forms: full-resolution logit tailoring, and the second phase in NumPy."""

from typing import Any

import numpy as np
import pytest
import torch

from kdc.distill.batch import Batch
from kdc.distill.errors import UsageError
from kdc.distill.methods import Composite, Sizes, compose
from kdc.distill.methods._cells import logit_tailoring
from kdc.distill.output import Output, Tap

K = 5


def kt_of(composite: Composite) -> Any:
    """Return the method, as what a type checker cannot know it to be."""
    return composite.methods["kt"]


def draw(*shape, seed=0, scale=2.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def labels_of(*shape, seed=0, low=0, high=K, ignored=0.15):
    rng = np.random.default_rng(seed)
    labels = rng.integers(low, high, shape)
    labels[rng.random(shape) < ignored] = 255
    return torch.from_numpy(labels)


def nearest(x, size):
    rows = torch.arange(size[0]) * x.shape[2] // size[0]
    columns = torch.arange(size[1]) * x.shape[3] // size[1]
    return x[:, :, rows][:, :, :, columns]


def literal_logit_tailoring(student, teacher, labels, T):
    """Every step of the method book at the resolution of the labels, image by image and class by class."""
    total = torch.zeros((), dtype=torch.float64)
    for b in range(len(student)):
        for c in range(student.shape[1]):
            mask = (labels[b] == c).double()
            sides = []
            for x in (student, teacher):
                plane = nearest(x, labels.shape[1:])[b, c]
                inside, outside = plane * mask, plane * (1 - mask)
                if (inside > 0).any():
                    mean = inside[inside > 0].mean()
                    inside = torch.where(inside > mean, inside, mean) * mask
                mean = outside.mean()
                outside = torch.where(outside < mean, outside, mean) * (1 - mask)
                sides.append((plane, inside, outside))
            (s, p_s, q_s), (_, p_t, q_t) = sides
            for mine, target in ((s, p_t + q_t), (p_s, p_t), (q_s, q_t)):
                log_s = torch.log_softmax(mine.flatten() / T, 0)
                log_t = torch.log_softmax(target.flatten() / T, 0)
                total = total + (log_t.exp() * (log_t - log_s)).sum()
    return total * T * T / (student.shape[0] * student.shape[1])


class TestLogitTailoring:
    @pytest.mark.parametrize(
        ("student", "teacher", "crop"),
        [
            ((3, 4), (3, 4), (24, 32)),  # the usual integer stride
            ((5, 7), (5, 7), (33, 45)),  # cells of unequal size
            ((4, 6), (3, 9), (25, 31)),  # two grids that cut each other's cells
            ((8, 10), (4, 5), (6, 7)),  # more cells than pixels
        ],
    )
    @pytest.mark.parametrize("T", [4.0, 1.0])
    def test_equals_the_full_resolution(self, student, teacher, crop, T):
        s, t = draw(2, K, *student, scale=3).requires_grad_(), draw(2, K, *teacher, seed=1, scale=3)
        labels = labels_of(2, *crop)
        mine, literal = logit_tailoring(s, t, labels, T), literal_logit_tailoring(s, t, labels, T)
        assert mine.item() == pytest.approx(literal.item(), rel=1e-12)
        got, expected = (torch.autograd.grad(x, s)[0] for x in (mine, literal))
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-13)

    @pytest.mark.parametrize("case", ["absent", "ignored", "no positive logit", "one class"])
    def test_degenerate(self, case):
        s, t = draw(1, K, 3, 4), draw(1, K, 3, 4, seed=1)
        labels = labels_of(1, 12, 16, high=K - 1)
        if case == "ignored":
            labels[:] = 255
        elif case == "no positive logit":
            s, t = -s.abs() - 0.1, -t.abs() - 0.1
        elif case == "one class":
            labels[:] = 2
        s.requires_grad_()
        mine, literal = logit_tailoring(s, t, labels), literal_logit_tailoring(s, t, labels, 4.0)
        assert mine.item() == pytest.approx(literal.item(), rel=1e-12, abs=1e-15)
        got, expected = (torch.autograd.grad(x, s)[0] for x in (mine, literal))
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-13)

    def test_float32(self):
        s, t, labels = draw(2, K, 8, 16, scale=3), draw(2, K, 8, 16, seed=1, scale=3), labels_of(2, 64, 128)
        exact, single = logit_tailoring(s, t, labels), logit_tailoring(s.float(), t.float(), labels)
        assert single.dtype == torch.float32 and single.item() == pytest.approx(exact.item(), rel=1e-5)

    def test_extreme_logits_stay_finite(self):
        s = (draw(1, K, 3, 4).float() * 1e3).requires_grad_()
        value = logit_tailoring(s, -s.detach(), labels_of(1, 12, 16), 1.0)
        assert value.isfinite() and torch.autograd.grad(value, s)[0].isfinite().all()


def build(c_s=4, c_t=6, iters=40, aux=(True, True), **settings):
    sides = [
        {"logits": Tap(K, 8), "dec": Tap(c, 8), **({"aux": Tap(K, 8)} if has else {})}
        for c, has in zip((c_s, c_t), aux, strict=True)
    ]
    return compose("kt", Sizes(K, *sides, iters=iters, seed=0), {"kt": settings}).double()


def outputs(c_s=4, c_t=6, features=None):
    s, t = features or (draw(2, c_s, 3, 4), draw(2, c_t, 3, 4, seed=1))
    return (
        Output(draw(2, K, 3, 4, seed=2), draw(2, K, 3, 4, seed=3), {"dec": s}),
        Output(draw(2, K, 3, 4, seed=4), draw(2, K, 3, 4, seed=5), {"dec": t}),
    )


def values(composite, step, features=None):
    return composite.losses(*outputs(features=features), Batch(torch.zeros(0), labels_of(2, 24, 32), step))


def numpy_second_phase(tailor, s, t, axis, T=4.0):
    """FT and the triplet from the equations, one image at a time; ``tailor`` is a list of (weight, bias)."""

    def g(x):
        for i, (weight, bias) in enumerate(tailor):
            x = weight @ x + bias[:, None]
            x = np.maximum(x, 0) if i < len(tailor) - 1 else x
        return x

    def log_softmax(x):
        x = x / T - (x / T).max(1, keepdims=True)
        return x - np.log(np.exp(x).sum(1, keepdims=True))

    ft, gaps = 0.0, []
    for b in range(len(s)):
        S, T_ = s[b].reshape(s.shape[1], -1), t[b].reshape(t.shape[1], -1)
        R = (S / np.linalg.norm(S, axis=1, keepdims=True)) @ (T_ / np.linalg.norm(T_, axis=1, keepdims=True)).T
        high, low = g(R @ T_), g((1 - R) @ T_)
        log_s, log_h = log_softmax(S), log_softmax(high)
        ft += (np.exp(log_h) * (log_h - log_s)).sum() * T * T / (len(s) * len(S))
        S, high, low = (x.reshape(s.shape[1:]) for x in (S, high, low))
        d = [np.sqrt(((S - x + 1e-7) ** 2).sum(axis)) for x in (high, low)]
        gaps.append(np.maximum(0, d[0] - d[1] + 1))
    return ft, np.mean(gaps)


class TestFeatureTailoring:
    @pytest.mark.parametrize(("name", "axis"), [("w", 2), ("channel", 0), ("flat", (0, 1, 2))])
    def test_second_phase_equals_numpy(self, name, axis):
        composite = build(tuning_point=10, **{"triplet.axis": name})
        layers = [m for m in kt_of(composite).teacher_tailor if hasattr(m, "weight")]
        tailor = [(m.weight.detach().numpy()[:, :, 0, 0], m.bias.detach().numpy()) for m in layers]
        s, t = draw(2, 4, 3, 4), draw(2, 6, 3, 4, seed=1)
        got = values(composite, 9, (s, t))
        ft, tri = numpy_second_phase(tailor, s.numpy(), t.numpy(), axis)
        assert got["kt.ft"].item() == pytest.approx(ft, rel=1e-12)
        assert got["kt.tri"].item() == pytest.approx(tri, rel=1e-12)

    def test_second_phase_gradients(self):
        """In ft the target is constant, tri is a function of everything: so only tri is checked by differences."""
        composite = build(tuning_point=1)
        layers = [m for m in kt_of(composite).teacher_tailor if hasattr(m, "weight")]
        s, t = draw(2, 4, 3, 4).requires_grad_(), draw(2, 6, 3, 4, seed=1)
        assert torch.autograd.gradcheck(lambda x: values(composite, 0, (x, t))["kt.tri"], s)
        got = torch.autograd.grad(values(composite, 0, (s, t))["kt.ft"], s)[0]
        S, T_ = s.detach().flatten(2), t.flatten(2)
        H = (S / S.norm(dim=2, keepdim=True)) @ (T_ / T_.norm(dim=2, keepdim=True)).transpose(1, 2) @ T_
        for i, m in enumerate(layers):
            H = m.weight[:, :, 0, 0] @ H + m.bias[:, None]
            H = H.relu() if i < 2 else H
        expected = (torch.softmax(S / 4, 2) - torch.softmax(H.detach() / 4, 2)) * 4 / (2 * 4)
        torch.testing.assert_close(got.flatten(2), expected, rtol=1e-10, atol=1e-14)

    def test_first_phase_gradients(self):
        composite = build(tuning_point=99)
        s, t = draw(2, 4, 3, 4).requires_grad_(), draw(2, 6, 3, 4, seed=1)
        assert torch.autograd.gradcheck(lambda x: values(composite, 0, (x, t))["kt.ft"], s)
        assert torch.autograd.gradcheck(lambda x: values(composite, 0, (x, t))["kt.tri"], s)

    def test_triplet_detach_changes_the_gradient_only(self):
        grads, raws = [], []
        for detach in (False, True):
            s = draw(2, 4, 3, 4).requires_grad_()
            raw = values(build(tuning_point=1, **{"triplet.detach": detach}), 0, (s, draw(2, 6, 3, 4, seed=1)))[
                "kt.tri"
            ]
            raws.append(raw.item())
            grads.append(torch.autograd.grad(raw, s)[0])
        assert raws[0] == raws[1] and not torch.allclose(*grads)

    @pytest.mark.parametrize(("point", "first_b"), [(0.25, 10), (10, 10), (1, 1), (1.0, 40), (0, 1)])
    def test_tuning_point_counts_from_one(self, point, first_b):
        """The phase shows in ft: only the first sends it through the student's tailor."""
        composite = build(tuning_point=point)
        kt_of(composite).student_tailor[4].bias.data += 1000 * torch.arange(6)
        kt_of(composite).student_tailor[4].weight.data *= 1000
        first = [values(composite, step)["kt.ft"].item() > 500 for step in range(40)]
        assert first == [iteration < first_b for iteration in range(1, 41)]

    @pytest.mark.parametrize("point", [-1, 1.5, True, "soon"])
    def test_tuning_point_refused(self, point):
        with pytest.raises(UsageError, match="tuning"):
            build(tuning_point=point)

    def test_tailors_are_fixed_and_the_same_for_a_seed(self):
        first, second = build(), build()
        assert first.joint_parameters() == [] and len(first.state_dict()) == 13
        assert all(
            torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
        )

    @pytest.mark.parametrize("step", [0, 30])
    def test_trained_tailors_all_get_a_gradient_in_both_phases(self, step):
        composite = build(**{"tailor.train": True})
        torch.stack(list(values(composite, step).values())).sum().backward()
        assert len(composite.joint_parameters()) == 13
        assert all(p.grad is not None for p in composite.joint_parameters())

    @pytest.mark.parametrize("step", [0, 30])
    @pytest.mark.parametrize(
        "off", [{}, {"tri": 0}, {"ft": 0}, {"triplet.detach": True}, {"ft": 0, "triplet.detach": True}]
    )
    def test_idle_is_what_gets_no_gradient_but_zeros(self, off, step):
        composite = build(**{"tailor.train": True}, **off)
        torch.stack(list(values(composite, step).values())).sum().backward()
        idle = {id(p) for p in composite.idle_parameters(step)}
        for name, p in composite.named_parameters():
            assert (id(p) in idle) == (p.grad is None or not p.grad.any()), name

    def test_a_tuning_point_that_is_never_reached_is_a_warning_and_its_cure_helps(self):
        assert build(tuning_point=40).warnings() == []
        (line,) = build(tuning_point=41).warnings()
        assert "tuning_point 41 is beyond the last iteration, 40" in line and "method.kt.tuning_point=0.25" in line
        assert build(tuning_point=0.25).warnings() == []
        assert [build(tuning_point=0.25).phases_at(step) for step in (8, 9)] == [{"kt": "A"}, {"kt": "B"}]
        assert build(tuning_point=41, ft=0, tri=0).warnings() == [] == list(build(ft=0, tri=0).phases_at(0))


def test_aux_part_is_skipped_where_one_side_has_none():
    both, none = build(), build(aux=(False, True))
    assert "aux" in both.taps and "aux" not in none.taps
    s, t = outputs()
    batch = Batch(torch.zeros(0), labels_of(2, 24, 32))
    with_aux = both.losses(s, t, batch)["kt.kd"]
    without = none.losses(Output(s.logits, None, s.features), t, batch)["kt.kd"]
    assert with_aux.item() > without.item() > 0


def test_terms_that_are_off_bring_nothing():
    composite = build(ft=0, tri=0, kd=0)
    assert composite.taps == ("logits",) and not composite.state_dict() and list(values(composite, 0)) == ["kt.lt"]
