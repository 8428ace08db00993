"""``kdc calib``: every form through its gate, the shared cache, and what it refuses."""

import importlib.util
import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from kdc import cli
from kdc.calib import calibrate, calibration
from kdc.calib.calibrate import Settings, calibrate_run
from kdc.calib.low_precision import Form
from kdc.deploy.artefacts.beside import golden_path, manifest_path
from kdc.deploy.bench.plan import NotMeasured, select
from kdc.deploy.runtimes.open import open_runtime
from kdc.deploy.runtimes.ort_runtime import read_info
from kdc.distill import console
from kdc.distill.errors import DataError, ExportError, NumbersError, UsageError, WeightsError
from kdc.distill.preprocess import POLICIES
from kdc.distill.run.files import sha256
from kdc.distill.run.folder import Run
from kdc.distill.run.stale import stale_files
from kdc.distill.settings.config import Config

LOOSE: dict[str, Any] = {"images": 6, "agreement": 0.5, "max_drop": 100}
TIGHT: dict[str, Any] = LOOSE | {"agreement": 0.999}
FEWER: dict[str, Any] = LOOSE | {"images": 5}
TWO: dict[str, Any] = LOOSE | {"images": 2}
needs_openvino = pytest.mark.skipif(
    not (importlib.util.find_spec("openvino") and importlib.util.find_spec("nncf")),
    reason="openvino or nncf is not installed",
)


@pytest.mark.parametrize(
    ("to", "target", "high", "name", "precision"),
    [
        ("int8", None, None, "model.int8.ort.onnx", "int8"),
        ("int8", "trt", "fp32", "model.int8.trt.onnx", "int8"),
        ("int8", "trt", None, "model.int8.fp16.trt.onnx", "int8+fp16"),
        ("fp8", None, "fp32", "model.fp8.trt.onnx", "fp8"),
        ("fp8", "trt", None, "model.fp8.fp16.trt.onnx", "fp8+fp16"),
        ("bf16", None, None, "model.bf16.trt.onnx", "bf16"),
        ("fp16", "ort", None, "model.fp16.onnx", "fp16"),
        pytest.param("int8", "openvino", None, "model.int8.openvino.xml", "int8", marks=needs_openvino),
    ],
)
def test_every_form_gets_a_gated_file_with_a_manifest(
    run: Run, to: str, target: str | None, high: str | None, name: str, precision: str
) -> None:
    done = calibrate_run(run, Settings(to=to, target=target, high=high, **LOOSE))
    assert done.path == run.export / name and done.gate is not None and done.gate.passed
    manifest = json.loads((run.export / f"{name}.json").read_text())
    assert (manifest["precision"], manifest["sha256"]) == (precision, sha256(done.path))
    assert manifest["source"] == {"file": "model.onnx", "sha256": sha256(run.export / "model.onnx")}
    assert len(manifest["calibration"]["keys"]) == 6 and manifest["left_high"] == []
    assert list(manifest["contract"])[-2:] == ["metadata", "made"] and manifest["contract"]["metadata"] is None
    facts = manifest["cast" if to in ("fp16", "bf16") else to]
    assert facts.get("quantised_products", 7) == 7 and facts.get("high", "fp32") == (
        "fp16" if "+fp16" in precision else "fp32"
    )
    assert golden_path(done.path).is_file()
    (entry,) = json.loads((run.path / "gates.json").read_text())
    assert entry["stage"] == f"{'openvino' if target == 'openvino' else 'onnx'} {done.path.stem}" and entry["passed"]
    assert entry["left_high"] == []
    with open_runtime(done.path) as runtime, open_runtime(run.export / "model.onnx") as full:
        assert runtime.precision == precision and runtime.spec.classes == full.spec.classes
        assert ("simulated" in runtime.provider) == (precision not in ("int8", "fp16"))
        image = run.open_data("val").read(0)[0][None]
        logits = [each.infer(each.prepare(image)) for each in (runtime, full)]
        assert 0 < np.abs(logits[0] - logits[1]).max() < 0.2 * np.abs(logits[1]).max()


def test_layers_left_high_are_in_the_file(run: Run) -> None:
    done = calibrate_run(run, Settings(target="trt", keep=["stem"], **LOOSE))
    assert done.manifest.to_dict()["left_high"] == ["stem"]
    assert read_info(done.path).metadata["kdc.left_high"] == ["stem", "stem_relu", "pool"], "in the file node by node"


def test_images_of_other_data_calibrate_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for name in ("images", "masks"):
        (tmp_path / "more" / name).mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        cv2.imwrite(str(tmp_path / "more" / "images" / f"{i}.png"), rng.integers(0, 256, (24, 40, 3), np.uint8))
        mask = (np.arange(24 * 40) % 11).astype(np.uint8).reshape(24, 40)
        cv2.imwrite(str(tmp_path / "more" / "masks" / f"{i}.png"), mask)
    done = calibrate_run(run, Settings(data=str(tmp_path / "more"), **TWO))
    assert (
        len(done.manifest.to_dict()["calibration"]["keys"]) == 2
        and done.manifest.to_dict()["gate"]["data"] == "builtin val"
    )
    assert "builtin" not in done.manifest.to_dict()["calibration"]["data"]
    (tmp_path / "more" / "kdc.yaml").write_text("classes: 12")
    with pytest.raises(DataError, match=r"more has 12 classes, the network has 11: a kdc\.yaml beside the data"):
        calibrate_run(run, Settings(data=str(tmp_path / "more"), **LOOSE))


def test_one_cache_serves_every_target(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    calibrate_run(run, Settings(**LOOSE))
    (cache,) = run.calib.glob("statistics-*.json")
    monkeypatch.setattr(calibration, "collect", lambda *given: pytest.fail("it collected again"))
    calibrate_run(run, Settings(target="trt", calibrator="percentile", **LOOSE))
    calibrate_run(run, Settings(to="fp16", **LOOSE))
    assert f"statistics of 6 images of builtin train from {cache.name}" in capsys.readouterr().out
    with pytest.raises(BaseException, match="it collected again"):
        calibrate_run(run, Settings(**FEWER))


def test_the_comparison_and_the_rescue_are_written_down(run: Run) -> None:
    done = calibrate_run(
        run, Settings(target="trt", compared=True, sensitivity=True, keep=["stem"], allow_partial=True, **TIGHT)
    )
    assert set(done.manifest.to_dict()["calibrators"]) == {"minmax", "entropy", "percentile", "mse"}
    agreements = {name: each["agreement"] for name, each in done.manifest.to_dict()["calibrators"].items()}
    assert done.manifest.to_dict()["int8"]["calibrator"] == max(agreements, key=lambda name: agreements[name])
    rescued = done.manifest.to_dict()["sensitivity"]["rescued"]
    assert rescued and done.manifest.to_dict()["left_high"] == ["stem", *rescued]
    (entry,) = json.loads((run.path / "gates.json").read_text())
    assert entry["left_high"] == ["stem", *rescued]
    assert {"stem", "stem_relu", "pool"} <= set(done.manifest.to_dict()["int8"]["left_high"])
    assert not set(done.manifest.to_dict()["sensitivity"]["keys"]) & set(done.manifest.to_dict()["calibration"]["keys"])


def test_a_failed_gate_leaves_the_earlier_file(run: Run) -> None:
    calibrate_run(run, Settings(**LOOSE))
    before = {path: path.read_bytes() for path in [*run.export.iterdir(), run.path / "gates.json"]}
    name = "model.int8.ort.onnx"
    with pytest.raises(
        NumbersError, match=rf"did not pass its gate and was not kept; the earlier {name} stays: .*--sensitivity leaves"
    ):
        calibrate_run(run, Settings(images=2, agreement=1.0, max_drop=0))
    assert {path: path.read_bytes() for path in [*run.export.iterdir(), run.path / "gates.json"]} == before


@pytest.mark.parametrize("to", ["fp16", "bf16", "int8"])
def test_a_calibration_that_is_broken_off_costs_no_good_file(
    run: Run, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = calibrate_run(run, Settings(to=to, **LOOSE)).path
    for cache in run.calib.glob("statistics-*"):
        cache.unlink()
    monkeypatch.setattr(calibration, "collect", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        calibrate_run(run, Settings(to=to, **LOOSE))
    assert good.is_file() and manifest_path(good).is_file()


@pytest.mark.parametrize("target", ["ort", pytest.param("openvino", marks=needs_openvino)])
def test_a_calibration_that_takes_long_says_so_before(
    run: Run, target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count(step=15)  # seconds between two images
    monkeypatch.setattr(console, "clock", lambda: float(next(ticks)))
    calibrate_run(run, Settings(target=target, images=8, gate_images=1, agreement=0.1))
    out = capsys.readouterr().out
    assert "calibrating: about 2.0 minutes for 8\ncalibrating 1/8\ncalibrating 2/8\n" in out


@needs_openvino
def test_failed_gate_leaves_no_weights_of_openvino(run: Run) -> None:
    with pytest.raises(NumbersError, match="did not pass"):
        calibrate_run(run, Settings(target="openvino", images=2, agreement=1.0, max_drop=0))
    assert [path.name for path in run.export.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        ({"to": "int4"}, UsageError, "--to int4 is not known; accepted: int8, fp8, fp16, bf16; did you mean"),
        ({"budget": 3.0}, UsageError, "--budget is the time of --sensitivity: add it, or leave --budget out"),
        ({"target": "tensorrt"}, UsageError, "--for tensorrt is not known; accepted: openvino, ort, trt"),
        ({"to": "bf16", "target": "ort"}, UsageError, "--for ort has no use for bf16; accepted with --to bf16: trt"),
        ({"high": "fp16"}, UsageError, "--high says what the rest of an INT8 or FP8 file for trt"),
        ({"target": "trt", "high": "int4"}, UsageError, "--high int4 is not known"),
        ({"calibrator": "mean"}, UsageError, "calibrator 'mean' is not known"),
        ({"to": "fp16", "calibrator": "mse"}, UsageError, "--calibrator mse does nothing here"),
        ({"to": "fp16", "compared": True}, UsageError, "--compare compares calibrators"),
        ({"to": "bf16", "sensitivity": True}, UsageError, "--sensitivity is for INT8 and FP8"),
        ({"to": "fp16", "caster": "modelop"}, UsageError, "--caster 'modelop': accepted are kdc and modelopt; did you"),
        ({"to": "int8", "caster": "modelopt"}, UsageError, "--caster is for FP16 and BF16"),
        ({"keep": ["stm"]}, UsageError, "--keep stm: no such node or group.*did you mean 'stem'"),
        ({"images": 0}, UsageError, "at least 1 image"),
        ({"images": 13}, DataError, "split 'train' of builtin holds 12"),
        ({"data": "camvdi"}, DataError, "no dataset or directory called 'camvdi'; did you mean 'camvid'"),
    ],
)
def test_what_it_refuses_before_any_work(
    run: Run, flags: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "collect", lambda *given: pytest.fail("it began to collect"))
    with pytest.raises(error, match=message) as caught:
        calibrate_run(run, Settings(**flags))
    assert "\n" not in str(caught.value)
    assert [path.name for path in run.export.iterdir()] == ["model.onnx"]


def test_a_file_that_is_not_float32_is_refused(run: Run) -> None:
    calibrate_run(run, Settings(**LOOSE))
    with pytest.raises(WeightsError, match="is int8 already; int8 is made from the float32 file"):
        calibrate_run(run, Settings(source=run.export / "model.int8.ort.onnx"))
    for path in run.export.iterdir():
        path.unlink()
    with pytest.raises(ExportError, match="no float32 ONNX file yet; make it with: kdc export onnx run"):
        calibrate_run(run)


def folder_run(tmp_path: Path, write: Callable[[Path], None], network: Any, **options: Any) -> Run:
    """A run on images of a folder."""
    images, masks = tmp_path / "data" / "images", tmp_path / "data" / "masks"
    images.mkdir(parents=True)
    masks.mkdir()
    write(tmp_path / "data")
    folder = tmp_path / "run"
    folder.mkdir()
    data = {"source": str(tmp_path / "data"), "options": {"classes": 11} | options}
    (folder / "run.json").write_text(json.dumps({"data": data}))
    (folder / "config.yaml").write_text(Config().to_yaml())
    network(folder / "export" / "model.onnx")
    return Run(folder)


def test_an_empty_folder(tmp_path: Path, network: Any) -> None:
    empty = folder_run(tmp_path / "a", lambda folder: None, network)
    with pytest.raises(DataError) as caught:
        calibrate_run(empty)
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)


@pytest.mark.parametrize("policy", POLICIES)
def test_images_of_many_sizes_are_chosen_calibrated_compared_and_gated(
    policy: str, tmp_path: Path, network: Any
) -> None:
    def mixed(folder: Path) -> None:
        rng = np.random.default_rng(0)
        for i, size in enumerate([(48, 80), (5, 7), (32, 64), (100, 40), (31, 60), (20, 200)] * 4):
            cv2.imwrite(str(folder / "images" / f"{i}.png"), rng.integers(0, 256, (*size, 3), np.uint8))
            cv2.imwrite(str(folder / "masks" / f"{i}.png"), np.full(size, i % 11, np.uint8))

    run = folder_run(tmp_path, mixed, partial(network, fit=policy))
    product = calibrate_run(run, Settings(compared=True, images=8, agreement=0.5, max_drop=100))
    assert product.gate is not None and product.gate.images == len(product.gate.keys) == 5
    assert product.manifest.fit == policy == read_info(product.path).fit


def test_dry_run_says_what_would_be_and_writes_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run.path.rglob("*"))
    assert cli.run(["calib", str(run.path), "--to", "fp8", "--images", "4", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "model.fp8.fp16.trt.onnx" in out and "cached: False" in out and "calibrator: mse" in out
    assert sorted(run.path.rglob("*")) == before
    assert cli.run(["calib", str(run.path), "--to", "fp8", "--for", "ort", "--dry-run"]) == 2
    assert "--for ort has no use for fp8" in capsys.readouterr().err


def test_the_command_prints_its_manifest(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["calib", str(run.path), "--images", "4", "--agreement", "0.5", "--json"]
    assert cli.run(given) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and json.loads(out)["file"] == "model.int8.ort.onnx"
    source = str(run.export / "model.onnx")
    assert cli.run(["calib", source, "--to", "fp16", "--images", "4", "--agreement", "0.5"]) == 0
    assert (run.export / "model.fp16.onnx").is_file()


def test_a_drop_that_is_named_is_fought_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def remember(run: Run, settings: Settings) -> Any:
        asked.update(vars(settings))
        raise UsageError("enough")

    monkeypatch.setattr(calibrate, "calibrate_run", remember)
    for to, fought in (("int8", True), ("fp16", False)):
        assert cli.run(["calib", str(run.path), "--to", to, "--max-drop", "0.3"]) == 2
        assert (asked["sensitivity"], asked["max_drop"]) == (fought, 0.3)


def test_files_for_tensorrt_are_not_timed_on_a_cpu(run: Run) -> None:
    for name in ("model.int8.trt.onnx", "model.int8.ort.onnx"):
        (run.export / name).write_bytes((run.export / "model.onnx").read_bytes())
    selection = select([run], "cpu")
    assert [each.path.name for each in selection.candidates[1:]] == ["model.onnx", "model.int8.ort.onnx"]
    assert selection.missing == [NotMeasured("model.int8.trt.onnx", "not measured: typed for TensorRT, its engine is")]


def test_forms() -> None:
    assert [Form.of(to, "trt", None).high for to in ("int8", "fp8", "fp16")] == ["fp16", "fp16", "fp32"]
    assert Form.of("int8", None, None) == Form("int8", "ort") and Form.of("fp16", None, None).target == "trt"
    assert Form("int8", "trt", "fp16").path(Path("a/model.batch.onnx")) == Path("a/model.batch.int8.fp16.trt.onnx")
    assert Form("fp16", "trt").path(Path("model.onnx")) == Form("fp16", "ort").path(Path("model.onnx"))
    assert Form("int8", "openvino").calibrators() == [] and Form("fp16", "ort").precision == "fp16"


def test_what_was_made_from_the_file_before_is_stale(run: Run) -> None:
    first = calibrate_run(run, Settings(to="int8", target="trt", **LOOSE))
    engine = run.export / "model.int8.engine"
    engine.write_bytes(b"an engine of it")
    origin = {"onnx": {"file": first.path.name, "sha256": sha256(first.path)}}
    (run.export / "model.int8.engine.json").write_text(json.dumps({"kind": "engine", **origin}))
    calibrate_run(run, Settings(to="int8", target="trt", **LOOSE))  # the same file again
    assert stale_files(run.path) == {}
    calibrate_run(run, Settings(to="int8", target="trt", calibrator="minmax", **FEWER))
    assert stale_files(run.path) == {engine: first.path.name}


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["--keep", "nonsense"], 2, "no such node or group"),
        (["--agreement", "nan"], 2, "nan"),
        (["--agreement", "99"], 2, "99"),
        (["--max-drop", "-1"], 2, "-1"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(
    run: Run, flags: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = calibrate_run(run, Settings(**LOOSE)).path
    for dry in (["--dry-run"], []):
        assert cli.run(["calib", str(run.path), "--images", "6", *flags, *dry]) == code
        assert text in capsys.readouterr().err
    assert made.exists()  # refused before the good file goes


def test_a_missing_file_is_no_missing_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["calib", "nosuch.onnx"]) == 4
    assert "nosuch.onnx does not exist" in capsys.readouterr().err
