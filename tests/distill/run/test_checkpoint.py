"""Checkpoints: one that is whole at every moment, and weights that are what their card says or are refused."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kdc.distill import models
from kdc.distill.errors import NumbersError, WeightsError
from kdc.distill.run import checkpoint
from kdc.distill.run.checkpoint import load_state, load_student, read_card, save_state, save_student, was_saved
from kdc.distill.run.files import sha256
from kdc.distill.run.folder import Run
from kdc.distill.settings.config import Config


def state(step: int, stage: str = "main") -> dict[str, Any]:
    return {"stage": stage, "step": step, "student": {"w": torch.full((4,), float(step))}, "best": {}, "average": None}


class Killed(BaseException):
    """As a kill: nothing catches it."""


def _die(*_: object, **__: object) -> None:
    raise Killed


@pytest.mark.parametrize(
    ("where", "kept"), [("torch.save", 2), ("half", 2), ("write_json", 2), ("unlink", 4), ("nowhere", 4)]
)
def test_a_kill_at_any_point_leaves_one_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, kept: int
) -> None:
    save_state(tmp_path, state(1), 1)
    save_state(tmp_path, state(2), 2)
    with monkeypatch.context() as patch:
        if where == "torch.save":
            patch.setattr(checkpoint.torch, "save", _die)
        elif where == "half":

            def half(values: object, path: Path) -> None:
                path.write_bytes(b"half a file")
                raise Killed

            patch.setattr(checkpoint.torch, "save", half)
        elif where == "write_json":
            patch.setattr(checkpoint, "write_json", _die)
        elif where == "unlink":
            real: Callable[..., None] = Path.unlink

            def unlink(self: Path, missing_ok: bool = False) -> None:
                if self.suffix == ".pt":
                    raise Killed
                real(self, missing_ok=missing_ok)

            patch.setattr(Path, "unlink", unlink)
        if where == "nowhere":
            save_state(tmp_path, state(4), 4)
        else:
            with pytest.raises(Killed):
                save_state(tmp_path, state(4), 4)
    found = load_state(tmp_path)
    assert found["step"] == kept and torch.equal(found["student"]["w"], torch.full((4,), float(kept)))
    (tmp_path / ".last-main-0000004.pt.77").write_bytes(b"left by a kill while writing")
    save_state(tmp_path, state(6), 6)
    assert load_state(tmp_path)["step"] == 6
    names = [f"last-main-000000{kept}.pt", "last-main-0000006.pt", "last.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_a_step_saved_again_never_breaks_the_one_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, state(0), 0)
    for _ in range(2):  # resumed at step 0 and killed there, twice
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write_json", _die)
            with pytest.raises(Killed):
                save_state(tmp_path, state(0) | {"best": {"more": 1}}, 0)
        assert load_state(tmp_path)["best"] == {}
    save_state(tmp_path, state(0) | {"best": {"more": 1}}, 0)
    assert load_state(tmp_path)["best"] == {"more": 1} and len(list(tmp_path.glob("*.pt"))) == 2


def test_a_phase_and_the_main_stage_follow_one_another(tmp_path: Path) -> None:
    save_state(tmp_path, state(3, "kt.phase"), 3)
    save_state(tmp_path, state(0), 0)
    assert (load_state(tmp_path)["stage"], len(list(tmp_path.glob("*.pt")))) == ("main", 2)


def test_no_checkpoint_and_a_changed_one(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no checkpoint to resume from"):
        load_state(tmp_path)
    save_state(tmp_path, state(1), 1)
    file = next(tmp_path.glob("*.pt"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="changed"):
        load_state(tmp_path)
    file.unlink()
    with pytest.raises(WeightsError, match="missing"):
        load_state(tmp_path)


def test_a_state_runs_nothing(tmp_path: Path) -> None:
    save_state(tmp_path, state(1), 1)
    file = next(tmp_path.glob("*.pt"))
    torch.save({"step": 1, "trap": Killed}, file)
    (tmp_path / "last.json").write_text(json.dumps({"file": file.name, "sha256": sha256(file)}))
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        load_state(tmp_path)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _change(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _poison(file: Path) -> None:
    values = torch.load(file, weights_only=True)
    values["student"]["w"][1] = float("nan")
    torch.save(values, file)
    pointer = file.with_name("last.json")
    pointer.write_text(json.dumps(json.loads(pointer.read_text()) | {"sha256": sha256(file)}))


@pytest.mark.parametrize("damage", [_cut, _change, _poison, Path.unlink])
def test_a_lost_checkpoint_is_replaced_by_the_one_before_and_said(
    tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    save_state(tmp_path, state(2), 2)
    save_state(tmp_path, state(4), 4)
    damage(tmp_path / "last-main-0000004.pt")
    assert load_state(tmp_path)["step"] == 2
    said = capsys.readouterr().out
    assert "last-main-0000004.pt" in said and "the checkpoint before it is taken, of step 2" in said

    # from there on two good ones are kept again
    save_state(tmp_path, state(5), 5)
    (tmp_path / "last-main-0000005.pt").unlink()
    assert load_state(tmp_path)["step"] == 2
    (tmp_path / "last-main-0000002.pt").unlink()
    with pytest.raises(WeightsError, match=r"0000002\.pt is missing"):
        load_state(tmp_path)


@pytest.mark.parametrize("content", [b"[]", b"null", b"{}", b"\xff", b'{"file": 3}', b"[" * 100000, b'"x"', b""])
def test_a_broken_pointer_is_one_line(tmp_path: Path, content: bytes) -> None:
    save_state(tmp_path, state(2), 2)
    (tmp_path / "last.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"last\.json is missing or broken"):
        load_state(tmp_path)
    assert was_saved(tmp_path)


def test_weights_that_are_not_finite_are_neither_kept_nor_taken(
    tmp_path: Path, network: models.SegmentationModel
) -> None:
    file, bad = tmp_path / "best.safetensors", copy.deepcopy(network)
    buffers = dict(bad.named_buffers())
    buffers[next(name for name in buffers if name.endswith("running_var"))][0] = float("inf")
    with pytest.raises(NumbersError, match="running_var is not finite"):
        save_student(file, bad, {})
    assert not file.exists()

    save_student(file, network, {})
    card = json.dumps(header(file))
    save_file({key: value.clone() for key, value in bad.state_dict().items()}, str(file), metadata={"kdc": card})
    with pytest.raises(WeightsError, match="running_var is not finite"):
        load_student(file)


@pytest.fixture(scope="module")
def network() -> models.SegmentationModel:
    return models.build("pspnet-mv2_035", 5, seed=0, output_stride=16)


@pytest.fixture
def run(network: models.SegmentationModel, tmp_path: Path) -> Run:
    made = Run.create("x", Config(), out=tmp_path / "run", status="finished")
    other = models.build("pspnet-mv2_035", 5, seed=1, output_stride=16)
    save_student(made.checkpoints / "best.safetensors", network, {"classes": list("abcde"), "miou": 0.5})
    save_student(made.checkpoints / "last.safetensors", other, {})
    return made


def equal(a: models.SegmentationModel, b: models.SegmentationModel) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_a_student_is_rebuilt_from_its_card(run: Run, network: models.SegmentationModel) -> None:
    best = load_student(run)
    assert equal(best, network) and not best.training and best.spec() == network.spec()
    for source in (run.path, str(run.path), run.checkpoints / "best.safetensors", str(run.path / "run.json")):
        assert equal(load_student(source), network), source
    assert equal(load_student(str(run.checkpoints / "best.safetensors")), network)
    assert not equal(load_student(run, which="last"), network)
    assert equal(load_student(run.checkpoints / "last.safetensors"), load_student(run, which="last"))


def header(file: Path) -> dict[str, Any]:
    with safe_open(str(file), "pt") as opened:
        return json.loads(opened.metadata()["kdc"])


def test_the_card_is_in_the_header_and_beside(run: Run, network: models.SegmentationModel) -> None:
    file = run.checkpoints / "best.safetensors"
    card = read_card(file)
    assert card is not None and card.model == network.spec()
    values = {"model": network.spec().to_dict(), "classes": list("abcde"), "miou": 0.5}
    assert header(file) == values
    assert json.loads(file.with_name("best.safetensors.json").read_text()) == values | {"sha256": sha256(file)}


def test_a_file_that_holds_no_student_is_refused(run: Run, tmp_path: Path, network: models.SegmentationModel) -> None:
    good = run.checkpoints / "best.safetensors"
    cut, foreign, odd = tmp_path / "cut.safetensors", tmp_path / "foreign.safetensors", tmp_path / "odd.safetensors"
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    save_file({"w": torch.zeros(3)}, str(foreign))
    save_file({"w": torch.zeros(3)}, str(odd), metadata={"kdc": json.dumps({"model": network.spec().to_dict()})})
    empty = tmp_path / "empty.safetensors"
    empty.write_bytes(b"")
    cases = {cut: "broken or cut off", foreign: "no card", odd: "does not fit", empty: "broken or cut off"}
    cases[tmp_path / "none.safetensors"] = "does not exist"
    for file, said in cases.items():
        assert file == odd or read_card(file) is None
        with pytest.raises(WeightsError, match=said) as caught:
            load_student(file)
        assert "\n" not in str(caught.value)


def test_a_file_with_too_few_tensors_is_refused(run: Run, tmp_path: Path) -> None:
    good = run.checkpoints / "best.safetensors"
    tensors = load_file(str(good))
    tensors.pop(next(key for key in tensors if key.startswith("head.") and key.endswith(".weight")))
    save_file(tensors, str(tmp_path / "few.safetensors"), metadata={"kdc": json.dumps(header(good))})
    with pytest.raises(WeightsError, match="does not fit"):
        load_student(tmp_path / "few.safetensors")


def test_a_run_without_weights_says_how_to_go_on(tmp_path: Path) -> None:
    made = Run.create("x", Config(), out=tmp_path / "run")
    with pytest.raises(WeightsError, match=r"no best.safetensors yet \(status: running\).*--resume"):
        load_student(made)


def test_a_crash_keeps_the_best_so_far(run: Run, network: models.SegmentationModel, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "save_file", _die)
    with pytest.raises(Killed):
        save_student(run.checkpoints / "best.safetensors", load_student(run, which="last"), {})
    assert equal(load_student(run), network)
