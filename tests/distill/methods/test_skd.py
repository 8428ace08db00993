"""Structured distillation: its discriminator against a chain of plain operations, both critic losses, and the terms."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kdc.distill.batch import Batch
from kdc.distill.errors import UsageError
from kdc.distill.methods import Composite, Critic, Sizes, compose
from kdc.distill.methods._adversary import Discriminator, SelfAttention, gradient_penalty
from kdc.distill.methods._pairs import pair_wise
from kdc.distill.output import Output, Tap

GOLDEN = Path(__file__).parents[2] / "golden"
COUNTS = json.loads((GOLDEN / "index.json").read_text())["model_counts"]["skd_discriminator"]
K = 5
#: number of the layers with spectral norm, and with self-attention
SPECTRAL, ATTENTION, LAST = (0, 2, 4, 7), (6, 9), 10


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sizes(seed=0, classes=K):
    student = {"logits": Tap(classes, 8), "dec": Tap(3, 8)}
    return Sizes(classes, student, student | {"dec": Tap(4, 8)}, iters=40, seed=seed)


def outputs(shape=(64, 64), images=2, classes=K, teacher_shape=None) -> tuple[Output, Output]:
    student = Output(draw(images, classes, *shape).requires_grad_(), None, {"dec": draw(images, 3, 7, 9, seed=1)})
    student.features["dec"].requires_grad_()
    other = draw(images, classes, *(teacher_shape or shape), seed=2)
    return student, Output(other, None, {"dec": draw(images, 4, 7, 9, seed=3)})


def given(step=0, part=0):
    return Batch(torch.zeros(0), torch.zeros(2, 8, 8, dtype=torch.long), step, part)


def method_of(composite: Composite, name: str = "adv") -> Any:
    """Return the method, as what a type checker cannot know it to be."""
    return composite.methods[name]


def build(name="adv", seed=0, classes=K, **settings):
    """Return a method in float64 whose attentions and batch norm do something."""
    composite = compose(name, sizes(seed, classes), {name: settings}).double()
    critic = method_of(composite, name).discriminator
    with torch.no_grad():
        for i in ATTENTION:
            critic.layers[i].gamma.fill_(0.3)
        critic.layers[LAST].weight.mul_(30)  # scores on both sides of the hinge's corner
        if settings.get("norm", "bn") == "bn":
            critic.norm.weight.copy_(1 + 0.2 * draw(classes, seed=7))
            critic.norm.bias.copy_(0.2 * draw(classes, seed=8))
    return composite, method_of(composite, name)


class Literal:
    """The discriminator of the method book as a chain of operations on plain tensors, the power iteration in NumPy."""

    def __init__(self, critic, norm="bn"):
        self.p = {name: x.detach().clone().requires_grad_() for name, x in critic.named_parameters()}
        self.u = {i: critic.layers[i].u.numpy().copy() for i in SPECTRAL}
        self.norm = norm

    def __call__(self, x):
        p = self.p
        if self.norm == "tanh":
            x = torch.tanh(x)
        else:
            mean = x.mean((0, 2, 3), keepdim=True)
            var = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
            scale, shift = p["norm.weight"].view(1, -1, 1, 1), p["norm.bias"].view(1, -1, 1, 1)
            x = (x - mean) / torch.sqrt(var + 1e-5) * scale + shift
        for i in SPECTRAL:
            weight = p[f"layers.{i}.conv.weight"]
            matrix = weight.detach().reshape(len(weight), -1).numpy()
            v = matrix.T @ self.u[i]
            v = v / np.linalg.norm(v)
            u = matrix @ v
            self.u[i] = u / np.linalg.norm(u)
            outer = torch.from_numpy(np.outer(self.u[i], v)).reshape(weight.shape)
            x = F.conv2d(x, weight / (outer * weight).sum(), p[f"layers.{i}.conv.bias"], stride=2, padding=1)
            x = torch.where(x > 0, x, 0.1 * x)
            if i + 2 in ATTENTION:
                x = self.attend(x, f"layers.{i + 2}")
        return F.conv2d(x, p[f"layers.{LAST}.weight"], p[f"layers.{LAST}.bias"])

    def attend(self, x, name):
        q, k, v = (
            torch.einsum("oc,bchw->bohw", self.p[f"{name}.{part}.weight"][:, :, 0, 0], x).flatten(2)
            + self.p[f"{name}.{part}.bias"][:, None]
            for part in ("query", "key", "value")
        )
        share = torch.einsum("bci,bcj->bij", q, k).exp()
        share = share / share.sum(2, keepdim=True)
        return self.p[f"{name}.gamma"] * torch.einsum("bcj,bij->bci", v, share).view_as(x) + x

    def penalty(self, x):
        x = x.detach().requires_grad_()
        grad = torch.autograd.grad(self(x).sum(), x, create_graph=True)[0]
        return sum((torch.sqrt((g * g).sum()) - 1) ** 2 for g in grad) / len(grad)


def assert_gradients(critic, loss, literal, expected):
    """Compare the gradients of every parameter."""
    got = torch.autograd.grad(loss, list(critic.parameters()))
    wanted = torch.autograd.grad(expected, list(literal.p.values()))
    for name, a, b in zip(literal.p, got, wanted, strict=True):
        assert (a - b).abs().max() <= 1e-8 * b.abs().max().clamp_min(1e-3), name
        # the softmax does not feel the keys' bias, nor differences of scores the last one
        assert b.abs().max() > 1e-8 or name.endswith("bias"), name


class TestDiscriminator:
    def test_parameters_and_shapes(self):
        for classes in (19, 21, 150):
            critic = Discriminator(classes, torch.Generator())
            trained = sum(x.numel() for x in critic.parameters())
            assert trained == COUNTS.get(f"{classes}_trainable", 3_326_127)
            if classes == 19:
                vectors = sum(x.numel() for name, x in critic.named_buffers() if name[-2:] in (".u", ".v"))
                assert trained + vectors == COUNTS["19_with_uv"]
                for shape in ((64, 128), (65, 65)):
                    out = critic(torch.zeros(2, 19, *shape))
                    assert list(out.shape) == [2, *COUNTS[f"out_shape_{shape[0]}x{shape[1]}"]]

    @pytest.mark.parametrize("norm", ["bn", "tanh"])
    @pytest.mark.parametrize(("images", "shape"), [(2, (64, 80)), (1, (67, 64))])
    def test_equals_the_chain(self, norm, images, shape):
        critic = build(norm=norm)[1].discriminator
        literal = Literal(critic, norm)
        for seed in range(2):  # the second pass goes on from the first's power iteration
            x, y = (draw(images, K, *shape, seed=seed).requires_grad_() for _ in range(2))
            weight = draw(1, seed=3)
            got, expected = (critic(x) ** 2 * weight).sum(), (literal(y) ** 2 * weight).sum()
            assert got.item() == pytest.approx(expected.item(), rel=1e-10)
            assert_gradients(critic, got, literal, expected)
            grads = [torch.autograd.grad((f(z) ** 2).sum(), z)[0] for f, z in ((critic, x), (literal, y))]
            torch.testing.assert_close(grads[0], grads[1], rtol=1e-8, atol=1e-12)

    def test_power_iteration_finds_the_largest_singular_value(self):
        conv: Any = Discriminator(K, torch.Generator()).layers[2]
        for _ in range(100):
            conv(torch.zeros(1, 64, 8, 8))
        before = conv.u.clone()
        conv.eval()(torch.zeros(1, 64, 8, 8))
        matrix = conv.conv.weight.detach().flatten(1)
        assert torch.equal(conv.u, before)
        assert (conv.u @ matrix @ conv.v).item() == pytest.approx(torch.linalg.svdvals(matrix)[0].item(), rel=1e-3)

    def test_untrained_attention_hands_its_input_on(self):
        x = draw(1, 16, 3, 5)
        assert torch.equal(SelfAttention(16, torch.Generator()).double()(x), x)


def test_penalty_passes_by_a_synchronised_batch_norm():
    """That one refuses a CPU, and a second derivative everywhere."""
    _, method = build()
    plain, x = method.discriminator, draw(2, K, 64, 64)
    shared: Any = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain))
    assert isinstance(shared.norm, torch.nn.SyncBatchNorm)
    values = [gradient_penalty(critic, x) for critic in (plain, shared)]
    grads = [torch.autograd.grad(v, c.norm.weight)[0] for v, c in zip(values, (plain, shared), strict=True)]
    assert torch.equal(*values) and torch.equal(*grads) and grads[0].any()


@pytest.mark.parametrize(
    ("loss", "norm"), [("hinge", "bn"), pytest.param("wgan-gp", "bn", marks=pytest.mark.process), ("wgan-gp", "tanh")]
)
class TestCriticLoss:
    @pytest.mark.parametrize("step", [0, 7])
    def test_equals_the_literal_form(self, loss, norm, step):
        composite, method = build(loss=loss, norm=norm, critic_weight=0.3, critic_gp=4.0)
        literal = Literal(method.discriminator, norm)
        student, teacher = outputs((64, 130))
        value = composite.critic_losses(student, teacher, given(step, part=2))["adv.discriminator"]
        s, t = student.logits.detach(), teacher.logits
        real, fake = literal(t), literal(s)
        if loss == "hinge":
            expected = torch.relu(1 - real).mean() + torch.relu(1 + fake).mean()
            beyond = torch.cat([real > 1, fake < -1])
            assert beyond.any() and not beyond.all()
        else:
            alpha = torch.rand(2, 1, 1, 1, generator=method.rng("alpha", step, 2)).double()
            expected = fake.mean() - real.mean() + 4.0 * literal.penalty(alpha * t + (1 - alpha) * s)
        expected = 0.3 * expected
        assert value.item() == pytest.approx(expected.item(), rel=1e-10)
        assert_gradients(method.discriminator, value, literal, expected)

    def test_logits_get_no_gradient(self, loss, norm):
        composite, _ = build(loss=loss, norm=norm)
        student, teacher = outputs()
        teacher.logits.requires_grad_()
        composite.critic_losses(student, teacher, given())["adv.discriminator"].backward()
        assert student.logits.grad is None and teacher.logits.grad is None

    def test_bf16_is_computed_in_float32(self, loss, norm):
        composite = compose("adv", sizes(), {"adv": {"loss": loss, "norm": norm}})
        student, teacher = (Output(o.logits.detach().bfloat16(), None, {}) for o in outputs((9, 11)))
        value = composite.critic_losses(student, teacher, given())["adv.discriminator"]
        assert value.dtype == torch.float32 and value.isfinite()

    def test_restored_state_goes_on_the_same(self, loss, norm):
        """Weights, power iteration and running statistics are all in the state; what is drawn follows the step."""
        runs = []
        for restart in (False, True):
            composite, _ = build(loss=loss, norm=norm)
            for step in range(3):
                if restart and step == 1:
                    state = composite.state_dict()
                    composite, _ = build(loss=loss, norm=norm, seed=9)
                    composite.load_state_dict(state)
                    method_of(composite).sizes = sizes(0)
                value = composite.critic_losses(*outputs(), given(step))["adv.discriminator"]
                value.backward()
                with torch.no_grad():
                    for x in composite.parameters():
                        x -= 0.01 * torch.as_tensor(x.grad)
                        x.grad = None
            runs.append(composite.state_dict())
        assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])


class TestStudentTerm:
    @pytest.mark.parametrize("name", ["adv", "skd"])
    @pytest.mark.parametrize(
        ("shape", "teacher_shape"), [((64, 64), (64, 64)), ((33, 70), (45, 60)), ((9, 5), (65, 64))]
    )
    def test_is_minus_the_mean_score(self, name, shape, teacher_shape):
        composite, method = build(name, **({"pixel": 0, "pair": 0} if name == "skd" else {}))
        literal = Literal(method.discriminator)
        student, teacher = outputs(shape, teacher_shape=teacher_shape)
        value = composite.losses(student, teacher, given())[f"{name}.adv"]
        x = student.logits
        for size in (teacher_shape, [max(64, side) for side in teacher_shape]):
            x = F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)
        expected = -literal(x).mean()
        assert value.item() == pytest.approx(expected.item(), rel=1e-10)
        got, wanted = (torch.autograd.grad(y, student.logits)[0] for y in (value, expected))
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8 * wanted.abs().max().item())

    def test_leaves_the_discriminator_alone(self):
        composite, _ = build()
        before = {name: x.clone() for name, x in composite.state_dict().items()}
        composite.losses(*outputs(), given())["adv.adv"].backward()
        assert all(x.grad is None for x in composite.parameters())
        assert all(torch.equal(x, before[name]) for name, x in composite.state_dict().items())
        composite.critic_losses(*outputs(), given())
        moved = {
            name.removeprefix("methods.adv.discriminator.")
            for name, x in composite.state_dict().items()
            if not torch.equal(x, before[name])
        }
        assert {"layers.0.u", "layers.7.v", "norm.running_mean"} <= moved

    def test_both_sides_learn(self):
        """The critic tells the two apart, and the student's gradient raises its score."""
        composite, _ = build()
        (critic,) = composite.critics().values()
        tool = torch.optim.Adam(critic.module.parameters(), lr=4e-4, betas=critic.betas)
        student, teacher = outputs()
        losses = []
        for step in range(8):
            loss = composite.critic_losses(student, teacher, given(step))["adv.discriminator"]
            tool.zero_grad()
            loss.backward()
            tool.step()
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0]
        first = composite.losses(student, teacher, given())["adv.adv"]
        (grad,) = torch.autograd.grad(first, student.logits)
        nearer = Output(student.logits - 1e-3 * grad / grad.abs().max(), None, student.features)
        assert composite.losses(nearer, teacher, given())["adv.adv"] < first


class TestSettings:
    @pytest.mark.parametrize("name", ["adv", "skd"])
    def test_critic_and_joint_parameters(self, name):
        composite, method = build(name)
        assert composite.critics() == {f"{name}.discriminator": Critic(method.discriminator, 4e-4, "adam", (0.9, 0.99))}
        assert composite.joint_parameters() == []
        other = {"critic_lr": 0.1, "critic_optimizer": "sgd", "critic_decay": True}
        composite, method = build(name, **other)
        assert composite.critics()[f"{name}.discriminator"] == Critic(method.discriminator, 0.1, "sgd", decay=True)

    def test_no_discriminator_without_its_term(self):
        composite = compose("skd", sizes(), {"skd": {"adv": 0}})
        assert composite.critics() == {} == composite.critic_losses(*outputs(), given())
        assert not composite.state_dict() and list(composite.losses(*outputs(), given())) == ["skd.pixel", "skd.pair"]

    @pytest.mark.parametrize(
        ("on", "taps"), [({"pair"}, ("dec",)), ({"pixel"}, ("logits",)), ({"adv", "pair"}, ("dec", "logits"))]
    )
    def test_taps_are_those_of_the_terms(self, on, taps):
        off = {term: 0 for term in ("pixel", "pair", "adv") if term not in on}
        assert compose("skd", sizes(), {"skd": off}).taps == taps

    @pytest.mark.parametrize("name", ["adv", "skd"])
    def test_class_counts_must_agree(self, name):
        plan = sizes()
        plan.teacher["logits"] = Tap(7, 8)
        with pytest.raises(UsageError, match="student has 5 classes and the teacher 7"):
            compose(name, plan)

    @pytest.mark.parametrize(
        ("name", "option", "value", "says"),
        [
            ("skd", "adv_loss", "hing", "did you mean 'hinge'"),
            ("adv", "loss", "gan", "accepted are hinge, wgan-gp"),
            ("adv", "norm", "in", "accepted are bn, tanh"),
            ("skd", "critic_optimizer", "adamw", "skd.critic_optimizer='adamw'"),
            ("adv", "critic_weight", 0, "weight adv=0"),
            ("skd", "pixel_reduction", "mean", "accepted are pixel, element, skd"),
            ("skd", "pool", "3x3", "skd.pool='3x3'"),
        ],
    )
    def test_wrong_values_are_named(self, name, option, value, says):
        with pytest.raises(UsageError, match=says):
            compose(name, sizes(), {name: {option: value}})


class TestSkd:
    @pytest.mark.parametrize(
        ("reduction", "T", "classes", "images"), [("pixel", 2.0, 5, 2), ("element", 2.0, 2, 1), ("skd", 1.0, 182, 3)]
    )
    def test_pixel_in_numpy(self, reduction, T, classes, images):
        settings = {"pixel_reduction": reduction, "T": T, "pair": 0, "adv": 0}
        composite = compose("skd", sizes(classes=classes), {"skd": settings})
        student, teacher = outputs((5, 7), images, classes)
        value = composite.losses(student, teacher, given())["skd.pixel"]
        p, q = (np.exp(x.detach().numpy() / T) for x in (teacher.logits, student.logits))
        p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
        kl, cross = (p * np.log(p / q)).sum(), -(p * np.log(q)).sum()
        factor = {"pixel": T * T / (images * 35), "element": 1 / (images * 35 * classes), "skd": 1 / 35}[reduction]
        assert value.item() == pytest.approx(factor * (cross if reduction == "skd" else kl), rel=1e-10)
        (grad,) = torch.autograd.grad(value, student.logits)
        np.testing.assert_allclose(grad.numpy(), factor / T * (q - p), rtol=1e-8, atol=1e-14)

    @pytest.mark.parametrize("pool", ["scale:0.3", "2x2"])
    def test_pool_reaches_the_pair_term(self, pool):
        student, teacher = outputs()
        value = compose("skd", sizes(), {"skd": {"pool": pool, "pixel": 0, "adv": 0}}).losses(student, teacher, given())
        assert torch.equal(value["skd.pair"], pair_wise(student.features["dec"], teacher.features["dec"], pool))
