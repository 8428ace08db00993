"""ONNX files: what is in them, that they compute the network, and that a wrong one does not survive."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from kdc import cli
from kdc.deploy.artefacts.beside import manifest_path
from kdc.deploy.artefacts.ledger import read_gates
from kdc.deploy.bench.plan import make_plan
from kdc.deploy.parity import produce
from kdc.deploy.parity.chain import Comparison, _measure
from kdc.deploy.runtimes.open import open_runtime
from kdc.deploy.runtimes.options import CPU
from kdc.deploy.runtimes.ort_runtime import read_info
from kdc.distill.data import open_data
from kdc.distill.errors import ExportError, NumbersError, UsageError
from kdc.distill.models import SegmentationModel, build
from kdc.distill.models._heads import PPM
from kdc.distill.run.checkpoint import save_student
from kdc.distill.run.files import sha256, write_json
from kdc.distill.run.folder import Run
from kdc.distill.run.stale import stale_files
from kdc.distill.settings.config import Config
from kdc.export import commands, to_onnx
from kdc.export.graph import DeployGraph, ExactPooling
from kdc.export.settings import ExportSettings
from kdc.export.to_trt import build_engine

SIZE = (64, 128)
Files = Callable[..., Path]


def ran(path: Path, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": x})[0])


@pytest.mark.parametrize(
    ("arch", "head", "input"),
    [
        ("deeplabv3", "logits", "float"),
        pytest.param("pspnet", "argmax", "uint8", marks=pytest.mark.process),
        pytest.param("deeplabv3plus", "logits", "float", marks=pytest.mark.process),
        pytest.param("deeplabv3", "argmax", "uint8", marks=pytest.mark.slow),
        pytest.param("pspnet", "logits", "float", marks=pytest.mark.slow),
        pytest.param("deeplabv3plus", "argmax", "uint8", marks=pytest.mark.slow),
    ],
)
def test_file_computes_the_network(
    arch: str, head: str, input: str, exported: Files, networks: dict[str, SegmentationModel]
) -> None:
    graph = DeployGraph(networks[arch], SIZE, head, input)
    pixels = np.random.default_rng(1).integers(0, 256, (1, *SIZE, 3), dtype=np.uint8)
    x = pixels if input == "uint8" else networks[arch].preprocess.apply(pixels)
    with torch.inference_mode():
        expected = graph(torch.from_numpy(x)).numpy()
    given = ran(exported(arch, head, input), x)
    assert given.dtype == expected.dtype and given.shape == expected.shape
    if head == "logits":
        assert np.abs(given - expected).max() <= 1e-4 * np.maximum(1, np.abs(expected)).max()
    else:
        assert (given == expected).mean() >= 0.9995


def test_what_is_in_a_file(exported: Files, networks: dict[str, SegmentationModel]) -> None:
    path = exported("pspnet", "argmax", "uint8")
    model = onnx.load(path)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert "BatchNormalization" not in kinds, "batch norm is not folded"
    assert len(model.graph.node) < 140 and "Gather" not in kinds, "adaptive pooling was unrolled"
    assert [node.op_type for node in model.graph.node][:2] == ["Cast", "Transpose"]
    assert kinds["MatMul"] == 6  # bins 2, 3, 6: two each; bin 1 is a mean
    assert not any("aux" in tensor.name for tensor in model.graph.initializer)
    assert model.opset_import[0].version == 20
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node), "stack traces with local paths"
    assert b"site-packages" not in path.read_bytes()
    assert [p.name for p in path.parent.glob(f"{path.name}*")] == [path.name], "weights belong inside"
    said = {p.key: json.loads(p.value) for p in model.metadata_props}
    assert said["kdc.preprocess"]["order"] == "bgr"
    assert said["kdc.classes"][1] == "sky" and said["kdc.palette"][0] == [128, 64, 128]
    assert said["kdc.model"] == json.loads(json.dumps(networks["pspnet"].spec().to_dict()))
    assert (said["kdc.head"], said["kdc.input"]) == ("argmax", "uint8")


@pytest.mark.parametrize("size", [(8, 16), (45, 60), (17, 13)])
def test_the_pyramid_is_small_and_exact(size: tuple[int, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    pyramid = PPM(16).eval()

    class Deployed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with ExactPooling():
                return pyramid(x)

    x = torch.randn(1, 16, *size)
    path = tmp_path / "pyramid.onnx"
    torch.onnx.export(Deployed().eval(), (x,), path, dynamo=True, opset_version=20, input_names=["x"], verbose=False)
    assert len(onnx.load(path).graph.node) <= 40
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = np.asarray(session.run(None, {"x": x.numpy()})[0])
    with torch.inference_mode():
        expected = pyramid.double()(x.double()).numpy()  # by torch's own adaptive pooling
    assert np.abs(given - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max())


@pytest.mark.process
def test_free_batch(exported: Files, networks: dict[str, SegmentationModel]) -> None:
    path, graph = exported("pspnet", "argmax", "uint8", True), DeployGraph(networks["pspnet"], SIZE, "argmax", "uint8")
    for batch in (1, 3):
        x = np.random.default_rng(batch).integers(0, 256, (batch, *SIZE, 3), dtype=np.uint8)
        with torch.inference_mode():
            expected = graph(torch.from_numpy(x)).numpy()
        given = ran(path, x)
        assert given.shape == expected.shape and (given == expected).mean() >= 0.9995


def test_opset_is_bounded(tmp_path: Path, networks: dict[str, SegmentationModel]) -> None:
    with pytest.raises(UsageError, match="18 to 25"):
        to_onnx.export_onnx(networks["pspnet"], tmp_path / "m.onnx", size=SIZE, opset=17)


@pytest.mark.process
def test_the_size_that_is_proposed_is_accepted(gated_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["eval", str(gated_run.export / "model.onnx"), "--size", "50x70"]) == 2
    said = capsys.readouterr().err
    words = re.findall(r"is made for \S+, not 50x70: leave out --size, or make another: kdc (.*)", said)[0].split()
    assert cli.run([*words[:2], str(gated_run.path), *words[2:], "--dry-run"]) == 0
    plan = make_plan([gated_run.export / "model.onnx", gated_run.path], size=(50, 70), batch=1)
    assert [each.why.partition("kdc ")[2] for each in plan.missing if each.file == "model.onnx"] == [" ".join(words)]


def test_a_file_of_another_opset_is_refused(exported: Files, networks: dict[str, SegmentationModel]) -> None:
    proto = onnx.load(exported("pspnet", "argmax", "uint8"))
    with pytest.raises(ExportError, match="as opset 21, only as --opset 20"):
        to_onnx._finished(proto, networks["pspnet"], opset=21, head="argmax", input="uint8")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    torch.set_num_threads(1)
    data = open_data("builtin", "val", size=(36, 60), val_count=4)
    card: dict[str, Any] = {"source": "builtin", "options": {"size": (36, 60), "val_count": 4}, "size": [36, 60]}
    card |= {"classes": list(data.classes), "palette": [list(c) for c in data.palette], "num_classes": data.num_classes}
    made = Run.create("export", Config(), out=tmp_path / "run", data=card)
    model = build("deeplabv3-mv2_050", data.num_classes, seed=0)
    save_student(made.checkpoints / "best.safetensors", model, {"data": card})
    made.record(status="finished")
    made.unlock()
    return made


def test_export_run_leaves_gated_files_with_manifests(run: Run) -> None:
    done = to_onnx.export_run(run, ExportSettings(precisions=("fp32", "fp16"), images=3))
    assert [each.path.name for each in done] == ["model.onnx", "model.fp16.onnx"]
    for each in done:
        manifest = json.loads((run.export / f"{each.path.name}.json").read_text())
        assert manifest["sha256"] == sha256(each.path) == Run(run.path).card.files[f"export/{each.path.name}"]
        assert read_info(each.path).shape == (1, 3, 40, 64)  # rounded up
        assert manifest["gate"]["passed"] and manifest["gate"]["images"] == 3
    full, half = (each.manifest.to_dict() for each in done)
    assert full["inputs"] == [{"name": "image", "dtype": "float32", "shape": [1, 3, 40, 64]}]
    assert full["source"]["sha256"] == sha256(run.checkpoints / "best.safetensors")
    assert half["source"] == {"file": "model.onnx", "sha256": full["sha256"]}
    assert half["cast"]["largest"] and half["calibration"]["keys"], "real images tell what leaves float16's range"
    assert [gate.stage for gate in read_gates(run)] == ["onnx model", "onnx model.fp16"]
    assert read_gates(run)[0].values["max_relative"] < 1e-4


@pytest.mark.parametrize("wrong", [{"size": (36, 60)}, {"head": "argmx"}, {"opset": 17}])
def test_what_cannot_be_exported_costs_no_good_file(run: Run, wrong: dict[str, Any]) -> None:
    run.export.mkdir()
    (run.export / "model.onnx").write_bytes(b"good")
    with pytest.raises(UsageError):
        to_onnx.export_run(run, ExportSettings(**wrong))
    assert (run.export / "model.onnx").read_bytes() == b"good"


def test_a_wrong_file_is_not_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    export = to_onnx.export_onnx

    def wrong(model: SegmentationModel, path: Path, **settings: Any) -> Path:
        with torch.no_grad():
            next(model.head.parameters()).mul_(1.5)
        return export(model, path, **settings)

    (run.export).mkdir()
    monkeypatch.setattr(to_onnx, "export_onnx", wrong)
    with pytest.raises(NumbersError, match="did not pass its gate and was not kept: logits differ") as caught:
        to_onnx.export_run(run, ExportSettings(images=2))
    assert caught.value.exit_code == 6
    assert list(run.export.iterdir()) == []
    assert read_gates(run)[0].values["passed"] is False


def test_an_export_that_is_stopped_leaves_nothing_ungated(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(produce, "gate", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        to_onnx.export_run(run, ExportSettings(images=2))
    assert list(run.export.iterdir()) == []


@pytest.mark.process
def test_what_an_earlier_network_left_stays_until_it_is_dropped(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    weights, full = run.checkpoints / "best.safetensors", run.export / "model.onnx"
    to_onnx.export_run(run, ExportSettings(precisions=("fp32", "fp16"), images=1))
    derived = {"model.int8.ort.onnx": full.name, "model.fp32.engine": full.name, "model.fp16.engine": "model.fp16.onnx"}
    for name, origin in derived.items():
        (run.export / name).write_bytes(b"derived")
        key = "onnx" if name.endswith(".engine") else "source"
        write_json(manifest_path(run.export / name), {key: {"file": origin, "sha256": sha256(run.export / origin)}})
    write_json(
        run.path / "gates.json",
        [*(row.values for row in read_gates(run)), {"stage": "int8", "file": "model.int8.ort.onnx"}],
    )
    (run.export / "notes.txt").write_text("a user's own")
    before = {path.name for path in run.export.iterdir()}

    to_onnx.export_run(run, ExportSettings(images=1))
    assert {path.name for path in run.export.iterdir()} == before, "the same network leaves what was made from it"

    card = {"data": run.card.data.to_dict()}
    save_student(weights, build("deeplabv3-mv2_050", run.card.data.num_classes, seed=1), card)
    capsys.readouterr()
    to_onnx.export_run(run, ExportSettings(images=1))
    assert {path.name for path in run.export.iterdir()} == before, "nothing has taken their place yet"
    said = " ".join(capsys.readouterr().out.split())
    names = "model.fp16.engine, model.fp16.onnx, model.fp32.engine, model.int8.ort.onnx"
    assert f"stale, since made from an earlier network: {names};" in said
    with open_runtime(run.export / "model.fp16.onnx"):
        assert "model.fp16.onnx is stale: it was made from an earlier" in " ".join(capsys.readouterr().out.split())
    assert {m.file for m in make_plan([run], size=None, batch=1).missing} >= {"model.fp16.onnx", "model.int8.ort.onnx"}
    with pytest.raises(UsageError, match=r"model.fp16.onnx is stale"):
        build_engine(run.export / "model.fp16.onnx", run.export / "model.fp16.engine")
    pair = Comparison("onnx model.fp16", run, run.export / "model.fp16.onnx")
    assert "is stale" in str(_measure(pair, run, run.open_data(), 1, CPU, None).unrun)
    assert cli.run(["runs", "check", str(run.path), "--json"]) == 0
    files = json.loads(capsys.readouterr().out.splitlines()[-1])["files"]
    assert {each["name"] for each in files if "stale" in each} == {f"export/{name}" for name in names.split(", ")}

    to_onnx.export_run(run, ExportSettings(precisions=("fp32", "fp16"), images=1))
    names = "model.fp16.engine, model.fp32.engine, model.int8.ort.onnx"
    assert [path.name for path in stale_files(run.path)] == names.split(", ")

    to_onnx.export_run(run, ExportSettings(images=1, drop_stale=True))
    left = {path.name for path in run.export.iterdir()}
    new = {f"{name}{part}" for name in ("model.onnx", "model.fp16.onnx") for part in ("", ".json", ".golden.npz")}
    assert left == new | {"notes.txt"}
    assert {gate.file for gate in read_gates(run)} == {"model.onnx", "model.fp16.onnx"}
    said = " ".join("".join(capsys.readouterr()).split())  # --json sends it to stderr
    assert f"removed, since made from an earlier network: {names};" in said
    assert set(Run(run.path).card.files) >= {"export/model.onnx"}
    assert "export/model.int8.ort.onnx" not in Run(run.path).card.files


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"head": "argmx"}, "--head 'argmx': accepted are"),
        ({"input": "int8"}, "--input 'int8': accepted are"),
        ({"opset": 17}, "--opset 17: accepted are 18 to 25"),
        ({"size": "60x100"}, "the next is 64x104"),
    ],
)
def test_a_dry_run_refuses_what_the_export_would(run: Run, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        commands.export_onnx(run=str(run.path), dry_run=True, **wrong)


def test_plan_writes_nothing(run: Run) -> None:
    plan = to_onnx.plan_run(run, ExportSettings(precisions=("fp32", "fp16"), head="argmax", input="uint8"))
    assert plan.to_dict()["size"] == [40, 64]
    assert [Path(p).name for p in plan.onnx] == ["model.argmax.uint8.onnx", "model.argmax.uint8.fp16.onnx"]
    assert not run.export.exists()


def test_free_height_and_width_are_refused_with_the_reason(run: Run) -> None:
    with pytest.raises(UsageError, match=r"fixed at export.*--dynamic-batch"):
        commands.export_onnx(run=str(run.path), size="dynamic")
    with pytest.raises(UsageError, match="did you mean 'fp16'"):
        commands.export_onnx(run=str(run.path), precision="fp61")
