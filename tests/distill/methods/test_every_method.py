"""Every method in the real loop: on every kind of pair, resumed after a kill, silent where all is learnt."""

import copy
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdc.distill import job, methods, models
from kdc.distill import train as loop
from kdc.distill.batch import Batch
from kdc.distill.losses import task_loss
from kdc.distill.methods import Sizes, compose, names
from kdc.distill.output import Output
from kdc.distill.run.checkpoint import load_state, load_student
from kdc.distill.run.folder import Run
from kdc.distill.settings.config import Config, resolve

SMALL = {
    "data.size": (32, 64),
    "data.count": 8,
    "data.val_count": 2,
    "train.crop": (32, 64),
    "train.batch": 2,
    "train.iters": 3,
    "train.val_every": 10,
    "train.save_every": 1,
    "train.log_every": 1,
    "train.threads": 1,
    "train.lr": 0.01,
    "model.student": "pspnet-mv2_035",
    "model.teacher": "pspnet-mv2_050",
    "model.teacher_check": False,
}
#: forms of a method that its defaults do not show
VARIANTS = {
    "skd 2x2, wgan-gp, sgd": ("skd", {"pool": "2x2", "adv_loss": "wgan-gp", "critic_optimizer": "sgd"}),
    "pixel-pair 2x2": ("pixel-pair", {"pool": "2x2"}),
    "ka fro": ("ka", {"affinity": "fro"}),
    "ka mse": ("ka", {"affinity": "mse"}),
}
#: what would be too large or too long here
LIGHT = {
    "cirkd": {"method.cirkd.pixels": 40, "method.cirkd.regions": 8},
    "ka": {"method.ka.ae_iters": 2},
    "label-assisted": {"method.label-assisted.teacher_iters": 2},
}
#: random adapters, critics or tailors stand between student and teacher, or the phase is not an identity
NEVER_ZERO = {"kt", "ka", "mgd", "adv", "label-assisted"}
#: one of each kind: plain, adapter, phase, critic, queue, teacher of its own, mask drawn at each step
KINDS = {"cwd", "kt", "ka", "adv", "cirkd", "label-assisted", "mgd"}


def tiered(every: Iterable[str], fast: Collection[str] = KINDS) -> list[Any]:
    """Leave some methods in the fast tier, one of each kind in `make check`, and all of them in `make test-all`."""
    later = {name: pytest.mark.process if name in KINDS else pytest.mark.slow for name in every}
    return [name if name in fast else pytest.param(name, marks=mark) for name, mark in later.items()]


def settings(name: str, **changes: object) -> dict[str, Any]:
    return {
        **SMALL,
        "method.name": name,
        **LIGHT.get(name, {}),
        **{key.replace("__", "."): value for key, value in changes.items()},
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def teachers(root: Path) -> dict[str, str]:
    found = {}
    for name, changes in {
        "pspnet-mv2_050": {},
        "pspnet-mv2_035": {},
        "deeplabv3plus-mv2_050": {},
        "deeplabv3-r18": {"train__crop": (64, 64)},
        "deeplabv3-r50": {},
    }.items():
        run = job.run_job(resolve(settings("none", model__student=name, train__iters=1, **changes)), root=root)
        found[name] = str(run.path)
    return found


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_student(run, which="last").state_dict()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def config(name: str, teachers: dict[str, str], teacher: str = "pspnet-mv2_050", **changes: object) -> Config:
    given = teacher if methods.assisted(name) else teachers[teacher]
    return resolve(settings(name, model__teacher=given, **changes))


#: whose gradient is 0: of a critic by the hinge the last bias, which teacher and student push apart by the same amount
#: as long as both are inside, and the bias of the keys, which a softmax over the keys does not see
CANCELS = ("discriminator.layers.10.bias", ".key.bias")


class Saves(list[dict[str, torch.Tensor]]):
    """The parameters that are to be trained, of the student, the method and its critics, at each save of a run."""

    def add(self, state: loop.State) -> None:
        method = state.method
        critics = [p for critic in method.critics().values() for p in critic.module.parameters()]
        trained = {id(p) for p in (*state.student.parameters(), *method.joint_parameters(), *critics)}
        named = [*state.student.named_parameters(), *method.named_parameters()]
        self.append({name: p.detach().clone() for name, p in named if id(p) in trained})

    def still(self) -> list[str]:
        """Name what is as it was at the first save; an auto-encoder is trained in its phase alone, and not here."""
        both = self[0].keys() & self[-1].keys()
        return [n for n in both if torch.equal(self[0][n], self[-1][n]) and not n.endswith(CANCELS)]


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> Saves:
    """What each save of the runs in this test holds."""
    kept, original = Saves(), loop.State.save

    def save(self: loop.State, stage: loop.Stage, write: bool = True) -> None:
        original(self, stage, write)
        kept.add(self)

    monkeypatch.setattr(loop.State, "save", save)
    return kept


def check(run: Run, saves: Saves, still: bool = False) -> None:
    """The terms are finite, and everything that is to be trained moved (but for what may stand ``still``)."""
    records = [r for r in run.records() if r.get("stage") == "main" and "terms" in r]
    assert len(records) == run.config.train.iters
    assert all(torch.isfinite(torch.tensor(list(r["terms"].values()))).all() and r["terms"] for r in records)
    assert len(saves[0]) > 50 and (still or not saves.still())


@pytest.mark.parametrize("name", tiered([*names(), "skd+ka", "label-assisted, one path"], {"kt", "ka"}))
def test_without_an_auxiliary_head_and_resumed_after_a_kill(
    name: str, saves: Saves, teachers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a self-attention is switched on by its gamma, which is 0 at first: slow SGD needs longer than this
    slow = name == "skd+ka"
    variant = {
        "skd+ka": {
            "method__skd__adv_loss": "wgan-gp",
            "method__skd__critic_optimizer": "sgd",
            "method__ka__ae_iters": 2,
        },
        "label-assisted, one path": {
            "method__label-assisted__dual_path": False,
            "method__label-assisted__teacher_iters": 2,
        },
    }.get(name, {})
    name = name.partition(",")[0]
    whole = job.run_job(config(name, teachers, **variant), out=tmp_path / "whole" / "run")
    check(whole, saves, slow)

    # before anything, within the phase where there is one, and between two steps of the main stage
    original = loop.State.save
    for stop_at in (1, len(saves) - 2):
        count = []

        def broken(self, stage, stop_at=stop_at, count=count):
            original(self, stage)
            count.append(1)
            if len(count) == stop_at:
                raise KeyboardInterrupt

        monkeypatch.setattr(loop.State, "save", broken)
        out = tmp_path / str(stop_at) / "run"
        with pytest.raises(KeyboardInterrupt):
            job.run_job(whole.config, out=out)
        monkeypatch.setattr(loop.State, "save", original)
        resumed = job.resume_job(str(out))
        assert (resumed.path / "metrics.jsonl").read_bytes() == (whole.path / "metrics.jsonl").read_bytes()
        assert equal(weights(resumed), weights(whole))
        assert equal(load_state(resumed.checkpoints)["method"], load_state(whole.checkpoints)["method"])


@pytest.mark.parametrize("name", tiered(names(), {"kt", "cirkd"}))
def test_deeplabv3plus(name: str, root: Path, teachers: dict[str, str], saves: Saves) -> None:
    pair = {"model__student": "deeplabv3plus-mv2_035", "teacher": "deeplabv3plus-mv2_050"}
    check(job.run_job(config(name, teachers, **pair, train__iters=2), root=root), saves)


@pytest.mark.parametrize("name", tiered(names(), {"kt", "cirkd"}))
def test_a_teacher_with_wider_features(name: str, root: Path, teachers: dict[str, str], saves: Saves) -> None:
    pair = {"model__student": "deeplabv3-mv2_035", "teacher": "deeplabv3-r50"}
    at = {f"method__{name}__at": "dec"} if "at" in methods.options(methods.load(name)) else {}
    phases: dict[str, Any] = {"method__kt__tuning_point": 2} if name == "kt" else {}  # a step on either side
    run = job.run_job(config(name, teachers, **pair, **at, **phases, train__iters=2), root=root)
    assert run.card.teacher
    taps = [models.rebuild(spec).taps["dec"].channels for spec in (run.card.student, run.card.teacher.spec)]
    assert taps == [128, 256]
    check(run, saves)


@pytest.mark.parametrize("name", tiered(names(), {"kt", "mgd"}))
def test_a_student_of_half_the_resolution(name: str, root: Path, teachers: dict[str, str], saves: Saves) -> None:
    run = job.run_job(config(name, teachers, model__output_stride=16, train__iters=2), root=root)
    assert run.card.student.output_stride == 16
    check(run, saves)


@pytest.mark.parametrize("name", tiered(["kt", "dsd", "dist"], {"kt"}))
def test_with_an_auxiliary_head(name: str, root: Path, teachers: dict[str, str], saves: Saves) -> None:
    pair = {"model__student": "deeplabv3-r18", "teacher": "deeplabv3-r18"}
    check(job.run_job(config(name, teachers, **pair, train__iters=1, train__crop=(64, 64)), root=root), saves)


@pytest.mark.parametrize("name", tiered(sorted({*names()} - NEVER_ZERO), {"cwd", "cirkd", "naive", "dsd", "dist"}))
def test_nothing_to_teach_to_a_copy(name: str, root: Path, teachers: dict[str, str]) -> None:
    teacher = teachers["pspnet-mv2_035"]
    off = {"skd": {"method.skd.adv": 0}, "cirkd": {"method.cirkd.mp": 0, "method.cirkd.mr": 0}}
    changes = {
        "model.init": teacher,
        "model.teacher": teacher,
        "model.dropout": 0.0,
        "train.freeze_bn": True,
        "train.iters": 1,
    }
    run = job.run_job(resolve({**settings(name), **changes, **off.get(name, {})}), root=root)
    (record,) = [r for r in run.records() if "terms" in r]
    assert record["terms"] and record["task"]["ce"] > 0.1
    # DIST's correlation of two equal rows is 1 - 1e-8 / variance, and that of an untrained network is small
    allowed = 1e-4 if name == "dist" else 1e-6
    for term, value in record["terms"].items():
        assert value == pytest.approx(0, abs=allowed), term


class Watch(TorchDispatchMode):
    """Remember the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.largest: tuple[int, str, torch.Size] = (0, "", torch.Size())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in given:
                size = x.untyped_storage().nbytes() // x.element_size()
                self.largest = max(self.largest, (size, str(func), x.shape), key=lambda found: found[0])
        return result


@pytest.mark.parametrize("case", [*names(), *VARIANTS])
def test_no_loss_makes_a_full_resolution_or_a_pairwise_tensor(case: str) -> None:
    # 32 x 32 positions: a pairwise tensor of two images has 2.1 million elements, the full resolution 1.4 million
    classes, images, side = 11, 2, 256
    if case.startswith(("adv", "skd")):
        side = 512  # their critic has a size of its own, above that of the small map
    student, teacher = models.build("pspnet-mv2_035", classes, seed=0), models.build("pspnet-mv2_050", classes, seed=1)
    sizes = Sizes(classes, student.taps, teacher.taps, iters=8, seed=0)
    name, given = VARIANTS.get(case, (case, {}))
    given = given | {key.rpartition(".")[2]: value for key, value in LIGHT.get(name, {}).items()}
    composite = compose(name, sizes, {name: given} if given else {})
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, side, side), generator=rng, dtype=torch.uint8)
    labels = torch.randint(0, classes, (images, side // 32, side // 32), generator=rng)
    batch = Batch(pixels, labels.repeat_interleave(32, 1).repeat_interleave(32, 2))
    with torch.no_grad():
        shown, output = teacher.eval()(pixels), student.eval()(pixels)
    leaves = copy.copy(output.features) | {"logits": output.logits}
    leaves = {tap: x.detach().requires_grad_() for tap, x in leaves.items()}
    output = Output(leaves["logits"], None, leaves)
    with Watch() as watch:
        composite.remember(shown, batch)
        values = composite.losses(output, shown, batch) | task_loss(output, batch.labels)
        torch.stack(list(values.values())).sum().backward()
        critics = composite.critic_losses(output.detached(), shown, batch)
        if critics:
            torch.stack(list(critics.values())).sum().backward()
    assert watch.largest[0] < images * classes * side * side, watch.largest
    assert leaves["logits"].grad is not None
