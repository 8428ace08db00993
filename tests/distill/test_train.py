"""The loop: exact resume, nothing handicapped, several processes, bad numbers, signals, phases and critics."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from kdc.distill import job, methods, models
from kdc.distill import train as loop
from kdc.distill.errors import BusyError, DataError, NumbersError, UsageError, WeightsError
from kdc.distill.methods import Critic, Method, Phase
from kdc.distill.run.checkpoint import load_state, load_student, save_student
from kdc.distill.run.folder import Run, find_run
from kdc.distill.schedule import poly
from kdc.distill.settings.config import Config, resolve
from kdc.distill.training import learner

from .._warm import Command

SMALL = {
    "data.size": (32, 64),
    "data.count": 12,
    "data.val_count": 4,
    "train.crop": (32, 64),
    "train.batch": 2,
    "train.iters": 6,
    "train.val_every": 4,
    "train.save_every": 2,
    "train.log_every": 1,
    "train.threads": 1,
    "train.lr": 0.01,
    "model.student": "pspnet-mv2_035",
    "model.teacher": "pspnet-mv2_050",
    "model.teacher_check": False,
}


def config(**changes: object) -> Config:
    return resolve({**SMALL, **{key.replace("__", "."): value for key, value in changes.items()}})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def teacher(root: Path) -> Run:
    return job.run_job(config(model__student="pspnet-mv2_050", train__iters=3), root=root, kind="teacher")


@pytest.fixture(scope="module")
def unbroken(root: Path, teacher: Run) -> Run:
    return job.run_job(config(method__name="kt", model__teacher=str(teacher.path)), root=root)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_student(run, which="last").state_dict()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_both_phases_of_kt_are_logged_and_the_run_is_complete(unbroken: Run, root: Path) -> None:
    steps = [record for record in unbroken.records() if "terms" in record]
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    assert set(steps[0]["terms"]) == {"kt.kd", "kt.lt", "kt.ft", "kt.tri"} == set(steps[0]["weights"])
    assert [record["step"] for record in unbroken.records() if "val" in record] == [4, 6]
    assert unbroken.card.status == "finished" and (unbroken.card.miou or 0) >= 0
    assert (root / "last").resolve() == unbroken.path
    assert {"config.yaml", "metrics.jsonl", "checkpoints/best.safetensors"} <= set(unbroken.card.files)


def test_the_best_of_some_images_is_not_called_that_of_all(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = job.run_job(config(train__val_images=3, train__iters=4), root=root)
    first, last = (line for line in capsys.readouterr().out.splitlines() if "val mIoU" in line)
    assert first.startswith("step 4: ") and first.endswith(" % on 3 of 4 images (best so far on these)")
    assert f"finished: val mIoU {100 * (run.card.miou or 0):.2f} % on all 4 images" in last

    job.run_job(config(train__iters=4), root=root)
    assert " % (best so far)\n" in capsys.readouterr().out


def _interrupted(source: Run, folder: Path, kill_after: int, workers: int = 0) -> Run:
    """Run the same configuration in a process of its own (with workers by the true command line) and kill it."""
    settings = folder / "config.yaml"
    settings.write_text(source.config.to_yaml())
    arguments = ["distill", "--config", str(settings), "--out", str(folder / "run"), "--workers", str(workers)]
    if workers:
        command = [sys.executable, "-m", "kdc", *arguments]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    else:
        process = Command(arguments, folder)
    metrics = folder / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    pointer = folder / "run" / "checkpoints" / "last.json"
    while time.monotonic() < deadline and process.poll() is None:
        if pointer.exists() and json.loads(pointer.read_text())["step"] >= kill_after:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert pointer.exists() and metrics.exists()
    return Run(folder / "run")


@pytest.mark.parametrize(("kill_after", "workers"), [pytest.param(0, 0, marks=pytest.mark.process), (4, 2)])
def test_killed_and_resumed_equals_unbroken(unbroken: Run, tmp_path: Path, kill_after: int, workers: int) -> None:
    broken = _interrupted(unbroken, tmp_path, kill_after, workers)
    assert broken.card.status == "running"
    # what the process wrote after its last checkpoint must go
    with (broken.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "half a li')
    resumed = job.resume_job(str(broken.path), workers=workers)
    assert (resumed.path / "metrics.jsonl").read_bytes() == (unbroken.path / "metrics.jsonl").read_bytes()
    assert equal(weights(resumed), weights(unbroken))
    with pytest.raises(UsageError, match="finished"):
        job.resume_job(str(resumed.path))


def test_resume_refuses_a_changed_checkpoint_or_teacher(unbroken: Run, tmp_path: Path) -> None:
    broken = _interrupted(unbroken, tmp_path, 2)
    file = broken.checkpoints / json.loads((broken.checkpoints / "last.json").read_text())["file"]
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert load_state(broken.checkpoints)["step"] == 0  # the one before it
    file.write_bytes(good)
    broken.record(teacher=broken.read()["teacher"] | {"sha256": "0" * 64})
    with pytest.raises(WeightsError, match="teacher"):
        job.resume_job(str(broken.path))


def test_zero_weights_are_plain_training_bit_for_bit(root: Path, teacher: Run) -> None:
    plain = job.run_job(config(), root=root)
    assert plain.card.kind == "train"
    for name, settings in (
        ("kt", {"method.kt.kd": 0, "method.kt.lt": 0, "method.kt.ft": 0, "method.kt.tri": 0}),
        (
            "cwd+lad",
            {"method.cwd.logits": 0, "method.cwd.feature": "step(0,1,1000)", "method.lad.ad": "step(0,1,1000)"},
        ),
    ):
        idle = job.run_job(
            resolve({**SMALL, "method.name": name, "model.teacher": str(teacher.path), **settings}), root=root
        )
        assert equal(weights(idle), weights(plain)), name
    assert idle.card.baseline == str(plain.path)


def test_accumulation_equals_one_batch_with_frozen_norms(root: Path) -> None:
    settings = {"train__batch": 4, "train__iters": 3, "train__freeze_bn": True, "model__dropout": 0.0}
    whole = job.run_job(config(**settings), root=root)
    parts = weights(job.run_job(config(**settings, train__accumulate=2), root=root))
    for key, value in weights(whole).items():
        torch.testing.assert_close(parts[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["kd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("none", "cwd"))])
def test_two_processes_equal_one(root: Path, teacher: Run, tmp_path: Path, method: str) -> None:
    settings = {
        "train.batch": 4,
        "train.iters": 2,
        "train.freeze_bn": True,
        "model.dropout": 0.0,
        "method.name": method,
    }
    one = job.run_job(resolve({**SMALL, **settings, "model.teacher": str(teacher.path)}), root=root)
    file = tmp_path / "config.yaml"
    file.write_text(one.config.to_yaml())
    arguments = ["train" if method == "none" else "distill", "--config", str(file), "--device", "cpu", "--devices", "2"]
    command = [sys.executable, "-m", "kdc", *arguments, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    two = Run(tmp_path / "run")
    assert two.card.world == 2
    of_two = weights(two)
    for key, value in weights(one).items():
        torch.testing.assert_close(of_two[key], value, rtol=1e-4, atol=1e-5)
    first, second = (run.records()[0] for run in (one, two))
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)


@pytest.mark.process
@pytest.mark.parametrize("method", ["adv+cirkd+ka", "label-assisted"])
def test_two_processes_run_phases_critics_and_queues(teacher: Run, tmp_path: Path, method: str) -> None:
    settings = {"train.batch": 4, "train.iters": 2, "train.devices": 2, "train.device": "cpu", "method.name": method}
    settings |= (
        {"method.cirkd.pixels": 40, "method.cirkd.regions": 8, "method.ka.ae_iters": 2} if "ka" in method else {}
    )
    named = "pspnet-mv2_050" if method == "label-assisted" else str(teacher.path)
    file = tmp_path / "config.yaml"
    file.write_text(resolve({**SMALL, **settings, "model.teacher": named}).to_yaml())
    done = Command(["distill", "--config", str(file), "--out", str(tmp_path / "run")], tmp_path)
    _, errors = done.communicate()
    assert done.returncode == 0, errors
    run = Run(tmp_path / "run")
    phases = {"label-assisted": "label-assisted.teacher"}.get(method, "ka.autoencoder")
    assert [r["stage"] for r in run.records() if "loss" in r] == [phases] * 2 + ["main"] * 2
    assert run.card.world == 2 and len([*(run.path / "phases").glob("*.safetensors")]) == 1


def test_not_finite_loss_stops_and_keeps_the_last_good_checkpoint(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = learner.task_loss

    def broken(output, labels, aux_weight, valid):
        terms = real(output, labels, aux_weight, valid)
        return {key: value * (float("nan") if broken.calls >= 3 else 1.0) for key, value in terms.items()}

    broken.calls = 0

    class Counting(loop.Learner):
        def forward(self, *given):
            result = super().forward(*given)
            broken.calls += 1
            return result

    monkeypatch.setattr(learner, "task_loss", broken)
    monkeypatch.setattr(loop, "Learner", Counting)
    with pytest.raises(NumbersError, match="last good checkpoint"):
        job.run_job(config(train__iters=20), root=root)
    run = max((Run(p.parent) for p in root.glob("*_train_*/run.json")), key=lambda r: r.path.stat().st_mtime)
    state = load_state(run.checkpoints)
    assert state["step"] == 2 and all(
        torch.isfinite(v).all() for v in state["student"].values() if v.is_floating_point()
    )
    assert [r["step"] for r in run.records() if r.get("skipped")] == [4, 5, 6]
    assert run.card.status == "failed"


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.process), (signal.SIGTERM, 143)]
)
def test_signal_saves_and_exits_with_its_code(tmp_path: Path, number: signal.Signals, code: int) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(config(train__iters=100000, train__save_every=100000, train__val_every=100000).to_yaml())
    process = Command(["train", "--config", str(file), "--out", str(tmp_path / "run")], tmp_path)
    while not (tmp_path / "run" / "checkpoints" / "last.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "--resume" in errors and len(errors.strip().splitlines()) == 1
    run = Run(tmp_path / "run")
    assert run.card.status == "stopped" and load_state(run.checkpoints)["step"] > 0


def test_a_run_killed_before_its_first_checkpoint_starts_from_its_beginning(root: Path, tmp_path: Path) -> None:
    whole = job.run_job(config(train__iters=2), root=root)
    killed = tmp_path / "killed"
    shutil.copytree(whole.path, killed)
    shutil.rmtree(killed / "checkpoints")
    Run(killed).record(status="running", files={})
    resumed = job.resume_job(str(killed))
    assert equal(weights(resumed), weights(whole)) and resumed.records() == whole.records()
    assert any("starts from its beginning" in line for line in resumed.card.notes)


def test_a_lost_checkpoint_costs_some_steps_and_nothing_else(unbroken: Run, tmp_path: Path) -> None:
    broken = _interrupted(unbroken, tmp_path, 4)
    newest = json.loads((broken.checkpoints / "last.json").read_text())
    (broken.checkpoints / newest["file"]).write_bytes(b"lost")
    resumed = job.resume_job(str(broken.path))
    assert (resumed.path / "metrics.jsonl").read_bytes() == (unbroken.path / "metrics.jsonl").read_bytes()
    assert equal(weights(resumed), weights(unbroken))
    assert any("the checkpoint before it is taken" in line for line in resumed.card.notes)


def test_lost_logs_are_said_and_not_padded(unbroken: Run, tmp_path: Path) -> None:
    broken = _interrupted(unbroken, tmp_path, 4)
    log = broken.path / "metrics.jsonl"
    log.write_bytes(b"\xff")
    resumed = job.resume_job(str(broken.path))
    assert b"\0" not in log.read_bytes() and resumed.records()[-1]["step"] == 6
    assert any("metrics.jsonl has lost lines" in line for line in resumed.card.notes)


def test_a_resumed_run_may_go_on_with_other_settings_that_are_said(unbroken: Run, tmp_path: Path) -> None:
    broken = _interrupted(unbroken, tmp_path, 2)
    resumed = job.resume_job(str(broken.path), sets=["train.lr=0.005"])
    assert resumed.config.train.lr == 0.005 == resumed.edited_config().train.lr
    assert any("train.lr (0.01, now 0.005)" in line for line in resumed.card.notes)


def test_buffers_that_overflow_stop_the_run_before_they_are_kept(root: Path) -> None:
    with pytest.raises(NumbersError, match="running_var is no longer finite"):
        job.run_job(config(train__iters=6, train__lr=1e9, train__save_every=1, train__val_every=1), root=root)
    run = max((Run(p.parent) for p in root.glob("*_train_*/run.json")), key=lambda r: r.path.stat().st_mtime)
    kept = [load_state(run.checkpoints)["student"]]
    if (run.checkpoints / "best.safetensors").exists():
        kept.append(load_student(run).state_dict())
    assert all(value.isfinite().all() for tensors in kept for value in tensors.values() if value.is_floating_point())


def test_two_runs_never_share_a_folder(unbroken: Run, root: Path) -> None:
    with pytest.raises(BusyError, match="holds a run"):
        job.run_job(config(), out=unbroken.path)
    other = find_run(unbroken.path)
    unbroken.lock()
    try:
        with pytest.raises(BusyError, match="another process"):
            other.lock()
    finally:
        unbroken.unlock()


def test_a_teacher_of_random_weights_is_refused(root: Path, tmp_path: Path) -> None:
    save_student(tmp_path / "t.safetensors", models.build("pspnet-mv2_050", 11, seed=1).eval(), {})
    settings = {"method__name": "kd", "model__teacher": str(tmp_path / "t.safetensors"), "model__teacher_check": True}
    with pytest.raises(WeightsError, match="knows nothing"):
        job.run_job(config(**settings), root=root)


def test_a_teacher_of_other_classes_is_refused(root: Path, teacher: Run, tmp_path: Path) -> None:
    save_student(tmp_path / "t.safetensors", models.build("pspnet-mv2_035", 7, seed=0), {})
    with pytest.raises(WeightsError, match="7 classes"):
        job.run_job(config(method__name="kd", model__teacher=str(tmp_path / "t.safetensors")), root=root)


def test_missing_teacher_names_the_cure(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--teacher"):
        job.run_job(config(method__name="kd", model__teacher=None), root=tmp_path)
    with pytest.raises(DataError):
        job.run_job(resolve({"data.source": str(tmp_path)}), root=tmp_path)


def test_the_average_of_weights_is_kept(root: Path) -> None:
    run = job.run_job(config(train__ema=0.5, train__iters=2), root=root)
    state = load_state(run.checkpoints)
    assert equal(weights(run), state["average"]) and not equal(weights(run), state["student"])


class Toy(Method):
    """A term with an adapter, a phase of its own and a critic, to see that the loop runs all of it."""

    weights = {"toy": 1.0}

    def __init__(self, sizes, *, terms=None):
        super().__init__(sizes, terms=terms)
        self.adapter = nn.Conv2d(sizes.num_classes, sizes.num_classes, 1)
        self.coder = nn.Conv2d(3, 1, 1)
        self.judge = nn.Conv2d(sizes.num_classes, 1, 1)
        for module in (self.adapter, self.coder, self.judge):
            for parameter in module.parameters():
                nn.init.uniform_(parameter, -0.1, 0.1, generator=self.rng("toy"))

    def joint_parameters(self):
        return list(self.adapter.parameters())

    def phases(self, teacher):
        def run(module, batch):
            return module(batch.images / 255)

        def loss(coded, batch):
            return {"size": coded.square().mean()}

        return [Phase("coder", self.coder, run, loss, 0.1, 0.9, 0.0, 3)]

    def losses(self, student, teacher, batch):
        return {
            "toy": (self.adapter(student.logits) - teacher.logits).square().mean()
            - 0.01 * self.judge(student.logits).mean()
        }

    def critics(self):
        return {"judge": Critic(self.judge, lr=0.01)}

    def critic_losses(self, student, teacher, batch):
        return {"judge": self.judge(student.logits).mean() - self.judge(teacher.logits).mean()}


def test_phases_and_critics_run_and_resume_exactly(
    root: Path, teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = methods.load
    monkeypatch.setattr(methods, "load", lambda name: Toy if name == "kd" else real(name))
    settings = config(method__name="kd", model__teacher=str(teacher.path), train__save_every=1)
    whole = job.run_job(settings, root=root)
    assert [r["stage"] for r in whole.records() if "loss" in r] == ["kd.coder"] * 3 + ["main"] * 6
    state = load_state(whole.checkpoints)
    start = Toy(methods.Sizes(11, {}, {}, 6, 0))
    for part in ("adapter", "coder", "judge"):
        assert not torch.equal(state["method"][f"methods.kd.{part}.weight"], getattr(start, part).weight), part

    for stop_at in (2, 5):  # in the phase, and in the main stage
        seen = []
        original = loop.State.save

        def save(self, stage, write=True, stop_at=stop_at, seen=seen, original=original):
            original(self, stage, write)
            seen.append(1)
            if len(seen) == stop_at:
                raise KeyboardInterrupt

        monkeypatch.setattr(loop.State, "save", save)
        with pytest.raises(KeyboardInterrupt):
            job.run_job(settings, out=tmp_path / str(stop_at) / "run")
        monkeypatch.setattr(loop.State, "save", original)
        resumed = job.resume_job(str(tmp_path / str(stop_at) / "run"))
        assert (resumed.path / "metrics.jsonl").read_bytes() == (whole.path / "metrics.jsonl").read_bytes()
        assert equal(load_state(resumed.checkpoints)["method"], state["method"]) and equal(
            weights(resumed), weights(whole)
        )


def test_critics_see_every_micro_batch(root: Path, teacher: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = methods.load
    monkeypatch.setattr(methods, "load", lambda name: Toy if name == "kd" else real(name))
    settings = {"method__name": "kd", "model__teacher": str(teacher.path), "train__iters": 3, "train__batch": 4}
    settings |= {"train__freeze_bn": True, "model__dropout": 0.0}
    whole, parts = (
        load_state(job.run_job(config(**settings, train__accumulate=n), root=root).checkpoints)["method"]
        for n in (1, 4)
    )
    start = Toy(methods.Sizes(11, {}, {}, 3, 0))
    moved = whole["methods.kd.judge.weight"] - start.judge.weight
    other = parts["methods.kd.judge.weight"] - start.judge.weight
    torch.testing.assert_close(other, moved, rtol=1e-3, atol=1e-6)
    assert moved.abs().max() > 1e-3


def test_an_idle_tailor_rests_and_the_phase_stands_in_the_log(
    root: Path, teacher: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, original = [], loop.State.save

    def save(self, stage, write=True):
        original(self, stage, write)
        kept.append({k: v.clone() for k, v in self.method.state_dict().items()})

    monkeypatch.setattr(loop.State, "save", save)
    settings = {"method__name": "kt", "method__kt__tailor.train": True, "method__kt__tuning_point": 4}
    settings |= {"model__teacher": str(teacher.path), "train__save_every": 1, "train__weight_decay": 0.1}
    run = job.run_job(config(**settings), root=root)
    # steps 1 to 3 are phase A, from iteration 4 on it is phase B
    assert [record["phases"] for record in run.records() if "terms" in record] == [{"kt": "A"}] * 3 + [{"kt": "B"}] * 3

    def still(part: str, first: int, last: int) -> list[bool]:
        names = [name for name in kept[0] if f".{part}." in name]
        assert names
        return [torch.equal(kept[first][name], kept[last][name]) for name in names]

    assert all(still("teacher_tailor", 0, 3)) and not any(still("teacher_tailor", 3, 6))
    for part in ("student_tailor", "widen"):
        assert not any(still(part, 0, 3)) and all(still(part, 3, 6))


@pytest.mark.parametrize("tool", ["sgd", "adamw"])
def test_heads_have_a_rate_of_their_own(root: Path, teacher: Run, tool: str, tmp_path: Path) -> None:
    settings = {"method__name": "lad", "model__teacher": str(teacher.path), "train__optimizer": tool}
    settings |= {"train__lr": 1e-30, "train__head_lr": 0.01, "train__weight_decay": 0.0}
    run = job.run_job(config(**settings, train__iters=4), out=tmp_path / "run")
    start = models.build("pspnet-mv2_035", 11, seed=0)
    trained = load_student(run, which="last")
    pairs = ((name, p - start.get_parameter(name)) for name, p in trained.named_parameters())
    moved = {name for name, difference in pairs if difference.abs().max() > 1e-20}
    assert moved == {name for name, _ in start.named_parameters() if not name.startswith("backbone.")}
    groups = load_state(run.checkpoints)["optimiser"]["param_groups"]
    assert [group["lr"] for group in groups] == [poly(base, 3, 4, 0.9, 0) for base in (1e-30, 0.01)]
    heads = len(start.head_parameters())
    assert [len(group["params"]) for group in groups] == [len(list(start.parameters())) - heads + 3, heads]


def test_a_stop_leaves_no_trace_in_the_metrics(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(train__log_every=4, train__ema=0.5)
    whole = job.run_job(settings, root=root)

    class Third(loop.Signals):
        """A signal that comes before the third step is taken."""

        def __enter__(self):
            self.asked = 0
            return self

        def __exit__(self, *error):
            pass

        @property
        def number(self):
            self.asked += 1
            return signal.SIGTERM if self.asked == 3 else 0

    with monkeypatch.context() as patch:
        patch.setattr(loop, "Signals", Third)
        with pytest.raises(loop.Stopped):
            job.run_job(settings, out=tmp_path / "run")
    assert load_state(tmp_path / "run" / "checkpoints")["step"] == 3
    resumed = job.resume_job(str(tmp_path / "run"))
    assert (resumed.path / "metrics.jsonl").read_bytes() == (whole.path / "metrics.jsonl").read_bytes()
    assert equal(weights(resumed), weights(whole))


@pytest.mark.process
def test_a_stop_reaches_every_process(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    far = {"train__iters": 100000, "train__save_every": 100000, "train__val_every": 100000}
    file.write_text(config(**far, train__device="cpu", train__devices=2).to_yaml())
    process = Command(["train", "--config", str(file), "--out", str(tmp_path / "run")], tmp_path)
    while not (tmp_path / "run" / "checkpoints" / "last.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert errors.count("kdc: error") == 1
    assert Run(tmp_path / "run").card.status == "stopped"


@pytest.mark.process
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_named_by_the_other(tmp_path: Path, rank: int) -> None:
    file = tmp_path / "config.yaml"
    far = {"train__iters": 100000, "train__save_every": 100000, "train__val_every": 100000}
    file.write_text(config(**far, train__device="cpu", train__devices=2).to_yaml())
    process = Command(["train", "--config", str(file), "--out", str(tmp_path / "run")], tmp_path)
    while not (tmp_path / "run" / "checkpoints" / "last.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    first = process._process.pid
    assert first is not None
    [second] = [each for each in psutil.Process(first).children() if "train" in each.cmdline()]
    if rank:
        second.kill()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 7, errors
        assert f"kdc: error: process {second.pid} (rank 1) of this run ended by signal SIGKILL" in errors
        assert Run(tmp_path / "run").card.status == "failed"
    else:
        os.kill(first, signal.SIGKILL)
        psutil.wait_procs([second], timeout=60)
        _, errors = process.communicate()
        assert "kdc: error: another process of this run has ended" in errors and "a bug in kdc" not in errors
    assert "--resume" in errors


def test_a_step_not_taken_leaves_the_running_statistics_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = models.SegmentationModel.normalise, []

    def overflowing(self, images):
        calls.append(self.training)
        return real(self, images) * (float("inf") if sum(calls) == 3 and self.training else 1.0)

    monkeypatch.setattr(models.SegmentationModel, "normalise", overflowing)
    run = job.run_job(config(), root=root)
    assert [r["step"] for r in run.records() if r.get("skipped")] == [3]
    assert all(value.isfinite().all() for value in weights(run).values())


def test_bfloat16_trains_with_losses_in_float32(root: Path, teacher: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Exact(loop.Learner):
        """Fabric casts what a learner is given: the divisor of the cross-entropy must come through unrounded."""

        def forward(self, batch, shown, valid, *rest):
            assert int(valid) == int((batch.labels != 255).sum())
            return super().forward(batch, shown, valid, *rest)

    monkeypatch.setattr(loop, "Learner", Exact)
    run = job.run_job(
        config(method__name="kt", model__teacher=str(teacher.path), train__precision="bf16-mixed", train__iters=2),
        root=root,
    )
    assert all(value.dtype != torch.bfloat16 for value in weights(run).values())
    assert run.records()[0]["loss"] > 0


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "16-mixed"])
def test_cuda_trains_and_falls(root: Path, teacher: Run, precision: str) -> None:
    settings = {
        "train__device": "cuda",
        "train__precision": precision,
        "train__iters": 40,
        "train__batch": 8,
        "train__log_every": 10,
        # more than 65504 labelled pixels: a count of them does not fit into half precision
        "data__size": (128, 256),
        "train__crop": (128, 256),
    }
    run = job.run_job(config(method__name="kt", model__teacher=str(teacher.path), **settings), root=root)
    losses = [r["loss"] for r in run.records() if "loss" in r]
    assert all(r["task"]["ce"] > 0.1 for r in run.records() if "loss" in r)
    assert losses[-1] < losses[0] and "memory_mib" in run.records("timing")[-1]
    assert ("scale" in load_state(run.checkpoints)["precision"]) == (precision == "16-mixed")


@pytest.mark.gpu
def test_cuda_equals_cpu_for_the_first_steps(root: Path, teacher: Run) -> None:
    settings = {"train__iters": 2, "train__freeze_bn": True, "model__dropout": 0.0}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    cpu, cuda = (
        job.run_job(config(method__name="kt", model__teacher=str(teacher.path), train__device=d, **settings), root=root)
        for d in ("cpu", "cuda")
    )
    for a, b in zip(cpu.records(), cuda.records(), strict=True):
        if "loss" in a:
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)


def test_a_run_without_steps_says_so(root: Path) -> None:
    run = job.run_job(config(method__name="none", train__iters=0), root=root)
    assert any("train.iters = 0: no step is taken" in note for note in run.card.notes)


def test_a_loss_of_nothing_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = loop.fetch

    def unlabelled(*arguments: object) -> object:
        micro, error = real(*arguments)  # pyright: ignore[reportArgumentType]
        for batch in micro:
            batch.labels.fill_(255)
        return micro, error

    monkeypatch.setattr(loop, "fetch", unlabelled)
    run = job.run_job(config(method__name="none", train__iters=2), root=root)
    assert any("the loss was exactly 0 in every step of main" in note for note in run.card.notes)
