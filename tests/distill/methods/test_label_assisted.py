"""Label-assisted distillation: golden values, the hint channel, the teacher's phase and what becomes of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kdc.distill import job, models
from kdc.distill.batch import Batch
from kdc.distill.errors import UsageError, WeightsError
from kdc.distill.label_hint import assisted_loss, channel, fixed_codes
from kdc.distill.methods import Sizes, load
from kdc.distill.output import Output, Tap
from kdc.distill.preprocess import BGR_MEAN
from kdc.distill.run.checkpoint import load_deployable, load_state, load_student
from kdc.distill.run.folder import Run
from kdc.distill.settings.config import Config, resolve
from kdc.distill.settings.presets import preset

GOLDEN = Path(__file__).parents[2] / "golden"
SMALL = {
    "data.size": (32, 64),
    "data.count": 12,
    "data.val_count": 4,
    "train.crop": (32, 64),
    "train.batch": 2,
    "train.iters": 3,
    "train.val_every": 3,
    "train.save_every": 1,
    "train.log_every": 1,
    "train.threads": 1,
    "train.lr": 0.01,
    "model.student": "pspnet-mv2_035",
    "model.teacher": "self",
    "model.teacher_check": False,
    "method.name": "label-assisted",
}


def config(**changes: object) -> Config:
    return resolve({**SMALL, **{key.replace("__", "."): value for key, value in changes.items()}})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def whole(root: Path) -> Run:
    return job.run_job(config(), root=root)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_student(run, which="last").state_dict()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def golden() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / "label_assisted_teacher.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def test_golden_channel_and_loss():
    case = golden()
    labels = torch.where(case["in_labels"] < 0, 255, case["in_labels"])
    outputs = []
    leaves = {}
    plain = models.build("pspnet-mv2_035", 21, in_channels=4, preprocess=BGR_MEAN)  # not divided by a deviation
    for i in ("1", "2"):
        hint = channel(labels, case[f"param_codes{i}"], 0.03 * case[f"param_eps{i}"], plain)
        torch.testing.assert_close(hint, case[f"out_chan{i}"], rtol=1e-5, atol=1e-4)
        leaves |= {f"{tap}{i}": case[f"in_{tap}{i}"].double().requires_grad_() for tap in ("out", "aux")}
        outputs.append(Output(leaves[f"out{i}"], leaves[f"aux{i}"]))
    parts = assisted_loss(outputs, labels)
    total = torch.stack(list(parts.values())).sum()
    index = json.loads((GOLDEN / "index.json").read_text())["cases"]
    expected = next(c["loss"] for c in index if c["name"] == "label_assisted_teacher")
    assert total.item() == pytest.approx(expected, rel=1e-12)
    assert parts["consistency"].item() == pytest.approx(5 * case["out_cons"].item(), rel=1e-10)
    for key, grad in zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True):
        torch.testing.assert_close(grad.float(), case[f"grad_{key}"], rtol=1e-5, atol=1e-9)


def test_fixed_codes_are_the_published_ones_at_21_classes():
    torch.testing.assert_close(fixed_codes(21), (torch.arange(22) - 11) / 10)
    for classes in (2, 19, 182):
        codes = fixed_codes(classes)
        assert len(codes) == classes + 1 and codes[0] == pytest.approx(-1.1) and codes[-1] < 1.1


def test_the_channel_follows_the_normalisation_of_the_images():
    labels = torch.tensor([[[0, 1], [255, 1]]])
    model = models.build("pspnet-mv2_035", 2, in_channels=4)
    hint = channel(labels, torch.tensor([1.0, 2.0, 3.0]), 0.0, model)
    torch.testing.assert_close(hint[0, 0], torch.tensor([[1.0, 2.0], [3.0, 2.0]]) * 100 / model.std.mean())


def test_the_student_is_taught_with_fixed_codes_and_a_fiftieth_of_noise() -> None:
    taps = {"logits": Tap(3, 8)}
    method, seen = load("label-assisted")(Sizes(3, taps, taps, iters=10, seed=0)), []

    class Spy(torch.nn.Module):
        std, num_classes = torch.ones(1), 3

        def forward(self, images, hint):
            seen.append(hint)
            return Output(hint)

    labels = torch.randint(0, 4, (2, 128, 128), generator=torch.Generator().manual_seed(0))
    labels[labels == 3] = 255
    for step in (0, 1):
        method.teach(Spy(), Batch(torch.zeros(2, 3, 128, 128), labels, step))
    codes = 100 * fixed_codes(3)[torch.where(labels == 255, 3, labels)].unsqueeze(1)
    noise = [hint - codes for hint in seen]
    for each in noise:  # of 32,768 draws: the error of the deviation is 0.008, that of the mean 0.011
        assert each.std().item() == pytest.approx(2.0, abs=0.05) and abs(each.mean().item()) < 0.06
    assert not torch.equal(*noise)


def test_codes_are_drawn_anew_for_every_image_step_and_path():
    taps = {"logits": Tap(3, 8)}
    method = load("label-assisted")(Sizes(3, taps, taps, iters=10, seed=0, teacher_trained=False))
    seen = []

    class Spy(torch.nn.Module):
        std, num_classes = torch.ones(1), 3

        def forward(self, images, hint):
            seen.append(hint)
            return Output(hint)

    (phase,) = method.phases(Spy())
    labels = torch.zeros(2, 4, 4, dtype=torch.long)
    for step in (0, 0, 1):
        phase.run(phase.module, Batch(torch.zeros(2, 3, 4, 4), labels, step))
    assert len(seen) == 6 and torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3])
    codes = {round(float(h[i].mean()), 3) for h in (*seen[:2], *seen[4:]) for i in range(2)}
    assert len(codes) == 8
    assert all(h[i].std() < 10 for h in seen for i in range(2))


def test_the_phase_trains_the_teacher_and_is_kept(whole: Run):
    stages = [r["stage"] for r in whole.records() if "loss" in r]
    assert stages == ["label-assisted.teacher"] * 3 + ["main"] * 3
    first = whole.records()[0]
    assert set(first["task"]) == {"ce", "consistency"} and first["task"]["consistency"] > 0
    card = whole.card.teacher
    assert card and card.spec.in_channels == 4 and not card.trained
    assert card.file and Path(card.file).parent.name == "phases"
    assert load_student(whole).in_channels == 3
    state = load_state(whole.checkpoints)
    assert not any("teacher" in key for key in state["method"])


def test_an_equal_phase_is_reused_and_another_is_not(root: Path, whole: Run):
    again = job.run_job(config(), root=root)
    assert [r["stage"] for r in again.records() if "loss" in r] == ["main"] * 3
    assert [p.name for p in (again.path / "phases").iterdir()] == [p.name for p in (whole.path / "phases").iterdir()]
    assert equal(weights(again), weights(whole))
    other = job.run_job(config(**{"method__label-assisted__dual_path": False}), root=root)
    records = other.records()
    assert records[0]["stage"] == "label-assisted.teacher" and set(records[0]["task"]) == {"ce"}


# in the phase, at its end, in the main stage
@pytest.mark.parametrize("stop_at", [2, 4, pytest.param(6, marks=pytest.mark.process)])
def test_killed_and_resumed_equals_unbroken(
    whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    from kdc.distill import train as loop

    seen, original = [], loop.State.save

    def save(self, stage, write=True):
        original(self, stage, write)
        seen.append(1)
        if len(seen) == stop_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.State, "save", save)
    with pytest.raises(KeyboardInterrupt):
        job.run_job(whole.config, out=tmp_path / "run")
    monkeypatch.setattr(loop.State, "save", original)
    resumed = job.resume_job(str(tmp_path / "run"))
    assert (resumed.path / "metrics.jsonl").read_bytes() == (whole.path / "metrics.jsonl").read_bytes()
    assert equal(weights(resumed), weights(whole))


def test_a_teacher_of_its_own_run_needs_no_phase(root: Path, tmp_path: Path):
    settings = {k: v for k, v in preset("label-assist-teacher").items() if not k.startswith("train.")}
    teacher = job.run_job(
        resolve({**SMALL, **settings, "method.name": "none", "model.teacher": None}), root=tmp_path / "other"
    )
    assert teacher.card.kind == "train" and load_student(teacher).in_channels == 4
    assert {"ce", "consistency"} <= set(teacher.records()[0]["task"])
    run = job.run_job(config(model__teacher=str(teacher.path)), root=tmp_path / "other")
    assert [r["stage"] for r in run.records() if "loss" in r] == ["main"] * 3
    found = job.run_job(config(), root=tmp_path / "other")  # by its architecture
    assert found.card.teacher and found.card.teacher.run == str(teacher.path) and equal(weights(found), weights(run))
    with pytest.raises(WeightsError, match="shown the label"):
        load_deployable(teacher)
    with pytest.raises(WeightsError, match="label-assisted"):
        job.run_job(config(model__teacher=str(teacher.path), method__name="kd"), root=tmp_path / "other")
    with pytest.raises(WeightsError, match="label-assist-teacher"):
        job.run_job(config(model__teacher=str(run.path)), root=tmp_path / "other")


def test_a_student_never_sees_the_label(root: Path):
    with pytest.raises(UsageError, match=r"model\.hint"):
        job.run_job(config(model__hint=True), root=root)


def test_a_phase_file_that_was_changed_is_not_used(tmp_path: Path):
    first = job.run_job(config(), out=tmp_path / "first")
    (file,) = (first.path / "phases").glob("*.safetensors")
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    second = job.run_job(config(), out=tmp_path / "second")
    assert second.records()[0]["stage"] == "label-assisted.teacher"
    assert (second.path / "phases" / file.name).read_bytes() == good
