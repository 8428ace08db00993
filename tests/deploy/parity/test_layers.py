"""The chain of a run and the layer at which it breaks: files broken by hand are found where they were broken."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from kdc import cli
from kdc.calib.calibrate import Settings, calibrate_run
from kdc.deploy.artefacts.beside import manifest_path
from kdc.deploy.artefacts.ledger import read_gates
from kdc.deploy.parity.chain import compare, comparisons, walk
from kdc.deploy.parity.layers import FACTOR, explain, module_of
from kdc.deploy.runtimes.open import open_runtime
from kdc.deploy.runtimes.options import RuntimeOptions
from kdc.distill.data import open_data
from kdc.distill.errors import DataError, ExportError, UsageError
from kdc.distill.models import build
from kdc.distill.run.checkpoint import save_student
from kdc.distill.run.files import write_json
from kdc.distill.run.folder import Run
from kdc.distill.settings.config import Config
from kdc.export.settings import ExportSettings
from kdc.export.to_onnx import export_run

#: three exports and a calibration come first
pytestmark = pytest.mark.process
LAYER = "backbone.blocks.3.1.conv_pwl"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with all that it can export: made once, copied by the tests that break it."""
    torch.set_num_threads(1)
    options: dict[str, Any] = {"size": (32, 64), "count": 6, "val_count": 3}
    data = open_data("builtin", "val", **options)
    card: dict[str, Any] = {"source": "builtin", "options": options, "size": [32, 64], "num_classes": data.num_classes}
    card |= {"classes": list(data.classes), "palette": [list(c) for c in data.palette]}
    run = Run.create("whole", Config(), out=tmp_path_factory.mktemp("runs") / "whole", data=card)
    model = build("deeplabv3-mv2_035", data.num_classes, seed=0)
    save_student(run.checkpoints / "best.safetensors", model, {"data": card})
    run.record(status="finished")
    run.unlock()
    export_run(run, ExportSettings(precisions=("fp32", "fp16"), images=2))
    export_run(run, ExportSettings(head="argmax", input="uint8", images=1))
    calibrate_run(run, Settings(images=2, agreement=0.3, max_drop=100, gate_images=2))
    return run


@pytest.fixture
def run(whole: Run, tmp_path: Path) -> Run:
    """A copy whose files nothing seals, so that what changes in them is for the parity to find."""
    copy = Run(shutil.copytree(whole.path, tmp_path / "run"))
    copy.record(files={})
    return copy


def test_a_file_that_its_seal_does_not_fit_breaks_its_stage(
    whole: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Run(shutil.copytree(whole.path, tmp_path / "run"))
    path = copy.export / "model.onnx"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    assert cli.run(["parity", str(copy.path), "--images", "1"]) in (4, 6)
    assert "model.onnx was changed since kdc wrote it" in capsys.readouterr().err


def flip(path: Path, start: str) -> None:
    """Turn the sign of the weights whose name starts so."""
    model = onnx.load(path)
    found = [tensor for tensor in model.graph.initializer if tensor.name.startswith(start)]
    assert found
    for tensor in found:
        tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, path)


def set_metadata(path: Path, key: str, **values: Any) -> None:
    model = onnx.load(path)
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = json.dumps(json.loads(entry.value) | values)
    onnx.save(model, path)


def test_the_chain_follows_the_manifests(whole: Run) -> None:
    chain = comparisons(whole, compiled=True)
    ends = [(a.stage, a.reference.name if isinstance(a.reference, Path) else "run") for a in chain]
    assert ends == [
        ("compiled", "run"),
        ("onnx model", "run"),
        ("onnx model.argmax.uint8", "run"),
        ("onnx model.fp16", "model.onnx"),
        ("onnx model.int8.ort", "model.onnx"),
    ]


def test_without_manifests_names_tell_and_a_circle_is_no_end(run: Run) -> None:
    write_json(manifest_path(run.export / "model.onnx"), {"onnx": {"file": "model.fp16.onnx"}})
    assert len(comparisons(run)) == 4
    for path in run.export.glob("*.json"):
        path.write_text("not json")
    assert {a.stage: isinstance(a.reference, Run) for a in comparisons(run)} == {
        "onnx model": True,
        "onnx model.argmax.uint8": False,
        "onnx model.fp16": False,
        "onnx model.int8.ort": False,
    }


def test_a_whole_chain_passes_and_is_entered(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.run(["parity", str(run.path), "--images", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["first_broken"] is None and result["explanation"] is None
    assert [(a["from"], a["to"]) for a in result["arrows"]][1:3] == [
        ("torch", "model.argmax.uint8.onnx"),
        ("model.onnx", "model.fp16.onnx"),
    ]
    entries = [row.values for row in read_gates(run)]
    assert {e["stage"]: e["origin"] for e in entries}["onnx model.int8.ort"] == "model.onnx"
    assert all(e["passed"] and e["sha256"] and e["reference_sha256"] for e in entries)
    int8 = next(e for e in entries if e["file"] == "model.int8.ort.onnx")
    assert int8["tolerances"]["agreement"] == 0.3, "what its flags allowed when it was made"
    assert "gates.json" in Run(run.path).card.files, "sealed again"


@pytest.mark.parametrize(
    ("file", "weights", "stage"),
    [
        ("model.onnx", f"model.{LAYER}.weight", "onnx model"),
        ("model.fp16.onnx", f"model.{LAYER}.weight", "onnx model.fp16"),
        ("model.int8.ort.onnx", f"model.{LAYER}.weight_quantized", "onnx model.int8.ort"),
        ("model.argmax.uint8.onnx", f"model.{LAYER}.weight", "onnx model.argmax.uint8"),
    ],
)
def test_flipped_weights_are_found(
    run: Run, file: str, weights: str, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(run.export / file, weights)
    assert cli.run(["parity", str(run.path), "--images", "1", "--explain", "--json"]) == 6
    out, err = capsys.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert result["first_broken"] == stage and f"the first broken stage is {stage}: {file} was changed" in err
    assert result["explanation"]["first"]["name"] == LAYER
    assert result["explanation"]["first"]["error"] > FACTOR * result["explanation"]["first"]["error_in"]
    assert result["explanation"]["worst"][0]["name"] == LAYER
    assert (run.export / file).exists(), "nothing is removed"


def test_other_preprocessing_is_found(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    set_metadata(run.export / "model.fp16.onnx", "kdc.preprocess", order="bgr")
    assert cli.run(["parity", str(run.path), "--images", "1", "--explain"]) == 6
    out, err = capsys.readouterr()
    assert "the first broken stage is onnx model.fp16" in err and "prepare images differently" in err
    assert "the networks are given different inputs" in out


def test_a_normalisation_inside_the_graph_is_found(run: Run) -> None:
    path = run.export / "model.argmax.uint8.onnx"
    flip(path, "shift")
    broken = next(each for each in walk(run, images=1, explained=True) if each.failed)
    assert broken.comparison.candidate == path and broken.explanation is not None
    assert broken.explanation.first is not None and broken.explanation.first.name == "node_add"


def test_a_broken_file_breaks_its_stage_and_what_came_of_it_is_not_run(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.export / "model.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    assert cli.run(["parity", str(run.path), "--images", "1", "--json"]) == 6
    out, err = capsys.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert result["first_broken"] == "onnx model" and "cut off" in err
    lost = {a["stage"]: a.get("unrun", "") for a in result["arrows"]}
    assert lost["onnx model.fp16"].startswith("model.onnx, which it was made from") and not lost["onnx model"]


def test_what_cannot_run_here_is_no_fault(run: Run) -> None:
    engine = run.export / "model.fp32.engine"
    engine.write_bytes(b"plan")
    write_json(manifest_path(engine), {"onnx": {"file": "model.onnx"}})
    outcomes = walk(run, images=1)
    last = next(each for each in outcomes if each.comparison.candidate == engine)
    assert last.comparison.stage == "engine model.fp32"
    assert last.unrun or last.broken
    assert "engine model.fp32" not in {entry.stage for entry in read_gates(run)}


def test_a_file_made_for_another_device_is_no_fault(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = RuntimeOptions.open

    def refusing(options: RuntimeOptions, source: Any, size: Any = None) -> Any:
        if Path(source).name == "model.fp16.onnx":
            raise UsageError("compiled for cuda: open it with --device cuda")
        return opened(options, source, size)

    monkeypatch.setattr(RuntimeOptions, "open", refusing)
    outcomes = {each.comparison.stage: each for each in walk(run, images=1)}
    assert outcomes["onnx model.fp16"].unrun.startswith("compiled for cuda") and not outcomes["onnx model.fp16"].failed


def test_a_sound_network_has_no_layer_that_stands_out(whole: Run) -> None:
    image = whole.open_data("val").read(0)[0]
    full = whole.export / "model.onnx"
    for reference, file, least in ((whole, full, 60), (whole, "model.fp16.onnx", 60), (full, "model.fp16.onnx", 60)):
        with open_runtime(whole.export / file) as candidate, open_runtime(reference) as trusted:
            result = explain(trusted, candidate, image)
        assert result.first is None and result.compared >= least and 0 < result.error_out < 0.02
        assert "no layer stands out" in result.line()
        json.dumps(result.to_dict(), allow_nan=False)


def test_values_that_are_not_finite_are_an_infinite_error(run: Run) -> None:
    path = run.export / "model.onnx"
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == f"model.{LAYER}.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.nan, tensor.name))
    onnx.save(model, path)
    with open_runtime(path) as candidate, open_runtime(run) as trusted:
        result = explain(trusted, candidate, run.open_data("val").read(0)[0])
    assert result.first is not None and result.first.name == LAYER and result.first.error == float("inf")
    assert '"inf"' in json.dumps(result.to_dict(), allow_nan=False)


def test_two_things_are_compared_without_a_run(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = tmp_path / "elsewhere"
    alone.mkdir()
    full, half = (Path(shutil.copy(run.export / name, alone / name)) for name in ("model.onnx", "model.fp16.onnx"))
    with pytest.raises(UsageError, match=r"name --data NAME\|DIR"):
        compare(str(full), str(half))
    data = open_data("builtin", "val", size=(32, 64), val_count=3)
    done = compare(str(full), str(half), dataset=data, images=2, explained=True)
    assert done.result is not None and done.result.passed and done.explanation is not None
    weights = str(run.checkpoints / "best.safetensors")
    back = compare(str(full), weights, dataset=data, images=2)
    assert back.result is not None and back.result.max_relative is not None and back.result.max_relative < 1e-4
    data.classes = ("a",)
    with pytest.raises(DataError, match="name its own data"):
        compare(str(full), str(half), dataset=data)
    gates = read_gates(run)
    assert cli.run(["parity", weights, str(run.export / "model.onnx"), "--images", "1"]) == 0
    assert "best.safetensors -> model.onnx" in capsys.readouterr().out
    assert read_gates(run) == gates, "an answer to a question is no record"


def test_what_explain_refuses(run: Run) -> None:
    image = run.open_data("val").read(0)[0]
    with open_runtime(run) as trusted, open_runtime(run.export / "model.int8.ort.onnx") as candidate:
        with pytest.raises(UsageError, match="compare with those of the float ONNX file"):
            explain(trusted, candidate, image)
        with pytest.raises(UsageError, match="not into onnxruntime and torch"):
            explain(candidate, trusted, image)
    assert module_of(onnx.helper.make_node("Conv", ["x", "model.head.conv.weight_fp16", "b"], ["y"])) == "head.conv"
    assert module_of(onnx.helper.make_node("Conv", ["x", "w"], ["y"])) == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--size", "8x8"], "--size is for two things"),
        (["--data", "builtin"], "--data is for two things"),
        (["export/model.onnx", "--compiled"], "--compiled is for a whole run"),
        (["export/model.onnx", "--explain"], "--explain needs what"),
        (["export/model.engine", "--images", "3"], "is opened by one runtime alone; compare it with what it was made"),
        (["export/model.onnx", ".", "--split", "val"], "--split goes with --data"),
    ],
)
def test_flags_that_fit_nothing(
    whole: Run, line: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(whole.path)
    assert cli.run(["parity", *(line if line[0][0] != "-" else [".", *line])]) == 2
    assert said in capsys.readouterr().err


def test_nothing_exported(run: Run) -> None:
    shutil.rmtree(run.export)
    with pytest.raises(ExportError, match="kdc export onnx"):
        walk(run)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda ledger: ledger[:1], "gates.json cannot be read"),
        (lambda ledger: ledger.replace('"tie"', '"knot"'), "no tolerance is called knot"),
        (lambda ledger: ledger.replace('"tolerances"', '"other"'), "it holds no tolerances"),
        (lambda ledger: ledger.replace('"agreement": 0.3', '"agreement": 30'), "agreement 30 is not accepted"),
    ],
)
def test_a_broken_ledger_is_no_bug(run: Run, broken: Any, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = run.path / "gates.json"
    ledger.write_text(text := broken(ledger.read_text()))
    capsys.readouterr()
    assert cli.run(["parity", str(run.path), "--images", "1"]) == 4
    err = " ".join(capsys.readouterr().err.split())
    assert said in err and "delete it, and kdc parity RUN measures every file anew" in err
    assert ledger.read_text() == text, "nothing was measured"


@pytest.mark.parametrize("flag", [["--agreement", "nan"], ["--agreement", "99"], ["--max-drop", "-1"]])
def test_flags_that_are_no_limit_cost_no_file(run: Run, flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.export.iterdir()}
    assert cli.run(["calib", str(run.path), "--images", "2", *flag]) == 2
    assert "is not accepted" in " ".join(capsys.readouterr().err.split())
    assert {path: path.stat().st_mtime_ns for path in run.export.iterdir()} == before


def test_the_onnx_files_run_in_the_runtime_that_is_typed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino")
    words = ["parity", str(run.path), "--images", "1", "--provider", "openvino", "--json"]
    cli.run(words)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    ran = {arrow["candidate"].partition(" ")[0] for arrow in result["arrows"] if "candidate" in arrow}
    assert ran == {"openvino"}


@pytest.mark.parametrize("words", [["--buffers", "torch"], ["--cuda-graph"]])
def test_a_flag_for_engines_is_refused_where_there_is_none(
    run: Run, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(run.export / "model.onnx")
    for sources in ([str(run.path)], [file], [str(run.path), file]):
        assert cli.run(["parity", *sources, *words]) == 2
        assert "is for TensorRT engines" in capsys.readouterr().err
    assert cli.run(["parity", str(run.path), file, "--provider", "openvinoo", "--images", "1"]) == 5
