"""Probing: its numbers are those of a training step, it changes and writes nothing, its advice follows from them."""

import contextlib
import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, cast

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from kdc import cli
from kdc.distill import job, methods
from kdc.distill.batch import IGNORE, Batch
from kdc.distill.errors import NumbersError, UsageError, WeightsError
from kdc.distill.evaluation.evaluate import evaluate, model_predictor
from kdc.distill.losses import task_loss
from kdc.distill.methods import Critic, Method
from kdc.distill.probe.gradients import Rehearsal, rehearse
from kdc.distill.probe.probe import forecast, probe
from kdc.distill.probe.records import PhaseState, TapShape
from kdc.distill.run.folder import Run
from kdc.distill.settings.config import Config, resolve
from kdc.distill.training.batches import Batches
from kdc.distill.training.devices import launch
from kdc.distill.training.learner import Learner

SMALL = {
    "data.size": (32, 64),
    "data.count": 12,
    "data.val_count": 4,
    "train.crop": (32, 64),
    "train.batch": 2,
    "train.iters": 6,
    "train.threads": 1,
    "train.lr": 0.01,
    "model.student": "pspnet-mv2_035",
    "model.teacher": "pspnet-mv2_050",
    "model.teacher_check": False,
    "method.name": "lad+kd",
}


def config(**changes: object) -> Config:
    return resolve({**SMALL, **{key.replace("__", "."): value for key, value in changes.items()}})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module", autouse=True)
def teacher(root: Path) -> Run:
    plain = config(model__student="pspnet-mv2_050", train__iters=3, model__teacher=None, method__name="none")
    return job.run_job(plain, root=root, kind="teacher")


class Known(Method):
    """Terms whose gradients are known: they are multiples of the task loss."""

    taps = ("logits",)
    weights: ClassVar[dict[str, float]] = {"along": 4.0, "against": 1.0, "still": 1.0, "judged": 0.01}

    def __init__(self, sizes, *, terms=None, factor=0.5):
        super().__init__(sizes, terms=terms)
        self.factor = factor
        self.judge = nn.Conv2d(sizes.num_classes, 1, 1)
        for parameter in self.judge.parameters():
            nn.init.uniform_(parameter, generator=self.rng("judge"))
        self.register_buffer("seen", torch.zeros(()))

    def remember(self, teacher, batch):
        self.seen += 1

    def losses(self, student, teacher, batch):
        task = torch.stack(list(task_loss(student, batch.labels).values())).sum()
        judged = nn.functional.conv2d(student.logits, self.judge.weight.detach()).mean()
        values = {"along": self.factor * task, "against": -3 * task, "still": task.detach(), "judged": judged}
        return {term: values[term] for term in self.terms}

    def critics(self):
        return {"judge": Critic(self.judge, lr=0.01)}


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    real = methods.load
    monkeypatch.setattr(methods, "load", lambda name: Known if name == "kd" else real(name))


def ready(settings: Config, root: Path) -> tuple[job.Parts, Fabric]:
    fabric = launch(settings)
    return job.prepare(settings, fabric, root, dry=True), fabric


def rehearsal_of(settings: Config, parts: job.Parts, fabric: Fabric, batches: int = 2):
    assert parts.teacher
    stream = Batches(parts.data, settings, fabric).stream("main", 0, batches)
    return rehearse(settings, fabric, parts.student, parts.method, parts.teacher.model, stream, batches)


def near(value: float, expected: float, rel: float = 1e-5) -> bool:
    return value == pytest.approx(expected, rel=rel)


@pytest.mark.parametrize("method", ["lad+kd", "kt"])
def test_value_and_gradient_are_those_of_a_training_step(method: str, root: Path) -> None:
    settings = config(method__name=method, model__dropout=0.0, train__channels_last=False)
    parts, fabric = ready(settings, root)
    found = rehearsal_of(settings, parts, fabric, batches=1)
    assert parts.teacher
    learner = Learner(copy.deepcopy(parts.student), copy.deepcopy(parts.method), settings.task).train()
    sample = next(Batches(parts.data, settings, fabric).stream("main", 0, 1))
    batch = Batch(sample["image"], sample["label"].long())
    shown = parts.method.teach(parts.teacher.model, batch)
    valid = (batch.labels != IGNORE).sum()

    def gradient(*terms: str) -> torch.Tensor:
        """Of the task alone, or of one weighted term as the difference it makes in the total."""
        part = copy.deepcopy(learner)
        part.method.terms = terms
        part.method.losses = lambda *given: {t: learner.method.losses(*given)[t] for t in terms}  # type: ignore[method-assign]
        part(batch, shown, valid, 1, 1.0).total.backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in part.student.parameters()]
        return torch.cat([g.flatten() for g in grads]).double()

    task = gradient()
    assert near(found.task_norm[0], float(task.norm()), 1e-4)
    if method == "lad+kd":  # lad reaches the backbone alone
        reached = sum(p.numel() for p in parts.student.backbone.parameters())
        assert near(found.terms["lad.ad"][0].task_norm, float(task[:reached].norm()), 1e-4)
    values = learner(batch, shown, valid, 1, 1.0)
    assert near(found.task[0], float(sum(values.task.values())))
    for name, (pull,) in found.terms.items():
        term = (gradient(name) - task) / parts.method.weight(name, 0)
        assert near(pull.value, float(values.terms[name])), name
        assert near(pull.norm, float(term.norm()), 1e-3), name
        assert pull.cosine is not None and pull.task_norm <= float(task.norm()) * (1 + 1e-4)
        dot = float(term @ task)
        assert pull.cosine * pull.norm * pull.task_norm == pytest.approx(dot, rel=1e-2, abs=1e-4 * pull.norm), name


def test_terms_with_known_gradients(root: Path, known: None) -> None:
    settings = config(method__name="kd")
    found = rehearsal_of(settings, *ready(settings, root))
    for task, norm, along, against, still in zip(
        found.task, found.task_norm, *(found.terms[f"kd.{term}"] for term in ("along", "against", "still"))
    ):
        assert near(along.value, task / 2) and near(against.value, -3 * task) and near(still.value, task)
        assert near(along.norm, norm / 2) and near(against.norm, 3 * norm)
        assert along.cosine is not None and near(along.cosine, 1) and near(along.task_norm, norm)
        assert against.cosine is not None and near(against.cosine, -1)
        assert (still.norm, still.cosine) == (0, None)
    assert len(found.task) == 2 and found.task[0] != found.task[1]
    assert found.with_critic == {"kd.judged"}


@pytest.mark.parametrize("method", ["lad+kd", "kt", "kd"])
def test_nothing_is_changed(method: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = methods.load
    monkeypatch.setattr(methods, "load", lambda name: Known if (name, method) == ("kd", "kd") else real(name))
    settings = config(method__name=method)
    parts, fabric = ready(settings, root)
    assert parts.teacher
    modules = (parts.student, parts.method, parts.teacher.model)
    before = [copy.deepcopy(module.state_dict()) for module in modules]
    modes = [[m.training for m in module.modules()] for module in modules]
    grads = [[p.requires_grad for p in module.parameters()] for module in modules]
    torch.manual_seed(123)
    drawn = torch.get_rng_state()
    first = rehearsal_of(settings, parts, fabric)
    assert torch.equal(drawn, torch.get_rng_state())
    for module, state, mode, wanted in zip(modules, before, modes, grads):
        assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
        assert [m.training for m in module.modules()] == mode
        assert [p.requires_grad for p in module.parameters()] == wanted
        assert all(p.grad is None for p in module.parameters())
    torch.manual_seed(7)  # dropout draws from the seed of the run, whatever was drawn before
    second = rehearsal_of(settings, parts, fabric)
    assert (first.task, first.terms, first.magnitudes) == (second.task, second.terms, second.magnitudes)


def test_the_scale_of_fp16_is_taken_out_again(root: Path) -> None:
    settings = config(method__name="kd", model__dropout=0.0)
    parts, fabric = ready(settings, root)
    plain = rehearsal_of(settings, parts, fabric)
    half = SimpleNamespace(strategy=SimpleNamespace(precision=SimpleNamespace(precision="16-mixed")))
    half.device, half.global_rank, half.world_size, half.autocast = fabric.device, 0, 1, contextlib.nullcontext
    scaled = rehearsal_of(settings, parts, cast(Fabric, half))
    for a, b in zip(plain.terms["kd.kd"], scaled.terms["kd.kd"]):
        assert near(a.norm, b.norm, 1e-4) and near(a.task_norm, b.task_norm, 1e-4)


def test_magnitudes_and_shapes(root: Path) -> None:
    settings = config(method__name="lad", model__output_stride=16)
    parts, fabric = ready(settings, root)
    found = rehearsal_of(settings, parts, fabric, batches=1)
    assert found.shapes == [TapShape("bb", [112, 2, 4], [160, 4, 8], resized=True)]
    assert parts.teacher
    with torch.no_grad():
        image = next(Batches(parts.data, settings, fabric).stream("main", 0, 1))["image"]
        m = parts.teacher.model(image).tap("bb").flatten(1).norm(dim=1).mean()
    (values,) = found.magnitudes["lad"]
    assert near(values["m"], float(m), 1e-4) and values["n"] > 0 and values["mn/N"] > 0


def test_the_whole_probe(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(root.rglob("*"))
    result = probe(config(train__batch=4, train__accumulate=2, train__iters=7200), images=3, batches=2, root=root)
    out = capsys.readouterr().out
    assert sorted(root.rglob("*")) == before
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["batches"] == {
        "count": 2, "images": 2, "crop": [32, 64]
    }  # fmt: skip
    assert [shape.tap for shape in result.shapes] == ["bb", "logits"]
    assert not any(shape.resized for shape in result.shapes)
    seconds, step = result.forecast.seconds, result.forecast.step
    assert set(seconds) == {"teacher", "student forward", "losses", "student backward", "reading"}
    assert near(step, 2 * sum(seconds.values())) and near(result.forecast.hours, 2 * step)
    assert result.forecast.peak_mib is None and result.forecast.memory_mib.total > 0
    assert [term.term for term in result.terms] == ["lad.ad", "kd.kd"]
    assert all(near(term.weighted, term.weight * term.value) for term in result.terms)
    known = result.knowledge
    assert known and known.images == 3 and 0 < known.chance < 0.2
    for said in ("untrained, its weights are random", "112 -> 160", "lad.ad", "nothing was written", "a heuristic"):
        assert said in out, said
    for name in known.not_taught:
        assert name in out


@pytest.mark.parametrize(("workers", "step"), [(0, 28.0), (2, 10.0), (4, 8.0)])
def test_loader_processes_read_while_the_networks_work(root: Path, workers: int, step: float) -> None:
    settings = config(train__workers=workers, train__accumulate=2, train__iters=1800)
    parts, fabric = ready(settings, root)
    assert parts.teacher
    found = Rehearsal(seconds={"reading": [10.0], "teacher": [1.0, 1.0, 9.0], "losses": [3.0]}, peak_mib=100.0)
    expected = forecast(settings, parts, parts.teacher, found, 1, fabric)
    assert expected.step == step and near(expected.hours, step / 2)
    state = sum(p.numel() for p in parts.student.parameters()) * 4 / 2**20  # SGD's momentum
    assert expected.peak_mib is not None and near(expected.peak_mib, 100 + state)


def test_the_teacher_is_compared_with_the_student_class_by_class(root: Path, teacher: Run) -> None:
    same = config(model__student="pspnet-mv2_050", model__init=str(teacher.path))
    known = probe(same, batches=1, root=root).knowledge
    assert known and known.not_taught == [row.name for row in known.classes]  # it knows all that its teacher knows
    known = probe(config(), batches=1, root=root).knowledge
    parts, _ = ready(config(), root)
    assert known and parts.val and parts.teacher
    for role, model in (("teacher", parts.teacher.model), ("student", parts.student)):
        scores = evaluate(model_predictor(model), parts.val)
        expected = dict(zip(scores.classes, scores.iou))
        assert all(getattr(row, role) == expected[row.name] for row in known.classes)
        assert getattr(known, role) == scores.miou_present
    assert known.not_taught == [row.name for row in known.classes if row.teacher <= row.student]


@pytest.mark.process
def test_the_suggestion_reaches_the_share_that_it_states(root: Path) -> None:
    result = probe(config(method__name="at+kd", **{"method__at__att": 1e9}), batches=2, root=root)
    assert result.advice[0].term == "at.att" and result.settings[0].startswith("method.at.att=")
    flags = {key.replace("__", "."): value for key, value in {**SMALL, "method__name": "at+kd"}.items()}
    again = probe(resolve(flags, [result.settings[0]]), batches=2, root=root)
    (share,) = (term.share for term in again.terms if term.term == "at.att")
    assert min(abs(share - aim) / aim for aim in (1.0, 0.5, 0.2)) < 0.06  # two digits are given
    assert not any(setting.startswith("method.at.att") for setting in again.settings)


@pytest.mark.process
def test_a_phase_is_named_and_its_result_is_used_where_it_is(root: Path, tmp_path: Path) -> None:
    settings = config(method__name="label-assisted", model__teacher="self", train__iters=2)
    result = probe(settings, batches=1, root=tmp_path)
    assert result.phases == [PhaseState("label-assisted.teacher", iters=2, ready=False)]
    assert result.to_dict()["knowledge"] == {"skipped": result.skipped} and result.skipped and result.settings == []
    assert all(term.untrained for term in result.terms)
    job.run_job(settings, root=tmp_path)
    after = probe(settings, batches=1, root=tmp_path)
    assert after.phases[0].ready and not any(term.untrained for term in after.terms)
    assert after.knowledge and after.skipped is None
    assert after.terms[0].value != result.terms[0].value


def test_critics_are_named_and_get_no_advice(root: Path, known: None, capsys: pytest.CaptureFixture[str]) -> None:
    result = probe(config(method__name="kd"), batches=1, root=root)
    assert result.critics == ["kd.judge"] and "critic kd.judge" in capsys.readouterr().out
    advice = {each.term: each for each in result.advice}
    assert advice["kd.judged"].suggested is None and "critic" in advice["kd.judged"].why
    assert advice["kd.still"].suggested is None and "no gradient" in advice["kd.still"].why
    assert advice["kd.against"].suggested == pytest.approx(0.2 / 3, rel=0.05)
    assert result.advice[0].term == "kd.against" and result.settings[0].startswith("method.kd.against=0.067")
    assert advice["kd.along"].suggested == 4.0  # twice the task's gradient is near enough to once


def test_bad_numbers_name_the_term(root: Path, known: None) -> None:
    with pytest.raises(NumbersError, match=r"kd\.along is inf on batch 1"):
        probe(config(method__name="kd", **{"method__kd__factor": 1e39}), batches=1, root=root)


def test_what_cannot_be_probed(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name a --method"):
        probe(config(method__name="none"), root=root)
    with pytest.raises(WeightsError, match="not fitted yet") as caught:
        probe(config(), root=tmp_path)
    assert not list(tmp_path.iterdir()) and caught.value.exit_code == 4


@pytest.mark.process
def test_the_command_that_it_names_makes_the_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = "--size 32x64 --crop 32x64 --batch 2 --set data.count=12 --set data.val_count=4 --set train.threads=1"
    line = f"probe {given} --teacher pspnet-mv2_050 --student pspnet-mv2_035 --method kd --images 2 --batches 1 --json"
    assert cli.run(line.split()) == 4
    (command,) = re.findall(r"make it with: kdc (train .*)", capsys.readouterr().err)
    assert cli.run(f"{command} --crop 32x64 --batch 2 --iters 1".split()) == 0
    capsys.readouterr()
    assert cli.run(line.split()) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and json.loads(out)["terms"][0]["term"] == "kd.kd"
