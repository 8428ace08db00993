"""The contract that every method keeps, whatever it computes."""

import inspect
from typing import get_args

import pytest
import torch

from kdc.distill.batch import Batch
from kdc.distill.errors import UsageError
from kdc.distill.methods import Sizes, compose, info, load, names, options
from kdc.distill.output import Output, Tap

K = 5
WIDTHS = {
    "logits": (K, K),
    "aux": (K, K),
    "bb": (6, 9),
    "bb3": (4, 7),
    "dec": (4, 6),
    "dec_pre": (4, 6),
    "aspp_pre": (4, 6),
}


def sizes(changed=None, seed=0):
    widths = WIDTHS | (changed or {})
    student, teacher = ({tap: Tap(pair[side], 8) for tap, pair in widths.items()} for side in (0, 1))
    return Sizes(K, student, teacher, iters=40, seed=seed)


def output(side, shape=(4, 6), images=2, seed=0, dtype=torch.float32, changed=None):
    rng = torch.Generator().manual_seed(seed + side)
    maps = {
        tap: torch.randn(images, pair[side], *shape, generator=rng).to(dtype).requires_grad_(side == 0)
        for tap, pair in (WIDTHS | (changed or {})).items()
    }
    return Output(maps.pop("logits"), maps.pop("aux"), maps)


def batch(images=2, classes=K, step=0, ignored=False):
    labels = torch.randint(0, classes, (images, 32, 48), generator=torch.Generator().manual_seed(9))
    labels[:, :3] = 255
    if ignored:
        labels[:] = 255
    return Batch(torch.zeros(images, 3, 32, 48, dtype=torch.uint8), labels, step)


def leaves(out):
    return [x for x in (out.logits, out.aux, *out.features.values()) if x is not None]


def total(values):
    return torch.stack(list(values.values())).sum()


@pytest.mark.parametrize("name", names())
class TestContract:
    @pytest.mark.parametrize("step", [0, 39])
    @pytest.mark.parametrize(
        "case", ["plain", "one image", "absent class", "all ignored", "other sizes", "other step size"]
    )
    def test_finite_and_reaches_the_student(self, name, case, step):
        images = 1 if case == "one image" else 2
        student = output(0, {"other sizes": (3, 5), "other step size": (8, 12)}.get(case, (4, 6)), images)
        teacher = output(1, (4, 6), images)
        given = batch(images, K - 1 if case == "absent class" else K, step, case == "all ignored")
        composite = compose(name, sizes())
        values = composite.losses(student, teacher, given)
        assert list(values) == list(composite.terms) and values
        for term, value in values.items():
            assert value.shape == () and value.isfinite(), term
            grads = torch.autograd.grad(value, leaves(student), retain_graph=True, allow_unused=True)
            grads = [g for g in grads if g is not None]
            assert grads and all(g.isfinite().all() for g in grads), term
            assert case == "all ignored" or any(g.any() for g in grads), term
        total(values).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in composite.joint_parameters())

    def test_teacher_gets_no_gradient_and_is_not_changed(self, name):
        teacher = output(1)
        before = [x.clone() for x in leaves(teacher)]
        for x in leaves(teacher):
            x.requires_grad_()
        total(compose(name, sizes()).losses(output(0), teacher, batch())).backward()
        assert all(x.grad is None and torch.equal(x, y) for x, y in zip(leaves(teacher), before, strict=True))

    def test_half_precision_is_raised_also_under_autocast(self, name):
        student, teacher = output(0, dtype=torch.bfloat16), output(1, dtype=torch.bfloat16)
        composite = compose(name, sizes())
        with torch.autocast("cpu", torch.bfloat16):
            values = composite.losses(student, teacher, batch())
        expected = composite.losses(student.raised(), teacher.raised(), batch())
        for term, value in values.items():
            assert value.dtype == torch.float32 and value.item() == pytest.approx(expected[term].item(), rel=1e-6)

    def test_float64_stays(self, name):
        composite = compose(name, sizes()).double()
        values = composite.losses(output(0, dtype=torch.float64), output(1, dtype=torch.float64), batch())
        assert all(value.dtype == torch.float64 for value in values.values())

    def test_state_round_trips(self, name):
        first, second = compose(name, sizes()), compose(name, sizes())
        first.losses(output(0), output(1), batch())
        for x in second.state_dict().values():
            x.zero_()
        second.load_state_dict(first.state_dict())
        a, b = (m.losses(output(0, seed=5), output(1, seed=5), batch()) for m in (first, second))
        assert all(torch.equal(a[term], b[term]) for term in a)

    def test_global_generator_rests(self, name):
        before = torch.get_rng_state()
        compose(name, sizes()).losses(output(0), output(1), batch())
        assert torch.equal(before, torch.get_rng_state())

    def test_seed_decides_the_draws(self, name):
        states = [compose(name, sizes(seed=seed)).state_dict() for seed in (0, 0, 1)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        drawn = [key for key in states[0] if key.endswith("weight") and states[0][key].dim() == 4]
        assert all(not torch.equal(states[0][key], states[2][key]) for key in drawn)

    def test_missing_tap_is_named(self, name):
        bare = Sizes(K, {"head": Tap(3, 8)}, sizes().teacher, 40, 0)
        with pytest.raises(UsageError, match="student has only head"):
            compose(name, bare)

    def test_numbers_may_be_texts_and_must_make_sense(self, name):
        signature = inspect.signature(load(name)).parameters
        for option, default in options(load(name)).items():
            kinds = get_args(signature[option].annotation) or (signature[option].annotation,)
            if bool in kinds or kinds == (str,):
                continue
            for wrong in ("abc", "nan", float("inf"), -1, [1]):
                with pytest.raises(UsageError):
                    compose(name, sizes(), {name: {option: wrong}})
            compose(name, sizes(), {name: {option: f"{default:.0e}" if isinstance(default, float) else str(default)}})
        for term in load(name).weights:
            for wrong in ("nan", "abc", -1.0):
                with pytest.raises(UsageError):
                    compose(name, sizes(), {name: {term: wrong}})

    @pytest.mark.parametrize("classes", [2, 182])
    def test_few_and_many_classes_of_one_odd_bf16_image(self, name, classes):
        changed = {"logits": (classes, classes), "aux": (classes, classes)}
        given = sizes(changed)
        composite = compose(name, Sizes(classes, given.student, given.teacher, iters=40, seed=0))
        student, teacher = (output(i, (5, 7), 1, dtype=torch.bfloat16, changed=changed) for i in (0, 1))
        labels = torch.randint(0, classes, (1, 37, 53), generator=torch.Generator().manual_seed(1))
        at_hand = Batch(torch.zeros(1, 3, 37, 53, dtype=torch.uint8), labels)
        composite.remember(teacher, at_hand)
        values = composite.losses(student, teacher, at_hand)
        assert all(value.isfinite() and value.dtype == torch.float32 for value in values.values())
        grads = torch.autograd.grad(total(values), leaves(student), allow_unused=True)
        assert all(g.isfinite().all() for g in grads if g is not None)

    def test_info_is_complete(self, name):
        facts = info(name)
        assert facts.name == name and facts.paper and facts.terms and facts.summary.endswith(".")
        assert set(facts.taps) <= set(WIDTHS)
        text = facts.description.replace(".", "_")
        assert all(option in text for option in facts.options)
        # a setting's key says which of the two it is
        assert not set(facts.options) & set(facts.terms)


@pytest.mark.parametrize("name", ["kd", "kt", "cwd"])
def test_class_counts_must_agree(name):
    with pytest.raises(UsageError, match="student has 5 classes and the teacher 7"):
        compose(name, sizes({"logits": (K, 7)}))


def test_unknown_method_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'kt'"):
        load("ktt")


class TestKd:
    def run(self, **settings):
        student, teacher = output(0, dtype=torch.float64), output(1, dtype=torch.float64)
        value = compose("kd", sizes(), {"kd": settings}).losses(student, teacher, batch())["kd.kd"]
        return value, torch.autograd.grad(value, student.logits)[0], student.logits.detach(), teacher.logits

    def test_element_is_the_pixel_mean_over_classes(self):
        assert self.run(reduction="element")[0].item() == pytest.approx(self.run()[0].item() / K, rel=1e-12)

    def test_skd_is_the_summed_soft_cross_entropy(self):
        value, grad, s, t = self.run(reduction="skd")
        expected = -(torch.softmax(t, 1) * torch.log_softmax(s, 1)).sum() / 24
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)
        torch.testing.assert_close(grad, 2 * self.run()[1])

    def test_ignored_positions_are_left_out(self):
        value, grad, s, t = self.run(mask_ignore=True, T=2.0)
        log_s, log_t = torch.log_softmax(s / 2, 1), torch.log_softmax(t / 2, 1)
        kl = (log_t.exp() * (log_t - log_s)).sum(1)
        # labels are ignored in the first 3 of 32 rows; 4 rows of logits read label rows 0, 8, 16 and 24
        assert value.item() == pytest.approx(4 * kl[:, 1:].mean().item(), rel=1e-12)
        assert not grad[:, :, 0].any() and grad[:, :, 1:].any()

    def test_temperature_follows_its_schedule(self):
        composite = compose("kd", sizes(), {"kd": {"T": "linear(4,1,10)"}})
        for step, T in ((0, 4.0), (10, 1.0)):
            value = composite.losses(output(0), output(1), batch(step=step))
            fixed = compose("kd", sizes(), {"kd": {"T": T}}).losses(output(0), output(1), batch())
            assert value["kd.kd"].item() == fixed["kd.kd"].item()

    def test_aux_share(self):
        plain, more = (
            compose("kd", sizes(), {"kd": {"aux_weight": w}}).losses(output(0), output(1), batch()) for w in (0.0, 0.4)
        )
        assert more["kd.kd"] > plain["kd.kd"]


class TestCwd:
    @pytest.mark.parametrize(("kind", "entries"), [("conv", 1), ("conv-bn-relu", 6)])
    def test_adapter(self, kind, entries):
        composite = compose("cwd", sizes(), {"cwd": {"adapter": kind}})
        assert len(composite.methods["cwd"].get_submodule("adapter").state_dict()) == entries

    @pytest.mark.parametrize("name", ["naive", "md", "lad", "cad", "pad", "cwd"])
    def test_no_relu_stands_before_a_teacher_that_has_negative_values(self, name):
        sides = [{"logits": Tap(K, 8), "bb": Tap(c, 8, signed=signed)} for c, signed in ((4, False), (6, True))]
        given = {"at": "bb", "adapter": "conv-bn-relu"} if name in ("naive", "md", "cwd") else {"at": "bb"}
        composite = compose(name, Sizes(K, *sides, iters=8, seed=0), {name: given})
        adapter = composite.methods[name].get_submodule("adapter")
        assert [type(layer).__name__ for layer in adapter.children()] == ["Conv2d", "BatchNorm2d"]
        assert adapter(torch.randn(2, 4, 5, 5)).min() < 0
        assert any("no ReLU: the teacher's feature has negative values" in note for note in composite.notes())

    def test_no_adapter_for_equal_channels(self):
        assert compose("cwd", sizes({"dec": (6, 6)})).methods["cwd"].adapter is None

    def test_other_tap(self):
        assert compose("cwd", sizes(), {"cwd": {"at": "bb", "logits": 0}}).taps == ("bb",)


class TestAngular:
    @pytest.mark.parametrize(("name", "dims"), [("lad", (1, 2, 3)), ("cad", (2, 3)), ("pad", (1,))])
    def test_equals_the_squared_distance(self, name, dims):
        same = {"bb": (9, 9)}
        student, teacher = output(0, dtype=torch.float64, changed=same), output(1, dtype=torch.float64, changed=same)
        value = compose(name, sizes(same)).losses(student, teacher, batch())[f"{name}.ad"]
        s, t = (
            x / torch.linalg.vector_norm(x, dim=dims, keepdim=True)
            for x in (student.features["bb"], teacher.features["bb"])
        )
        expected = ((s - t) ** 2).sum(dims).mean()
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)
        got, wanted = (torch.autograd.grad(x, student.features["bb"])[0] for x in (value, expected))
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-15)

    def test_zero_vectors(self):
        """One side zero counts 1, both 0, and neither sends a gradient."""
        same = {"bb": (2, 2)}
        student, teacher = output(0, (1, 3), 1, changed=same), output(1, (1, 3), 1, changed=same)
        with torch.no_grad():
            student.features["bb"][..., :2] = 0
            teacher.features["bb"][..., 1] = 0
            teacher.features["bb"][..., 2] = student.features["bb"][..., 2]
        value = compose("pad", sizes(same)).losses(student, teacher, batch(1))["pad.ad"]
        value.backward()
        assert value.item() == pytest.approx(1 / 3, abs=1e-6)
        grad = student.features["bb"].grad
        assert grad is not None and grad.abs().max() < 1e-6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", names())
def test_gpu_gives_the_same_and_never_waits(name):
    def moved(out):
        maps = {tap: x.detach().cuda() for tap, x in out.features.items()}
        return Output(out.logits.detach().cuda().requires_grad_(), out.aux.detach().cuda(), maps)

    composite, given = compose(name, sizes()), batch()
    expected = composite.losses(output(0), output(1), given)
    composite.cuda()
    student, teacher = moved(output(0)), moved(output(1))
    given = Batch(given.images.cuda(), given.labels.cuda(), given.step)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        values = composite.losses(student, teacher, given)
        for term, value in values.items():
            assert value.item() == pytest.approx(expected[term].item(), rel=1e-4)
        torch.cuda.set_sync_debug_mode("error")
        try:
            composite.losses(student, teacher, given)
        finally:
            torch.cuda.set_sync_debug_mode("default")
