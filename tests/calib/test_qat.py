"""``kdc calib --qat``: a run trained on with its ranges, and a file with exactly those; what it refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from kdc import cli
from kdc.calib.calibrate import Settings, calibrate_run
from kdc.calib.calibration import Calibration
from kdc.calib.calibrators import ranges
from kdc.calib.low_precision import CALIBRATOR, Form, LowPrecisionWriter
from kdc.calib.onnx_graph import inputs, makers, tail
from kdc.calib.qat import Tuning, configured, plan_training, tune_and_calibrate
from kdc.calib.qdq import Quantised
from kdc.distill.data import recipe
from kdc.distill.errors import UsageError, WeightsError
from kdc.distill.job import run_job
from kdc.distill.models import build
from kdc.distill.run.checkpoint import load_state, load_student
from kdc.distill.run.files import sha256
from kdc.distill.run.folder import Run
from kdc.distill.settings.config import Config, Quantise, resolve
from kdc.distill.training.fake_quantise import TOP, QuantisedConv2d, fake_quantise
from kdc.export.settings import ExportSettings
from kdc.export.to_onnx import OPSETS, export_like, export_onnx, export_run

LOOSE: dict[str, Any] = {"images": 6, "agreement": 0.5, "max_drop": 100}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("qat")


def config(**changed: Any) -> Config:
    small = {"data.size": (32, 64), "data.val_count": 4, "data.count": 12, "train.crop": (32, 64)}
    small |= {
        "train.batch": 2,
        "train.iters": 10,
        "train.workers": 0,
        "train.threads": 1,
        "model.student": "deeplabv3-mv2_050",
    }
    return resolve({**small, **changed}, layers=[recipe("builtin")])


@pytest.fixture(scope="module")
def plain(root: Path) -> Run:
    run = run_job(config(), root=root)
    export_run(run, ExportSettings(images=1, dynamic_batch=True, input="uint8"))
    return run


@pytest.fixture(scope="module")
def distilled(root: Path, plain: Run) -> Run:
    settings = {"method.name": "kt", "model.teacher": str(plain.path), "model.teacher_check": False}
    return run_job(config(**settings), root=root)


@pytest.fixture(scope="module")
def shipped(distilled: Run) -> Run:
    export_run(distilled, ExportSettings(images=1))
    return distilled


@pytest.mark.parametrize(
    ("to", "target", "grid"),
    [
        pytest.param("int8", "ort", "u8", marks=pytest.mark.process),
        pytest.param("fp8", "trt", "e4m3", marks=pytest.mark.slow),
        pytest.param("int8", "trt", "s8", marks=pytest.mark.process),
    ],
)
def test_the_file_holds_what_was_trained(shipped: Run, to: str, target: str, grid: str) -> None:
    high = None if target == "ort" else "fp32"
    done = tune_and_calibrate(shipped, Tuning(export_like, iters=2), Settings(to=to, target=target, high=high, **LOOSE))
    made = Run(done.path.parent.parent)
    assert made.path.parent == shipped.path.parent and made.card.kind == "qat"
    assert made.card.tuned_from == shipped.path.name and made.card.method == "kt"
    assert made.card.teacher and shipped.card.teacher
    assert made.card.teacher.file == shipped.card.teacher.file
    aware = made.config.quantise
    assert aware is not None and aware.grid == grid and len(aware.layers) == 58  # all but the classifier
    assert (made.config.train.iters, made.config.train.freeze_bn) == (2, True)
    assert made.config.train.lr == pytest.approx(0.01 * shipped.config.train.lr)
    assert done.manifest.to_dict()["qat"] == {"from": shipped.path.name, "layers": 58, "grid": grid}
    trained, before = load_student(made).state_dict(), load_student(shipped).state_dict()
    assert trained.keys() == before.keys()
    moved = {name.rpartition(".")[2] for name in trained if not torch.equal(trained[name], before[name])}
    assert "weight" in moved and not moved & {"running_mean", "running_var"}

    graph = onnx.load(done.path).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    there = inputs(onnx.load(made.export / "model.onnx").graph)
    for name, low, high in aware.layers:
        scale = next(v for k, v in stored.items() if k == f"{there[name][0]}_scale")
        low, high = min(low, 0.0), max(high, 0.0)
        step = (high - low) / 255 if grid == "u8" else max(-low, high) / TOP[grid]
        assert float(scale) == pytest.approx(step, rel=1e-5), name

    # and rounds each layer's input and weights as they were trained. Layer by layer: through 58 of them one value that
    # another CPU's sum puts on the other side of a rounding step moves all that comes behind it
    network = load_student(made).eval()
    fake_quantise(network, aware)
    rounded_as_trained(done.path, there, network, [name for name, *_ in aware.layers])


def rounded_as_trained(
    path: Path, there: dict[str, tuple[str, str]], network: torch.nn.Module, layers: list[str]
) -> None:
    model = onnx.load(path)
    graph, maker, pair = model.graph, makers(model.graph), {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            pair[node.input[0]] = next(n.output[0] for n in graph.node if n.input[0] == node.output[0])
    image = graph.input[0].name
    seen = list(dict.fromkeys(name for x in layers for name in (there[x][0], pair[there[x][0]]) if name != image))
    for name in seen:
        graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 64)).astype(np.float32)
    values = {image: x} | {k: np.asarray(v) for k, v in zip(seen, session.run(seen, {image: x}), strict=True)}

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = {node.name: node for node in graph.node}
    for name in layers:
        layer, (given, node) = network.get_submodule(name), there[name]
        assert isinstance(layer, QuantisedConv2d)
        with torch.no_grad():
            trained, weight = layer.rounded_input(torch.from_numpy(values[given])).numpy(), layer.rounded_weight()
        np.testing.assert_allclose(values[pair[given]], trained, rtol=1e-4, atol=1e-6, err_msg=name)
        # the file's weights are multiplied by the batch norm behind, channel by channel
        levels, scale = (stored[each] for each in maker[nodes[node].input[1]].input[:2])
        file = (levels.astype(np.float32) * scale.reshape(-1, 1, 1, 1)).reshape(len(levels), -1)
        mine = weight.numpy().reshape(len(levels), -1)
        top = np.abs(mine).argmax(1)[:, None]
        file, mine = (each / np.take_along_axis(each, top, 1) for each in (file, mine))
        differ = np.abs(file - mine) > 1e-4
        assert differ.mean() < 1e-3, (name, differ.mean())  # folding moves a weight over a rounding step now and then


def scales_of(writer: LowPrecisionWriter, tensors: list[str]) -> list[float]:
    """The scales with which tensors of a file are rounded."""
    path = writer.source.with_name("scales.onnx")
    writer.write(path)
    graph = onnx.load(path).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = {node.input[0]: node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"}
    return [float(stored[pairs[name]]) for name in tensors]


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with a pooling in its stem and a concatenation in its head."""
    path = tmp_path_factory.mktemp("pooled") / "model.onnx"
    return export_onnx(build("deeplabv3-r18", 5, seed=1).eval(), path, size=(64, 64))


@pytest.mark.parametrize(
    ("to", "target", "high"),
    [
        ("int8", "ort", None),
        *(pytest.param(*form, marks=pytest.mark.process) for form in (("int8", "trt", "fp16"), ("fp8", "trt", None))),
    ],
)
def test_training_rounds_as_the_file_does(pooled: Path, to: str, target: str, high: str | None) -> None:
    images = [np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8) for i in range(2)]
    form, calibration = Form.of(to, target, high), Calibration(pooled, images)
    first = LowPrecisionWriter(form, calibration)
    written, own = first.input_ranges(), ranges(calibration.statistics.tensors, CALIBRATOR, first.form.grid or "")
    there, last = inputs(first.model.graph), tail(first.model.graph)
    trained = [(name, *written[node]) for name, (_, node) in there.items() if node not in last]
    assert len(trained) == len(there) - 1, "all but the classifier"
    aware = Quantise.model_validate({"grid": form.grid, "layers": trained})
    # whatever the trained network's own statistics are: those of brighter images are wider everywhere
    brighter = Calibration(pooled, [255 - image // 8 for image in images])
    again = LowPrecisionWriter(form, brighter, aware).input_ranges()
    for name, low, high_end in trained:
        assert again[there[name][1]] == pytest.approx((low, high_end), rel=2e-3 if high else 1e-6), name
    # the projection reads the concatenation of five branches, of which each alone is narrower
    project = next(name for name in there if "project" in name)
    if to == "int8":
        cat = next(node for node in first.model.graph.node if there[project][0] in node.output)
        widest = max(own[name][1] for name in [*cat.input, *cat.output])
        assert written[there[project][1]][1] == pytest.approx(widest, rel=1e-2 if high else 1e-6)
        assert len(set(scales_of(first, list(cat.input)))) == 1, "and has one scale with all of them"
    pool = next(node for node in first.model.graph.node if node.op_type == "MaxPool")
    behind = next(name for name, (tensor, _) in there.items() if tensor == pool.output[0])
    if target == "ort":
        assert written[there[behind][1]][1] == pytest.approx(own[pool.input[0]][1], rel=1e-6), "one scale on both sides"


@pytest.mark.process
def test_a_run_without_a_teacher_is_taught_by_itself_and_the_form_of_its_file_stays(plain: Run) -> None:
    source = plain.export / "model.uint8.batch.onnx"
    settings: dict[str, Any] = {**LOOSE, "to": "int8", "target": "trt", "high": "fp16", "source": source}
    done = tune_and_calibrate(
        plain, Tuning(export_like, iters=1, lr=1e-3), Settings(keep=["backbone.conv_stem"], **settings)
    )
    made = Run(done.path.parent.parent)
    assert done.path.name == "model.uint8.batch.int8.fp16.trt.onnx"
    assert made.card.method == "kd" and made.card.teacher
    assert made.card.teacher.file == str(plain.checkpoints / "best.safetensors")
    assert made.config.train.lr == 1e-3 and made.config.quantise is not None
    assert "backbone.conv_stem" not in [name for name, *_ in made.config.quantise.layers]
    assert done.manifest.to_dict()["left_high"] == ["backbone.conv_stem"]
    assert done.manifest.to_dict()["int8"]["quantised_products"] == 57

    with pytest.raises(UsageError, match=rf"trained with rounding already; give the run .* {plain.path.name}"):
        configured(made, Tuning(export_like))
    settings["source"] = made.export / source.name
    again = calibrate_run(made, Settings(**settings))  # without --qat: the same file
    assert again.manifest.to_dict()["sha256"] == done.manifest.to_dict()["sha256"]
    typed: dict[str, Any]
    for typed, flag in (({"compared": True}, "--compare"), ({"calibrator": "minmax"}, "--calibrator minmax")):
        with pytest.raises(UsageError, match=rf"{flag}: {made.path.name} was trained with the ranges of mse"):
            calibrate_run(made, Settings(**settings, **typed))
    assert again.path.is_file()


@pytest.mark.process
def test_what_trained_beside_the_student_goes_on(root: Path) -> None:
    settings = {"method.name": "label-assisted+mgd", "method.mgd.at": "dec", "method.mgd.mgd": "linear(4e-5,2e-5,10)"}
    settings |= {"model.teacher": "self", "model.teacher_check": False}
    first = run_job(config(**settings), root=root)
    export_run(first, ExportSettings(images=1))
    done = tune_and_calibrate(first, Tuning(export_like, iters=1, lr=1e-12), Settings(to="int8", target="ort", **LOOSE))
    made = Run(done.path.parent.parent)
    before, after = (load_state(run.checkpoints)["method"] for run in (first, made))
    assert before.keys() == after.keys() and any("generator" in name for name in after)
    for name, value in before.items():  # with next to no rate they stay what they were
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-9)
    teachers = [list(run.path.glob("phases/*.safetensors")) for run in (first, made)]
    assert [path.name for path in teachers[0]] == [path.name for path in teachers[1]] and len(teachers[0]) == 1
    assert sha256(teachers[0][0]) == sha256(teachers[1][0])
    assert {record["stage"] for record in made.records()} == {"main"}, "the teacher was not trained again"
    weights = [[r["weights"]["mgd.mgd"] for r in run.records() if r.get("terms")][-1] for run in (first, made)]
    assert weights == [pytest.approx(2.2e-5), pytest.approx(2e-5)], "schedules go on, too"
    assert made.config.quantise is not None and made.config.quantise.run == str(first.path)

    for kept in first.checkpoints.glob("last-main-*.pt"):
        kept.unlink()
    aware = plan_training(first, Tuning(export_like, iters=1), Settings(to="int8", target="ort", **LOOSE))[1].quantise
    assert aware is not None and aware.run is None and aware.after == 10


def test_a_method_that_is_not_that_of_the_run_is_refused(distilled: Run, plain: Run) -> None:
    other = {"grid": "u8", "layers": [], "run": str(plain.path), "after": 10}
    changed = configured(distilled, Tuning(export_like, 1)).changed(
        quantise=other, method={"name": "mgd", "mgd": {"at": "dec"}}
    )
    with pytest.raises(WeightsError, match=rf"the method of {plain.path.name} does not fit this one"):
        run_job(changed, root=plain.path.parent)


def test_the_file_has_the_weights_that_were_trained_whatever_cpu_makes_it(pooled: Path) -> None:
    images = [np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8) for i in range(2)]
    calibration = Calibration(pooled, images)
    for narrow in (True, False):
        aware = Quantise(grid="u8", layers=[], narrow=narrow)
        writer = LowPrecisionWriter(Form.of("int8", "ort", None), calibration, aware)
        report = writer.write(pooled.with_name("narrow.onnx"))
        assert isinstance(report, Quantised) and report.reduced_range is narrow


def test_a_tenth_of_the_schedule_unless_told(plain: Run) -> None:
    assert configured(plain, Tuning(export_like)).train.iters == 1
    train = configured(plain, Tuning(export_like, 7, 0.5)).train
    assert (train.iters, train.lr, train.head_lr) == (7, 0.5, None)


def test_the_heads_rate_shrinks_with_the_rate(plain: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = 10 * plain.config.train.lr
    monkeypatch.setattr(plain, "config", plain.config.changed(train__head_lr=heads))
    train = configured(plain, Tuning(export_like)).train
    assert train.head_lr == pytest.approx(10 * train.lr) == pytest.approx(0.01 * heads)


@pytest.mark.parametrize(("to", "target"), [("fp16", "trt"), ("bf16", "trt")])
def test_a_cast_has_no_ranges_to_train_for(plain: Run, to: str, target: str) -> None:
    source = plain.export / "model.uint8.batch.onnx"
    with pytest.raises(UsageError, match=rf"--qat trains for the ranges.*--to {to} --for {target}"):
        plan_training(plain, Tuning(export_like), Settings(to=to, target=target, source=source))


def test_a_teacher_that_is_gone_is_missed_before_anything_is_trained(distilled: Run, root: Path) -> None:
    card = distilled.card
    assert card.teacher
    distilled.card = replace(card, teacher=replace(card.teacher, file=str(root / "gone.safetensors")))
    try:
        with pytest.raises(WeightsError, match=r"taught by .*gone.safetensors, which is gone; put it back"):
            configured(distilled, Tuning(export_like))
    finally:
        distilled.card = card


def test_a_file_of_another_network_is_refused(distilled: Run, plain: Run) -> None:
    settings = configured(distilled, Tuning(export_like, 1)).changed(
        quantise={"grid": "u8", "layers": [("backbone.none", 0.0, 1.0)]}
    )
    with pytest.raises(WeightsError, match=r"quantise.layers: backbone.none is no convolution"):
        run_job(settings, root=plain.path.parent)


def test_what_cannot_end_in_a_file_is_refused_before_it_is_trained(
    plain: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    source = plain.export / "model.uint8.batch.onnx"
    graph = onnx.load(source)
    graph.opset_import[0].version = OPSETS.stop
    new = source.with_name("new.onnx")
    onnx.save(graph, new)
    refused = {
        f"{source} --to fp16": "--qat trains for the ranges",
        f"{source} --compare": "find the best without it",
        f"{source} --calibrator none": "none",
        f"{new}": f"--opset {OPSETS.stop}",
    }
    runs = len(list(plain.path.parent.iterdir()))
    for words, said in refused.items():
        for dry in ([], ["--dry-run"]):
            assert cli.run(["calib", *words.split(), "--images", "4", "--qat", *dry]) == 2
            assert said in capsys.readouterr().err
    assert len(list(plain.path.parent.iterdir())) == runs
    new.unlink()


@pytest.mark.parametrize("flag", ["--qat-iters", "--qat-lr"])
def test_its_flags_need_it(plain: Run, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["calib", str(plain.path), flag, "1"]) == 2
    assert "add --qat" in capsys.readouterr().err


def test_dry_run_says_how_it_would_train(plain: Run, capsys: pytest.CaptureFixture[str]) -> None:
    runs = len(list(plain.path.parent.iterdir()))
    source = str(plain.export / "model.uint8.batch.onnx")
    assert cli.run(["calib", source, "--qat", "--images", "4", "--dry-run"]) == 0
    assert f"'teacher': '{plain.path}', 'method': 'kd', 'iters': 1" in capsys.readouterr().out
    assert len(list(plain.path.parent.iterdir())) == runs
