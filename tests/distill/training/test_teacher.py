"""The teacher: found by network, run or file; refused where it is not whole, of other classes, or knows nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdc.distill import methods, models
from kdc.distill.batch import Batch
from kdc.distill.data import open_data
from kdc.distill.errors import UsageError, WeightsError
from kdc.distill.output import Output
from kdc.distill.run.card import DataCard, TeacherCard
from kdc.distill.run.checkpoint import save_student
from kdc.distill.run.folder import Run
from kdc.distill.settings.config import Config, resolve
from kdc.distill.training import teacher
from kdc.distill.training.teacher import Teacher, check_teacher, find_teacher, reopen_teacher

NAME, CLASSES = "pspnet-mv2_035", 5
DATA = DataCard("streets", "streets", num_classes=CLASSES, fingerprint="f" * 8)


def config(**model: Any) -> Config:
    return resolve({"model.arch": "pspnet", **{f"model.{key}": value for key, value in model.items()}})


def trained(day: int, **card: Any) -> Run:
    """Make a run as a training leaves it, with weights of its own."""
    stride = card.pop("stride", 8)
    network = models.build(card.pop("network", NAME), card.pop("classes", CLASSES), output_stride=stride, seed=day)
    values = {"kind": "train", "status": "finished", "student": network.spec().to_dict(), "data": DATA.to_dict()} | card
    run = Run.create(f"day{day}", Config(), created=f"2026-01-{day:02}T00:00:00", **values)
    save_student(run.checkpoints / "best.safetensors", network, {})
    run.unlock()
    return run


def same(found: Teacher | None, run: Run) -> bool:
    return found is not None and found.card.run == str(run.path)


def test_by_network_the_newest_finished_run_of_it_on_this_data() -> None:
    assert find_teacher(config(teacher="mv2_035"), DATA) is None
    old, new = trained(1), trained(2, kind="teacher")
    trained(3, status="stopped")
    trained(4, kind="distill")
    trained(5, data=DATA.to_dict() | {"fingerprint": "other"})
    trained(6, stride=16)
    trained(7, network="pspnet-mv2_050")
    for name in ("mv2_035", NAME):
        assert same(find_teacher(config(teacher=name), DATA), new)
    assert find_teacher(config(teacher="deeplabv3-mv2_035"), DATA) is None
    found = find_teacher(config(teacher="mv2_035", teacher_stride=16), DATA)
    assert found and found.model.output_stride == 16
    new.record(status="failed")
    assert same(find_teacher(config(teacher="mv2_035"), DATA), old)


def test_the_teacher_is_frozen_and_its_card_says_which_file() -> None:
    run = trained(1)
    found = find_teacher(config(teacher=run.path.name), DATA)
    assert found and same(found, run) and run.path.name in found.card.source
    assert not found.model.training and not any(p.requires_grad for p in found.model.parameters())
    assert found.card.file == str(run.checkpoints / "best.safetensors")
    again = reopen_teacher(found.card)
    assert all(torch.equal(a, b) for a, b in zip(again.model.state_dict().values(), found.model.state_dict().values()))


def test_by_run_and_by_file() -> None:
    run = trained(1, kind="distill", status="stopped")  # named by its owner, so whatever it is
    for name in (run.path.name, str(run.path), f"runs/{run.path.name}"):
        assert same(find_teacher(config(teacher=name), DATA), run)
    file = run.checkpoints / "best.safetensors"
    found = find_teacher(config(teacher=str(file)), DATA)
    assert found and found.card.file == str(file) and found.model.name == NAME


def test_sources_that_are_no_teacher(tmp_path: Path) -> None:
    cases: dict[str | None, tuple[type[Exception], str]] = {
        None: (UsageError, "--teacher r101"),
        "r99": (UsageError, "no model 'r99'"),
        "some/where": (UsageError, "no run 'some/where'"),
        "none.safetensors": (WeightsError, "does not exist"),
    }
    (tmp_path / "t.pth").write_bytes(b"x")
    cases["t.pth"] = (UsageError, "--teacher NAME --teacher-weights t.pth")
    for name, (kind, said) in cases.items():
        with pytest.raises(kind, match=said):
            find_teacher(config(teacher=name), DATA)


def test_other_classes_never_teach() -> None:
    run = trained(1, classes=7)
    with pytest.raises(WeightsError, match=f"7 classes.*has {CLASSES}.*kdc train --student {NAME} --data streets"):
        find_teacher(config(teacher=run.path.name), DATA)


@pytest.fixture(scope="module")
def whole() -> dict[str, torch.Tensor]:
    return models.build("pspnet-r18", CLASSES, seed=0).state_dict()


def _from(weights: dict[str, torch.Tensor], file: Path) -> Teacher | None:
    torch.save(weights, file)
    return find_teacher(config(teacher="r18", teacher_weights=str(file)), DATA)


def test_weights_fill_the_named_network(whole, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _from({f"module.{key}": value for key, value in whole.items()}, tmp_path / "t.pth")
    assert found and found.model.aux_head is not None
    assert all(torch.equal(value, whole[key]) for key, value in found.model.state_dict().items())
    assert "t.pth" in capsys.readouterr().out
    again = reopen_teacher(found.card)
    assert torch.equal(
        again.model.state_dict()["backbone.layer1.0.conv1.weight"], whole["backbone.layer1.0.conv1.weight"]
    )
    (tmp_path / "t.pth").write_bytes(b"other")
    with pytest.raises(WeightsError, match="missing or was changed"):
        reopen_teacher(found.card)


@pytest.mark.parametrize("part", ["backbone.layer3.", "head."])
def test_incomplete_weights_never_teach(whole, part: str, tmp_path: Path) -> None:
    some = {key: value for key, value in whole.items() if not key.startswith(part)}
    with pytest.raises(WeightsError, match=r"t\.pth") as caught:
        _from(some, tmp_path / "t.pth")
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value)


def test_weights_of_other_classes_never_teach(whole, tmp_path: Path) -> None:
    other = models.build("pspnet-r18", CLASSES + 1, seed=0).state_dict()
    with pytest.raises(WeightsError, match=f"{CLASSES + 1} classes"):
        _from(other, tmp_path / "t.pth")


def test_what_holds_no_weights(tmp_path: Path) -> None:
    (tmp_path / "t.pth").write_text("hello")
    with pytest.raises(WeightsError, match=r"t\.pth"):
        find_teacher(config(teacher="r18", teacher_weights=str(tmp_path / "t.pth")), DATA)


def test_without_an_aux_head_kt_leaves_the_aux_part_out(
    whole, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = {key: value for key, value in whole.items() if not key.startswith("aux_head.")}
    assert len(bare) < len(whole)
    found = _from(bare, tmp_path / "t.pth")
    assert found and found.model.aux_head is None and "aux" not in found.model.taps
    assert "aux head has no weights" in capsys.readouterr().out
    assert reopen_teacher(found.card).model.aux_head is None

    taps = found.model.taps
    sizes = methods.Sizes(CLASSES, taps | {"aux": taps["logits"]}, taps, 10, 0)
    kt = methods.compose("kt", sizes, {"kt": {"lt": 0, "ft": 0, "tri": 0}})
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 32, 64), dtype=np.uint8))
    batch = Batch(images, torch.zeros(2, 32, 64, dtype=torch.long))
    with torch.no_grad():
        shown = kt.teach(found.model, batch)
        logits = shown.logits.flip(0)
        losses = kt.losses(Output(logits, 2 * logits, shown.features), shown, batch)
        without = kt.losses(Output(logits, None, shown.features), shown, batch)
    assert losses["kt.kd"] > 0 and torch.equal(losses["kt.kd"], without["kt.kd"])


class Known:
    """Predictions that stand in for a network's."""

    def __init__(self, data: Any, share: float) -> None:
        self.answers = {data.read(i)[0].tobytes(): data.read(i)[1] for i in range(len(data))}
        self.share = share

    def __call__(self, image: np.ndarray) -> np.ndarray:
        label = self.answers[image.tobytes()]
        known = np.arange(label.shape[0])[:, None] < self.share * label.shape[0]
        return np.where(known & (label != 255), label, 2).astype(np.uint8)


@pytest.mark.parametrize(("share", "teaches"), [(1.0, True), (0.7, True), (0.0, False)])
def test_the_check_against_chance(
    share: float, teaches: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = open_data("builtin", "val", size=(32, 64), val_count=4)
    monkeypatch.setattr(teacher, "model_predictor", lambda model, device: Known(data, share))
    one = Teacher(models.build(NAME, data.num_classes), TeacherCard(NAME))
    if teaches:
        check_teacher(one, data, torch.device("cpu"))
        assert "chance" in capsys.readouterr().out
    else:  # the commonest class everywhere is what chance means
        with pytest.raises(WeightsError, match=r"knows nothing of this data.*kdc train"):
            check_teacher(one, data, torch.device("cpu"))
    check = one.card.check
    assert check and check.images == 4 and 0 < check.chance < 0.2
    assert check.miou == pytest.approx(1.0 if share == 1 else check.miou)
    assert share > 0 or check.miou == pytest.approx(check.chance, rel=0.3)


def test_without_labels_the_check_is_skipped_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    data = open_data("builtin", "val", size=(32, 64), val_count=2)
    data.labelled = False
    check_teacher(Teacher(models.build(NAME, 11), TeacherCard(NAME)), data, torch.device("cpu"))
    assert "skipped" in capsys.readouterr().out
