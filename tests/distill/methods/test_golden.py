"""Values and gradients of the golden cases: reference formulas, computed once in float64."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdc.distill.batch import Batch
from kdc.distill.losses import task_loss
from kdc.distill.methods import Composite, Sizes, compose
from kdc.distill.methods.ka import adaptation, affinity_gap, reconstruction
from kdc.distill.output import Output, Tap

GOLDEN = Path(__file__).parents[2] / "golden"
INDEX = {case["name"]: case for case in json.loads((GOLDEN / "index.json").read_text())["cases"]}


def total(values):
    return torch.stack(list(values.values())).sum()


def part(composite: Composite, name: str) -> Any:
    """Return one method, as what a type checker cannot know it to be."""
    return composite.methods[name]


class Case:
    """A golden file as float64 tensors, its student inputs ready for gradients."""

    def __init__(self, name):
        with np.load(GOLDEN / f"{name}.npz") as file:
            self.arrays = {key: torch.from_numpy(file[key]) for key in file}
        self.loss = INDEX[name]["loss"]
        self.student = {
            k.removeprefix("in_s_"): v.double().requires_grad_() for k, v in self.arrays.items() if "in_s_" in k
        }
        self.teacher = {k.removeprefix("in_t_"): v.double() for k, v in self.arrays.items() if "in_t_" in k}

    @property
    def labels(self):
        labels = self.arrays.get("in_labels", torch.zeros(2, 8, 8, dtype=torch.long))
        return torch.where(labels < 0, 255, labels)

    def outputs(self, feature) -> tuple[Output, Output]:
        student, teacher = (
            Output(
                side.get("logits", torch.zeros(2, 5, 1, 1)),
                side.get("aux"),
                {feature: side.get("feat", torch.zeros(0))},
            )
            for side in (self.student, self.teacher)
        )
        return student, teacher

    def compose(self, spec, feature, settings):
        taps = [
            {
                {"feat": feature}.get(key, key): Tap(x.shape[1], 8)
                for key, x in {"logits": torch.zeros(1, 5), **side}.items()
            }
            for side in (self.student, self.teacher)
        ]
        return compose(spec, Sizes(5, *taps, iters=40, seed=0), {spec: settings}).double()

    def check_gradients(self, loss, part="", rtol=1e-9, atol=1e-14):
        inputs = {k: x for k, x in self.student.items() if f"grad_{part}s_{k}" in self.arrays}
        assert inputs
        grads = torch.autograd.grad(loss, tuple(inputs.values()), retain_graph=True)
        for key, grad in zip(inputs, grads, strict=True):
            torch.testing.assert_close(grad, self.arrays[f"grad_{part}s_{key}"], rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("name", "term", "settings"),
    [
        ("kd_pixel_T1", "kd.kd", {}),
        ("kd_elementmean", "kd.kd", {"T": 2.0, "reduction": "element"}),
        ("kd_channel_T4", "kt.kd", {"lt": 0, "ft": 0, "tri": 0}),
        ("cwd_logit_T4", "cwd.logits", {"feature": 0}),
        ("cwd_feat", "cwd.feature", {"logits": 0}),
        ("lad", "lad.ad", {}),
        ("cad", "cad.ad", {}),
        ("pad", "pad.ad", {}),
        ("naive", "naive.mse", {}),
        ("fitnet", "naive.mse", {"adapter": "conv", "always": True}),
        ("md", "md.md", {}),
        ("at", "at.att", {}),
        ("dist", "dist.dist", {}),
        ("ifvd", "ifvd.ifvd", {}),
    ],
)
def test_case(name, term, settings):
    case = Case(name)
    method = term.partition(".")[0]
    feature = "bb" if method in ("lad", "cad", "pad", "naive", "md") else "dec"
    composite = case.compose(method, feature, settings)
    if "param_conv" in case.arrays:
        part(composite, method).adapter.load_state_dict({"0.weight": case.arrays["param_conv"]})
    value = composite.losses(*case.outputs(feature), Batch(torch.zeros(0), case.labels))[term]
    assert value.item() == pytest.approx(case.loss, rel=1e-12)
    case.check_gradients(value)


@pytest.mark.parametrize(("term", "read"), [("psd", "abc"), ("csd", "c")])
def test_dsd(term, read):
    case = Case(f"dsd_{term}")
    student, teacher = (Output(side["c"], side["a"], {"dec": side["b"]}) for side in (case.student, case.teacher))
    taps = [{"logits": Tap(5, 8), "aux": Tap(5, 8), "dec": Tap(width, 8)} for width in (3, 7)]
    composite = compose("dsd", Sizes(5, *taps, iters=40, seed=0))
    value = composite.losses(student, teacher, Batch(torch.zeros(0), case.labels))[f"dsd.{term}"]
    # the reference adds its three pairs up in float32
    assert value.item() == pytest.approx(case.loss, rel=1e-6)
    for key in set(case.student) - set(read):
        del case.student[key]
        assert not case.arrays[f"grad_s_{key}"].any()
    case.check_gradients(value, rtol=1e-6, atol=1e-12)


def test_mgd(monkeypatch):
    case = Case("mgd")
    composite = case.compose("mgd", "bb", {})
    method = part(composite, "mgd")
    theirs = {"align": "align", "generator.0.0": "generation.0", "generator.2.0": "generation.2"}
    ends = ("weight", "bias")
    method.load_state_dict({f"{k}.{end}": case.arrays[f"param_{v}.{end}"] for k, v in theirs.items() for end in ends})
    monkeypatch.setattr(method, "drawn", lambda batch, x: case.arrays["param_u"])
    raw = composite.losses(*case.outputs("bb"), Batch(torch.zeros(0), case.labels))["mgd.mgd"]
    value = composite.weight("mgd.mgd", 0) * raw
    assert value.item() == pytest.approx(case.loss, rel=1e-12)
    case.check_gradients(value)


def test_task_loss():
    case = Case("task_ce_aux")
    value = total(task_loss(Output(case.student["logits"], case.student["aux"]), case.labels, 0.4))
    assert value.item() == pytest.approx(case.loss, rel=1e-12)
    case.check_gradients(value)


def test_kt_first_phase():
    case = Case("kt_phase1")
    composite = case.compose("kt", "dec", {"tuning_point": 10})
    for ours, theirs in (("student_tailor", "st_tail"), ("teacher_tailor", "tc_tail")):
        prefix = f"param_{theirs}_layers."
        weights = {k.removeprefix(prefix): v for k, v in case.arrays.items() if k.startswith(prefix)}
        getattr(part(composite, "kt"), ours).load_state_dict(weights)
    part(composite, "kt").widen.load_state_dict({"0.weight": case.arrays["param_st_conv"]})
    outputs = case.outputs("dec")
    values = composite.losses(*outputs, Batch(torch.zeros(0), case.labels, step=8))
    task = total(task_loss(outputs[0], case.labels, 0.4))
    golden = {"kd": "kd", "lt": "lt", "ft": "ft", "tri": "triplet"}
    for ours, theirs in golden.items():
        assert values[f"kt.{ours}"].item() == pytest.approx(case.arrays[f"out_{theirs}"].item(), rel=1e-12)
        case.check_gradients(values[f"kt.{ours}"], f"{theirs}_")
    whole = task + total(values)
    assert whole.item() == pytest.approx(case.loss, rel=1e-12)
    case.check_gradients(task, "task_")
    case.check_gradients(whole, "total_")


def test_skd_pair():
    case = Case("skd_pair_original_s50")
    composite = case.compose("skd", "dec", {"pixel": 0, "adv": 0})
    value = composite.losses(*case.outputs("dec"), Batch(torch.zeros(0), case.labels))["skd.pair"]
    # the reference computed in float32
    assert value.item() == pytest.approx(case.loss, rel=2e-5)
    (grad,) = torch.autograd.grad(value, case.student["feat"])
    torch.testing.assert_close(grad, case.arrays["grad_s_feat"].double(), rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "term", "key", "weight", "rtol"),
    [("amir_pa_9x9", "pa", "aspp", 1, 2e-5), ("amir_pi", "pi", "dec", 100, 1e-12)],
)
def test_pixel_pair(name, term, key, weight, rtol):
    case = Case(name)
    taps = {"logits": Tap(5, 8), "aspp_pre": Tap(5, 8), "dec_pre": Tap(5, 8)}
    student, teacher = (
        Output(torch.zeros(2, 5, 1, 1), None, {f"{tap}_pre": x for tap, x in side.items()})
        for side in (case.student, case.teacher)
    )
    composite = compose("pixel-pair", Sizes(5, taps, taps, iters=40, seed=0))
    values = composite.losses(student, teacher, Batch(torch.zeros(0), case.labels))
    value = composite.weight(f"pixel-pair.{term}", 0) * values[f"pixel-pair.{term}"]
    assert composite.weight(f"pixel-pair.{term}", 0) == weight
    # the reference of pa computed in float32, and the gradients are stored in it
    assert value.item() == pytest.approx(case.loss, rel=rtol)
    (grad,) = torch.autograd.grad(value, case.student[key])
    torch.testing.assert_close(grad, case.arrays[f"grad_s_{key}"].double(), rtol=2e-5, atol=1e-7)


def test_ka():
    case = Case("ka_adapt_p2")
    value = adaptation(case.student["feat"], case.teacher["code"], p=2, q=2)
    assert value.item() == pytest.approx(case.loss, rel=1e-12)
    case.check_gradients(value)
    case = Case("ka_affinity_rows")
    value = affinity_gap(case.student["feat"], case.teacher["code"], "rows")
    assert value.item() == pytest.approx(case.loss, rel=1e-12)
    case.check_gradients(value)
    case = Case("ka_recon")
    value = total(reconstruction(case.teacher["feat"], case.student["code"], case.student["recon"], alpha=1e-6))
    assert value.item() == pytest.approx(case.loss, rel=1e-12)
    case.check_gradients(value)


class Scores(torch.nn.Module):
    """Stand in for a discriminator whose scores are known: ``fake`` for logits of zeros, ``real`` for others."""

    def __init__(self, fake, real):
        super().__init__()
        self.scores = (fake, real)

    def forward(self, logits):
        return self.scores[bool(logits.any())]


@pytest.mark.parametrize(("method", "off"), [("skd", {"pixel": 0, "pair": 0}), ("adv", {})])
def test_adversarial_losses(method, off):
    for name in ("skd_adv_G_hing", "skd_adv_D_hing"):
        case = Case(name)
        composite = case.compose(method, "dec", {"critic_weight": 1.0, **off})
        part(composite, method).discriminator = Scores(case.student["D"], case.student.get("DT"))
        student, teacher = (Output(torch.full((2, 5, 64, 64), x), None, {}) for x in (0.0, 1.0))
        batch = Batch(torch.zeros(0), case.labels)
        if name == "skd_adv_G_hing":
            value = composite.losses(student, teacher, batch)[f"{method}.adv"]
        else:
            value = composite.critic_losses(student, teacher, batch)[f"{method}.discriminator"]
        assert value.item() == pytest.approx(case.loss, rel=1e-12)
        case.check_gradients(value)
