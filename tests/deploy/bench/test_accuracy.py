"""Evaluating files and counting costs through the functions behind ``kdc eval`` and ``kdc bench flops|params``."""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from kdc.deploy import commands
from kdc.deploy.bench.accuracy import evaluate_source, show_evaluation
from kdc.deploy.bench.costs import count
from kdc.deploy.bench.evaluation_data import EvaluationData
from kdc.deploy.runtimes.options import RuntimeOptions
from kdc.distill import models
from kdc.distill.errors import DataError, UsageError, WeightsError
from kdc.distill.preprocess import IMAGENET
from kdc.distill.run.checkpoint import save_student

from ..._made import onnx_file

SIZE, K = (32, 64), 11


@pytest.fixture
def run(tmp_path) -> Path:
    """A run on the built-in data, with a checkpoint and an ONNX file that always says class 2."""
    folder = tmp_path / "run"
    model = models.build("deeplabv3-mv2", K, seed=0)
    data = {"source": "builtin", "options": {"size": list(SIZE), "count": 2, "val_count": 3, "seed": 0}, "size": SIZE}
    save_student(folder / "checkpoints" / "best.safetensors", model, {"data": data})
    card = {"data": data, "student": model.spec().to_dict(), "teacher": {"name": "deeplabv3-r18"}}
    (folder / "run.json").write_text(json.dumps(card))
    constant(folder / "export" / "model.onnx", K)
    return folder


def constant(path: Path, classes: int, size: tuple[int | None, int | None] = SIZE) -> Path:
    bias = np.zeros(classes, np.float32)
    bias[2] = 1
    weights = {"w": np.zeros((classes, 3, 1, 1), np.float32), "b": bias}
    nodes = [helper.make_node("Conv", ["image", "w", "b"], ["z"])]
    facts = {"kdc.preprocess": IMAGENET.to_dict()}
    return onnx_file(path, nodes, {"image": [1, 3, *size]}, {"z": [1, classes, *size]}, weights, facts=facts)


def test_onnx_file_is_evaluated_on_the_data_of_its_run(run, capsys):
    result = evaluate_source(run / "export" / "model.onnx")
    scores = result.scores
    assert result.ran.ran_on == "onnxruntime CPUExecutionProvider"
    assert scores.images == 3
    assert scores.iou[2] == pytest.approx(scores.pixel_accuracy)  # all pixels are class 2: its IoU is its share
    assert scores.miou == pytest.approx(scores.iou[2] / K)
    assert list(result.to_dict()) == [
        *("source", "ran_on", "precision", "fit", "contract", "privileged", "data", "split", "fingerprint"),
        *("scores", "seconds"),
    ]
    show_evaluation(result)
    assert "mIoU (all classes)" in capsys.readouterr().out


def test_a_file_of_free_size_is_evaluated_at_the_named_size(run):
    free = str(constant(run / "export" / "free.onnx", K, (None, None)))
    with pytest.raises(UsageError, match="name the one to use: --size HxW"):
        commands.evaluate(source=free)
    scores = commands.evaluate(source=free, size="32x64").scores
    assert scores.to_dict() == evaluate_source(run / "export" / "model.onnx").scores.to_dict()
    with pytest.raises(UsageError, match="made for 32x64, not 48x64"):
        evaluate_source(run / "export" / "model.onnx", size=(48, 64))
    with pytest.raises(UsageError, match="every image at its own size"):
        evaluate_source(str(run), size=SIZE)


def test_checkpoint_and_run_are_the_same(run):
    one, other = (
        evaluate_source(source, EvaluationData(limit=2))
        for source in (str(run), run / "checkpoints" / "best.safetensors")
    )
    assert one.scores.to_dict() == other.scores.to_dict()
    assert one.scores.images == 2
    assert one.ran.ran_on == "torch cpu" and "precision" not in one.to_dict()


def test_refusals(run, tmp_path):
    with pytest.raises(DataError, match="the network has 5 classes, builtin has 11"):
        evaluate_source(constant(run / "export" / "five.onnx", 5))
    with pytest.raises(WeightsError, match="does not exist"):
        evaluate_source("none.onnx")
    with pytest.raises(UsageError, match="name them: --data"):
        evaluate_source(constant(tmp_path / "alone.onnx", K))
    with pytest.raises(UsageError, match="describe --data DIR"):
        evaluate_source(str(run), EvaluationData(classes=K))
    with pytest.raises(UsageError, match="accepted: cpu, cuda"):
        evaluate_source(str(run), options=RuntimeOptions("tpu"))


def test_costs_of_names_are_the_published_ones():
    (row,) = count(["r18"], counter="cirkd", size=(512, 1024))
    assert row.params == 13_607_974
    assert row.params_without_aux == 13_459_155
    assert row.arithmetic is not None
    assert row.arithmetic.macs / 1e9 == pytest.approx(158.98, abs=0.01)
    (true,) = count(["r18"], counter="true", size=(512, 1024))
    values = true.to_dict()
    assert list(values) == [
        *("model", "role", "classes", "output_stride", "params", "params_without_aux", "size", "counter"),
        *("macs", "macs_without_aux", "flops", "flops_without_aux"),
    ]
    assert values["macs"] / 1e9 == pytest.approx(129.37, abs=0.01)
    assert values["flops"] == 2 * values["macs"]
    assert values["macs_without_aux"] < values["macs"]
    assert list(count(["r18"])[0].to_dict()) == list(values)[:6]


def test_costs_of_a_run_are_those_of_student_and_teacher(run):
    student, teacher = count([str(run)], counter="true")
    assert (student.model, student.role) == ("deeplabv3-mv2", "student")
    assert (teacher.model, teacher.classes) == ("deeplabv3-r18", K)
    assert student.to_dict()["size"] == list(SIZE)
    with pytest.raises(UsageError, match="no run 'nonsense'"):
        count(["nonsense"])
    with pytest.raises(UsageError, match="accepted: true, cirkd"):
        count(["r18"], counter="mine")


def test_a_teacher_is_counted_as_it_was_loaded(run):
    card = json.loads((run / "run.json").read_text())
    card["teacher"]["spec"] = models.build("deeplabv3-r18", K, output_stride=16).spec().to_dict()
    (run / "run.json").write_text(json.dumps(card))
    student, teacher = count([str(run)], counter="true")
    assert (student.output_stride, teacher.output_stride) == (8, 16)


def test_a_resumable_state_is_not_evaluated_with_the_best_weights(run):
    state = run / "checkpoints" / "last-main-0000010.pt"
    state.write_bytes(b"state")
    with pytest.raises(WeightsError, match="give a run, its best or its last"):
        evaluate_source(state)
