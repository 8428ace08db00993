"""OpenVINO files of a run: gated on OpenVINO, described, and gone when they are wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from kdc.deploy.artefacts.beside import golden_path, manifest_of, manifest_path
from kdc.deploy.artefacts.ledger import read_gates
from kdc.deploy.parity import produce
from kdc.distill.errors import ExportError, NumbersError, UsageError, WeightsError
from kdc.distill.models import build
from kdc.distill.run.checkpoint import save_student
from kdc.distill.run.files import sha256
from kdc.distill.run.folder import Run
from kdc.distill.run.stale import stale_files
from kdc.export import to_onnx, to_openvino
from kdc.export.settings import ExportSettings

ov = pytest.importorskip("openvino", reason="openvino is not installed")


def test_files_are_made_from_the_gated_onnx_file_and_gated_on_openvino(
    gated_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_onnx, "export_run", lambda *a, **k: pytest.fail("the ONNX file is there and gated"))
    settings = ExportSettings(images=2)
    manifests = to_openvino.export_openvino(gated_run, precisions=("fp32", "fp16"), settings=settings)
    full, half = (each.to_dict() for each in manifests)
    for manifest, name in ((full, "model.xml"), (half, "model.fp16.xml")):
        path = gated_run.export / name
        assert json.loads(manifest_path(path).read_text()) == json.loads(json.dumps(manifest, default=str))
        assert manifest["sha256"] == sha256(path) == Run(gated_run.path).card.files[f"export/{name}"]
        assert manifest["weights"]["sha256"] == sha256(path.with_suffix(".bin"))
        assert manifest["onnx"] == {"file": "model.onnx", "sha256": sha256(gated_run.export / "model.onnx")}
        assert manifest["source"]["sha256"] == sha256(gated_run.checkpoints / "best.safetensors")
        assert manifest["gate"]["passed"] and manifest["gate"]["candidate"] == "openvino (OpenVINO CPU)"
        assert manifest["gate"]["reference"].startswith("onnxruntime")
        assert manifest["ran"]["precision"] == "fp32" and set(manifest["ran"]["layers"]) == {"fp32"}
        assert golden_path(path).is_file()
    assert full["gate"]["max_relative"] < 1e-4 < half["gate"]["max_relative"], "float16 weights leave a trace"
    sizes = [(gated_run.export / name).with_suffix(".bin").stat().st_size for name in ("model.xml", "model.fp16.xml")]
    assert 1.9 < sizes[0] / sizes[1] < 2.1
    assert [gate.stage for gate in read_gates(gated_run)] == ["onnx model", "openvino model", "openvino model.fp16"]
    assert str(gated_run.path) not in (gated_run.export / "model.xml").read_text(), "a path of this machine"


def wrong(source: Path) -> Path:
    """Write an ONNX file that computes something else than ``source``, beside its folder."""
    model = onnx.load(source)
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    tensor.CopyFrom(numpy_helper.from_array(1.5 * numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, source.parents[1] / "wrong.onnx")
    return source.parents[1] / "wrong.onnx"


def test_a_wrong_file_is_not_kept_nor_its_weights(gated_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write = to_openvino.write_ir
    monkeypatch.setattr(to_openvino, "write_ir", lambda source, *a, **k: write(wrong(source), *a, **k))
    with pytest.raises(NumbersError, match=r"model.xml did not pass its gate and was not kept: ") as caught:
        to_openvino.export_openvino(gated_run, settings=ExportSettings(images=1))
    assert caught.value.exit_code == 6
    assert not list(gated_run.export.glob("model.xml*")) and not (gated_run.export / "model.bin").exists()
    assert not [p for p in gated_run.export.iterdir() if p.name.startswith(".")], "a half-written file"


def test_a_file_whose_proof_is_interrupted_does_not_stay(gated_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(produce, "gate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        to_openvino.export_openvino(gated_run, settings=ExportSettings(images=1))
    assert {path.name for path in gated_run.export.iterdir()} >= {"model.onnx"}
    assert not list(gated_run.export.glob("model.xml*")) and not (gated_run.export / "model.bin").exists()


def test_a_manifest_that_is_no_object_vouches_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    for text in ("[]", "3", "{"):
        (tmp_path / "m.onnx.json").write_text(text)
        assert not manifest_of(tmp_path / "m.onnx").values


def test_an_int8_file_of_the_calibration_is_gated_or_taken_as_gated(
    gated_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=r"is missing; make it with: kdc calib .* --to int8 --for openvino"):
        to_openvino.export_openvino(gated_run, precisions=("int8",))
    path = gated_run.export / "model.int8.openvino.xml"
    to_openvino.write_ir(gated_run.export / "model.onnx", path)
    first = to_openvino.export_openvino(gated_run, precisions=("int8",), settings=ExportSettings(images=1))[0].to_dict()
    assert first["gate"]["passed"] and first["precision"] == "int8"
    assert first["ran"]["precision"] == "fp32", "what really ran is read back, not believed"
    capsys.readouterr()
    again = to_openvino.export_openvino(gated_run, precisions=("int8",), settings=ExportSettings(images=1))[0].to_dict()
    assert again["sha256"] == first["sha256"]
    assert "passed its gate when it was calibrated" in capsys.readouterr().out


def test_an_int8_file_that_fails_is_removed_and_one_without_weights_refused(gated_run: Run) -> None:
    path = gated_run.export / "model.int8.openvino.xml"
    to_openvino.write_ir(gated_run.export / "model.onnx", path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(
        ExportError, match=r"lacks its weights, model\.int8\.openvino\.bin; make it again with: kdc calib"
    ):
        to_openvino.export_openvino(gated_run, precisions=("int8",))
    assert path.is_file()
    to_openvino.write_ir(wrong(gated_run.export / "model.onnx"), path)
    with pytest.raises(NumbersError, match=r"model\.int8\.openvino\.xml did not pass its gate and was not kept: "):
        to_openvino.export_openvino(gated_run, precisions=("int8",), settings=ExportSettings(images=1))
    assert not list(gated_run.export.glob("model.int8*"))
    assert [(row.file, row.passed) for row in read_gates(gated_run)][1:] == [(path.name, False)]


@pytest.mark.process
def test_of_another_network_the_openvino_file_is_stale_until_dropped(gated_run: Run) -> None:
    to_openvino.export_openvino(gated_run, settings=ExportSettings(images=1))
    data = gated_run.card.data.to_dict()
    save_student(
        gated_run.checkpoints / "best.safetensors",
        build("deeplabv3-mv2_050", data["num_classes"], seed=1),
        {"data": data},
    )
    to_onnx.export_run(gated_run, ExportSettings(images=1))
    assert stale_files(gated_run.path) == {gated_run.export / "model.xml": "model.onnx"}
    to_onnx.export_run(gated_run, ExportSettings(images=1, drop_stale=True))
    assert not list(gated_run.export.glob("model.xml*")) and not (gated_run.export / "model.bin").exists()


def test_what_is_refused(
    gated_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., None]
) -> None:
    with pytest.raises(UsageError, match="did you mean 'fp16'"):
        command("export", "openvino", gated_run.path, "--precision", "fp61")
    with pytest.raises(UsageError, match="leave out --head"):
        command("export", "openvino", gated_run.export / "model.onnx", "--head", "argmax")
    with pytest.raises(UsageError, match="are made from an ONNX file"):
        command("export", "openvino", gated_run.export / "model.engine")
    with pytest.raises(UsageError, match="a bundle holds an ONNX file"):
        command("export", "bundle", gated_run.export / "model.xml")
    with pytest.raises(UsageError, match=r"Triton serves .onnx"):
        command("export", "triton", gated_run.export / "model.pt2")
    with pytest.raises(WeightsError, match="does not exist"):
        command("export", "openvino", gated_run.export / "none.onnx")
    stray = tmp_path / "stray.onnx"
    shutil.copyfile(gated_run.export / "model.onnx", stray)
    with pytest.raises(UsageError, match="is in no run, so its data are unknown; name them: --data NAME"):
        command("export", "openvino", stray)
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(ExportError, match=r"pip install 'kdc\[openvino\]'"):
        command("export", "openvino", gated_run.path)
