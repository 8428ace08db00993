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
from kdc.distill.models import Output, Tap

GOLDEN = Path(__file__).parents[1] / "golden"
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

    def check_gradients(self, loss, part=""):
        inputs = {k: x for k, x in self.student.items() if f"grad_{part}s_{k}" in self.arrays}
        assert inputs
        grads = torch.autograd.grad(loss, tuple(inputs.values()), retain_graph=True)
        for key, grad in zip(inputs, grads, strict=True):
            torch.testing.assert_close(grad, self.arrays[f"grad_{part}s_{key}"], rtol=1e-9, atol=1e-14)


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
    ],
)
def test_case(name, term, settings):
    case = Case(name)
    method = term.partition(".")[0]
    feature = "bb" if method in ("lad", "cad", "pad") else "dec"
    composite = case.compose(method, feature, settings)
    if "param_conv" in case.arrays:
        part(composite, method).adapter.load_state_dict({"0.weight": case.arrays["param_conv"]})
    value = composite.losses(*case.outputs(feature), Batch(torch.zeros(0), case.labels))[term]
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
