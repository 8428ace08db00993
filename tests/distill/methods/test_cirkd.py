"""CIRKD against the golden cases and against literal float64 forms that hold every similarity."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdc.distill.batch import Batch
from kdc.distill.errors import UsageError
from kdc.distill.losses import labels_at
from kdc.distill.methods import Composite, Sizes, compose
from kdc.distill.methods import _cross_image as cross
from kdc.distill.output import Output, Tap

GOLDEN = Path(__file__).parents[2] / "golden"


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels_of(images, height, width, classes=5, ignored=0.2, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (images, height, width))
    labels[rng.random(labels.shape) < ignored] = 255
    return torch.from_numpy(labels)


def build(c_s=4, c_t=6, classes=5, seed=0, **settings) -> Composite:
    sides = [{"logits": Tap(classes, 8), "dec": Tap(c, 8), "bb": Tap(c + 1, 8)} for c in (c_s, c_t)]
    return compose("cirkd", Sizes(classes, *sides, iters=40, seed=seed), {"cirkd": settings}).double()


def method_of(composite: Composite) -> Any:
    """Return the method, as what a type checker cannot know it to be."""
    return composite.methods["cirkd"]


def outputs(s, t, classes=5) -> tuple[Output, Output]:
    return tuple(Output(draw(len(x), classes, 3, 4, seed=i), None, {"dec": x}) for i, x in enumerate((s, t)))  # type: ignore[return-value]


def losses(composite, s, t, labels=None, step=0):
    labels = labels_of(len(t), 24, 32) if labels is None else labels
    return composite.losses(*outputs(s, t), Batch(torch.zeros(0), labels, step))


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {k: torch.from_numpy(file[k]) for k in file}


def near(got, wanted):
    """Compare with a reference that ran in float32: the tolerance of the index."""
    got, wanted = got.detach().double(), wanted.double()
    torch.testing.assert_close(got, wanted, rtol=2e-5, atol=2e-6 * wanted.abs().max().item())


def literal_mini_batch(s, t, tau):
    """Every pair's whole map, from features ``(B, C, H, W)``."""
    s, t = (torch.nn.functional.normalize(x, dim=1).flatten(2) for x in (s, t))
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(s)):
        for j in range(len(s)):
            log_s = torch.log_softmax(s[i].t() @ s[j] / tau, 1)
            log_t = torch.log_softmax(t[i].t() @ t[j] / tau, 1)
            total = total + (log_t.exp() * (log_t - log_s)).sum(1).mean()
    return total / len(s) ** 2


def numpy_mini_batch(s, t, tau):
    def log_p(x, i, j):
        x = x / np.sqrt((x**2).sum(1, keepdims=True))
        rows = x[i].reshape(x.shape[1], -1).T @ x[j].reshape(x.shape[1], -1) / tau
        rows -= rows.max(1, keepdims=True)
        return rows - np.log(np.exp(rows).sum(1, keepdims=True))

    pairs = [(log_p(s, i, j), log_p(t, i, j)) for i in range(len(s)) for j in range(len(s))]
    return np.mean([(np.exp(b) * (b - a)).sum(1).mean() for a, b in pairs])


def literal_memory(s, t, keys, labels, tau, T):
    """The labelled positions picked out, and all their similarities; ``s`` is behind the projector."""
    keep = labels_at(labels, t.shape[-2:]).flatten() != 255
    s, t = (torch.nn.functional.normalize(x, dim=1).movedim(1, 3).reshape(-1, x.shape[1])[keep] for x in (s, t))
    log_s, log_t = (torch.log_softmax(x @ keys.t() / tau / T, 1) for x in (s, t))
    return (log_t.exp() * (log_t - log_s)).sum(1).mean() * T * T


class TestGolden:
    def test_mini_batch(self):
        case = golden("cirkd_minibatch")
        s = case["in_s_feat"].double().requires_grad_()
        value = losses(build(kd=0, mp=0, mr=0), s, case["in_t_feat"].double())["cirkd.mb"]
        near(value, case["loss"])
        near(torch.autograd.grad(value, s)[0], case["grad_s_feat"])

    def test_memory(self):
        """The queues are those after the enqueue; the case gives the slots drawn."""
        case = golden("cirkd_memory")
        method = method_of(build(classes=4, pixels=40, regions=7, kd=0, mb=0))
        weights = {k.removeprefix("param_").replace("_", ".", 1): v for k, v in case.items() if k.startswith("param_")}
        method.projector.load_state_dict(weights)
        method.pixel_queue.slots, method.region_queue.slots = (
            case[f"in_{kind}_queue"].double() for kind in ("pixel", "region")
        )
        keys = {
            "mp": method.pixel_queue.take(case["in_pixel_index"]),
            "mr": method.region_queue.take(case["in_region_index"]),
        }
        labels = torch.where(case["in_labels"] < 0, 255, case["in_labels"])
        s, t = case["in_s_feat"].double().requires_grad_(), case["in_t_feat"].double()
        values = method.against(keys, s, t, Batch(torch.zeros(0), labels))
        for term, kind in (("mp", "pixel"), ("mr", "region")):
            near(values[term], case[f"out_{kind}"])
        loss = 0.1 * values["mp"] + 0.1 * values["mr"]
        near(loss, case["loss"])
        grads = torch.autograd.grad(loss, [s, *method.projector.parameters()])
        wanted = ["grad_s_feat", *(f"grad_proj{i}" for i in range(4))]
        for grad, name in zip(grads, wanted, strict=True):
            near(grad, case[name])


@pytest.fixture(params=[1, 30, 2**20], ids=["row by row", "few rows", "at once"])
def chunk(request, monkeypatch):
    monkeypatch.setattr(cross, "_CPU_CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
class TestMiniBatch:
    @pytest.mark.parametrize(
        ("images", "c_s", "c_t", "size"), [(1, 3, 5, (3, 3)), (3, 4, 6, (3, 5)), (2, 7, 2, (1, 9)), (2, 4, 4, (1, 1))]
    )
    @pytest.mark.parametrize("tau", [0.1, 1.0])
    def test_equals_the_literal_form(self, images, c_s, c_t, size, tau):
        s, t = draw(images, c_s, *size).requires_grad_(), draw(images, c_t, *size, seed=1)
        mine = losses(build(c_s, c_t, kd=0, mp=0, mr=0, tau=tau), s, t)["cirkd.mb"]
        literal = literal_mini_batch(s, t, tau)
        assert mine.item() == pytest.approx(literal.item(), rel=1e-10, abs=1e-15)
        assert mine.item() == pytest.approx(numpy_mini_batch(s.detach().numpy(), t.numpy(), tau), rel=1e-10, abs=1e-15)
        got, wanted = (torch.autograd.grad(x, s)[0] for x in (mine, literal))
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-14)


class TestMiniBatchForms:
    def test_pool_is_an_average_with_the_rest_at_the_border(self):
        s, t = draw(2, 4, 5, 7).requires_grad_(), draw(2, 6, 5, 7, seed=1)

        def pooled(x):
            rows, columns = (range(0, n, 2) for n in x.shape[-2:])
            cells = [x[..., i : i + 2, j : j + 2].mean((-2, -1)) for i in rows for j in columns]
            return torch.stack(cells, -1).unflatten(-1, (len(rows), len(columns)))

        mine = losses(build(kd=0, mp=0, mr=0, pool=2), s, t)["cirkd.mb"]
        literal = literal_mini_batch(pooled(s), pooled(t), 0.1)
        assert mine.item() == pytest.approx(literal.item(), rel=1e-10)
        got, wanted = (torch.autograd.grad(x, s)[0] for x in (mine, literal))
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-14)

    def test_equal_networks_give_zero(self):
        s = draw(2, 4, 3, 4).requires_grad_()
        value = losses(build(4, 4, kd=0, mp=0, mr=0), s, s.detach())["cirkd.mb"]
        assert value.item() == 0 and not torch.autograd.grad(value, s)[0].any()

    def test_gather_without_other_processes_is_the_local_form(self):
        s, t = draw(2, 4, 3, 4), draw(2, 6, 3, 4, seed=1)
        values = [losses(build(kd=0, mp=0, mr=0, gather=gather), s, t)["cirkd.mb"] for gather in (False, True)]
        assert torch.equal(*values)

    def test_zero_features_stay_finite(self):
        s = torch.zeros(1, 4, 3, 4, dtype=torch.float64, requires_grad=True)
        value = losses(build(kd=0, mp=0, mr=0), s, draw(1, 6, 3, 4))["cirkd.mb"]
        assert value.isfinite() and torch.autograd.grad(value, s)[0].isfinite().all()


@pytest.mark.usefixtures("chunk")
class TestMemory:
    @pytest.mark.parametrize(
        ("images", "c_s", "c_t", "size", "T"), [(1, 3, 5, (3, 3), 1.0), (3, 4, 6, (3, 5), 2.0), (2, 7, 2, (5, 7), 4.0)]
    )
    def test_equals_the_literal_form(self, images, c_s, c_t, size, T):
        s, t = draw(images, c_s, *size).requires_grad_(), draw(images, c_t, *size, seed=1)
        labels = labels_of(images, 24, 32)
        composite = build(c_s, c_t, kd=0, mb=0, pixels=30, regions=9, draws_pixel=35, draws_region=10, memory_T=T)
        method = method_of(composite)
        method.remember(outputs(s, t)[1], Batch(torch.zeros(0), labels, 7))
        values, keys = losses(composite, s, t, labels, 7), method.keys(7)
        for term, each in (("mp", 8), ("mr", 3)):
            assert keys[term].shape == (5 * each, c_t)
            literal = literal_memory(method.projector(s), t, keys[term], labels, 0.1, T)
            value = values[f"cirkd.{term}"]
            assert value.item() == pytest.approx(literal.item(), rel=1e-10)
            inputs = [s, *method.projector.parameters()]
            got, wanted = (torch.autograd.grad(x, inputs, retain_graph=True) for x in (value, literal))
            for mine, its in zip(got, wanted, strict=True):
                torch.testing.assert_close(mine, its, rtol=1e-8, atol=1e-13)

    def test_all_ignored_is_zero_with_a_zero_gradient(self):
        s, t = draw(2, 4, 3, 4).requires_grad_(), draw(2, 6, 3, 4, seed=1)
        composite, labels = build(kd=0, mb=0, pixels=30, regions=9), torch.full((2, 24, 32), 255)
        before = {k: v.clone() for k, v in composite.state_dict().items() if "queue" in k}
        composite.remember(outputs(s, t)[1], Batch(torch.zeros(0), labels))
        assert len(before) == 4 and all(torch.equal(v, composite.state_dict()[k]) for k, v in before.items())
        for value in losses(composite, s, t, labels).values():
            assert value.item() == 0
            parameters = [s, *method_of(composite).projector.parameters()]
            for grad in torch.autograd.grad(value, parameters, retain_graph=True):
                assert grad.isfinite().all() and not grad.any()


class TestKeys:
    def test_are_a_function_of_seed_and_step(self):
        first, same, other = (method_of(build(pixels=300, regions=200, seed=seed)) for seed in (0, 0, 1))
        for term in ("mp", "mr"):
            assert torch.equal(first.keys(3)[term], same.keys(3)[term])
            assert not torch.equal(first.keys(3)[term], first.keys(4)[term])
            assert not torch.equal(first.keys(3)[term], other.keys(3)[term])

    @pytest.mark.parametrize(("classes", "each"), [(2, (2049, 513)), (19, (216, 54)), (150, (28, 7)), (182, (23, 6))])
    def test_how_many(self, classes, each):
        keys = method_of(build(classes=classes, pixels=2100)).keys(0)
        assert {term: len(x) for term, x in keys.items()} == {"mp": classes * each[0], "mr": classes * each[1]}

    def test_no_more_than_there_are(self):
        assert len(method_of(build(pixels=16, regions=3)).keys(0)["mp"]) == 5 * 16


class TestState:
    def test_round_trips_and_goes_on_alike(self):
        first, second = build(seed=0, pixels=40, regions=5), build(seed=0, pixels=40, regions=5)
        s, t, labels = draw(2, 4, 5, 7), draw(2, 6, 5, 7, seed=1), labels_of(2, 25, 35)
        for step in range(3):
            first.remember(outputs(s, t + step)[1], Batch(torch.zeros(0), labels, step))
        second.load_state_dict(first.state_dict())
        for composite in (first, second):
            composite.remember(outputs(s, t)[1], Batch(torch.zeros(0), labels, 3))
        a, b = (losses(composite, s, t, labels, 3) for composite in (first, second))
        assert all(torch.equal(a[term], b[term]) for term in a) and len(a) == 4
        pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
        assert all(torch.equal(x, y) for x, y in pairs)

    def test_remembering_changes_the_memory_terms_alone(self):
        composite = build(pixels=40, regions=5)
        s, t, labels = draw(2, 4, 5, 7), draw(2, 6, 5, 7, seed=1), labels_of(2, 25, 35)
        before = losses(composite, s, t, labels)
        composite.remember(outputs(s, t)[1], Batch(torch.zeros(0), labels))
        after = losses(composite, s, t, labels)
        changed = {term for term in before if not torch.equal(before[term], after[term])}
        assert changed == {"cirkd.mp", "cirkd.mr"}

    def test_queues_are_float32_buffers_that_ddp_leaves_alone(self):
        sides = [{"logits": Tap(5, 8), "dec": Tap(c, 8)} for c in (4, 6)]
        composite = compose("cirkd", Sizes(5, *sides, iters=40, seed=0))
        names, state = composite.local_buffers(), composite.state_dict()
        assert sorted(names) == sorted(key for key in state if "queue" in key)
        kinds = {state[name].dtype for name in names}
        assert len(names) == 4 and kinds == {torch.float32, torch.int64}


class TestWhatIsBuilt:
    def test_without_memory_nothing_of_it(self):
        composite = build(mp=0, mr=0)
        composite.remember(Output(draw(1, 5, 3, 4), None, {}), Batch(torch.zeros(0), labels_of(1, 24, 32)))
        assert not composite.state_dict() and not composite.local_buffers() and not composite.notes()
        assert composite.taps == ("logits", "dec")

    def test_only_the_queue_that_is_used(self):
        names = {key.split(".")[2] for key in build(mr=0).state_dict()}
        assert names == {"projector", "pixel_queue"}
        names = {key.split(".")[2] for key in build(mp=0).state_dict()}
        assert names == {"projector", "region_queue"}

    @pytest.mark.parametrize(
        ("settings", "taps"),
        [
            ({"mb": 0, "mp": 0, "mr": 0}, ("logits",)),
            ({"kd": 0}, ("dec",)),
            ({"at": "bb"}, ("logits", "bb")),
            ({"at": "logits"}, ("logits",)),
        ],
    )
    def test_taps(self, settings, taps):
        assert build(**settings).taps == taps

    def test_cap(self):
        """150 classes of 256 channels: 3495 slots take 512 MiB; here the same arithmetic with fewer channels."""
        composite = build(c_t=8, classes=150, cap_mib=1.0)
        slots = method_of(composite).pixel_queue.slots
        assert slots.shape == (150, 2**20 // (150 * 8 * 4), 8) and slots.float().nbytes <= 2**20
        assert any("218 slots a class instead of 20000" in note for note in composite.notes())
        assert not any("instead of" in note for note in build(pixels=40).notes())

    @pytest.mark.parametrize(
        ("settings", "text"),
        [
            ({"enqueue": "offical"}, "did you mean 'official'"),
            ({"cap_mib": 0.001}, "leaves 8 slots a class; at least per_class=16"),
            ({"pixels": 15}, "16 or more"),
            ({"regions": 0}, "1 or more"),
            ({"pool": 1.5}, "a whole number"),
            ({"tau": 0}, "must be above 0"),
        ],
    )
    def test_refused(self, settings, text):
        with pytest.raises(UsageError, match=text):
            build(**settings)


def test_student_of_another_size_is_resized_to_the_teachers():
    s, t = draw(2, 4, 4, 5).requires_grad_(), draw(2, 6, 7, 9, seed=1)
    composite, labels = build(kd=0, mp=0, mr=0), labels_of(2, 28, 36)
    mine = losses(composite, s, t, labels)["cirkd.mb"]
    up = torch.nn.functional.interpolate(s, size=(7, 9), mode="bilinear", align_corners=True)
    literal = literal_mini_batch(up, t, 0.1)
    assert mine.item() == pytest.approx(literal.item(), rel=1e-10)
    got, wanted = (torch.autograd.grad(x, s)[0] for x in (mine, literal))
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-14)


def test_bfloat16_is_raised():
    s, t = draw(2, 4, 3, 4).bfloat16(), draw(2, 6, 3, 4, seed=1).bfloat16()
    sides = [{"logits": Tap(5, 8), "dec": Tap(c, 8)} for c in (4, 6)]
    composite, labels = compose("cirkd", Sizes(5, *sides, iters=40, seed=0)), labels_of(2, 24, 32)
    values = losses(composite, s, t, labels)
    expected = losses(composite, s.float(), t.float(), labels)
    for term in ("cirkd.mb", "cirkd.mp", "cirkd.mr"):
        assert values[term].dtype == torch.float32 and torch.equal(values[term], expected[term])
