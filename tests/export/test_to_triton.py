"""Model repositories for Triton: their configuration read back with Triton's own protobuf schema."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from kdc.deploy.artefacts.signature import signed
from kdc.distill.errors import ExportError, UsageError, WeightsError
from kdc.distill.run.files import sha256, write_json
from kdc.export.text_format import text_format as written
from kdc.export.to_triton import Serving, TritonModel, export_triton

from .._lacking import lacking

#: the newest whose schema was looked at; only one generated file of it is read
CLIENT = "tritonclient==2.73.0"
SCHEMA = "tritonclient/grpc/model_config_pb2.py"
Files = Callable[..., Path]
H, W, K = 64, 128, 5


@pytest.fixture(scope="session")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Triton's generated module, loaded by its path: importing the package would need grpc, and its pins fit nobody."""
    try:
        path = Path(str(metadata.distribution("tritonclient").locate_file(SCHEMA)))
    except metadata.PackageNotFoundError:
        folder = tmp_path_factory.mktemp("tritonclient")
        uv = Path(sys.executable).with_name("uv")
        if not uv.is_file():
            lacking("neither tritonclient nor uv is installed")
        done = subprocess.run(
            [str(uv), "pip", "install", "--quiet", "--no-deps", "--target", str(folder), CLIENT],
            capture_output=True, text=True, check=False, env=os.environ | {"UV_SYSTEM_CERTS": "1"},
        )  # fmt: skip
        if done.returncode:
            lacking(f"{CLIENT} cannot be fetched: {done.stderr.strip()[-200:]}")
        path = folder / SCHEMA
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def parsed(schema: Any) -> Callable[[TritonModel], Any]:
    """Read the config.pbtxt of a result as the server does: an unknown field or word is an error."""
    return lambda model: text_format.Parse((model.path / "config.pbtxt").read_text(), schema.ModelConfig())


def test_the_schema_tells_wrong_from_right(schema: Any) -> None:
    with pytest.raises(text_format.ParseError, match="no field named"):
        text_format.Parse("max_batch: 4", schema.ModelConfig())
    with pytest.raises(text_format.ParseError, match="no value named"):
        text_format.Parse("input { data_type: TYPE_FLOAT }", schema.ModelConfig())


@pytest.mark.process
def test_free_batch_stands_in_max_batch_size_and_not_in_the_dims(
    exported: Files, tmp_path: Path, schema: Any, parsed: Callable[..., Any]
) -> None:
    source = exported("pspnet", "argmax", "uint8", True)
    result = export_triton(
        source, tmp_path, Serving(6, "cuda", instances=2, queue_us=500, preferred=(2, 4)), name="seg"
    )
    config = parsed(result)
    assert (config.name, config.backend, config.max_batch_size) == ("seg", "onnxruntime", 6)
    (given,), (made,) = config.input, config.output
    assert (given.name, given.data_type, list(given.dims)) == ("image", schema.TYPE_UINT8, [H, W, 3])
    assert (made.name, made.data_type, list(made.dims)) == ("mask", schema.TYPE_UINT8, [H, W])
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    (group,) = config.instance_group
    assert (group.kind, group.count) == (schema.ModelInstanceGroup.KIND_GPU, 2)
    assert [each.batch_size for each in config.model_warmup] == [1, 2, 4, 6]
    assert list(config.model_warmup[0].inputs["image"].dims) == [H, W, 3]
    assert config.model_warmup[0].inputs["image"].zero_data
    folder = tmp_path / "seg"
    assert made.label_filename == "labels.txt"
    assert (folder / "labels.txt").read_text().split() == ["road", "sky", "tree", "car", "post"]
    assert sha256(folder / "1" / config.default_model_filename) == sha256(source)
    assert json.loads((folder / "kdc.json").read_text())["sha256"] == sha256(source)


def test_a_fixed_batch_stands_in_the_dims_and_nothing_is_batched(
    exported: Files, tmp_path: Path, schema: Any, parsed: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config = parsed(export_triton(exported("pspnet", "logits", "float"), tmp_path, Serving(warmup=False), name="seg"))
    assert config.max_batch_size == 0 and not config.HasField("dynamic_batching") and not config.model_warmup
    assert list(config.input[0].dims) == [1, 3, H, W] and list(config.output[0].dims) == [1, K, H, W]
    assert config.input[0].data_type == config.output[0].data_type == schema.TYPE_FP32
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_CPU
    assert "has passed no gate" in capsys.readouterr().out


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """Something that kdc's manifest says is an engine."""
    path = tmp_path / "model.fp16.engine"
    path.write_bytes(b"an engine")
    shape: list[Any] = [None, 3, H, W]
    manifest: dict[str, Any] = {"file": path.name, "sha256": sha256(path), "kind": "engine", "precision": "fp16"}
    manifest |= {"flavour": "tensorrt", "version": "11.4.0.106", "onnx": {"file": "model.onnx", "sha256": "0"}}
    manifest |= {"inputs": [{"name": "image", "dtype": "float32", "shape": shape}], "classes": list("abcde")}
    manifest |= {"outputs": [{"name": "logits", "dtype": "float32", "shape": [None, K, H, W]}]}
    manifest |= {"profile": {"min": [1, 3, H, W], "opt": [4, 3, H, W], "max": [16, 3, H, W]}}
    write_json(path.with_name(f"{path.name}.json"), signed(manifest))
    return path


@pytest.mark.parametrize(
    ("change", "why"), [({"flavour": "tensorrt_rtx"}, "is tensorrt_rtx's"), ({"stripped": True}, "without its weights")]
)
def test_engines_that_the_server_does_not_load(engine: Path, tmp_path: Path, change: dict[str, Any], why: str) -> None:
    beside = engine.with_name(f"{engine.name}.json")
    write_json(beside, signed(json.loads(beside.read_text()) | change))
    with pytest.raises(ExportError, match=f"{why}.*--flavour tensorrt"):
        export_triton(engine, tmp_path / "models")


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": [1]},
        {"outputs": [{"name": "logits", "dtype": "float32", "shape": 5}]},
        {"profile": [1]},
        {"classes": 5},
        {"targets": 5},
        {"flags": 5},
        {"onnx": {}},
        {"onnx": {"file": "../../elsewhere.onnx"}},
    ],
)
def test_a_manifest_that_holds_something_else(engine: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    beside = engine.with_name(f"{engine.name}.json")
    write_json(beside, signed(json.loads(beside.read_text()) | change))
    with pytest.raises(ExportError, match=f"does not say what an engine of kdc's does \\({next(iter(change))}\\)"):
        export_triton(engine, tmp_path / "models")


def test_an_engine_brings_its_profile_and_names_its_tensorrt(
    engine: Path, tmp_path: Path, schema: Any, parsed: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config = parsed(export_triton(engine, tmp_path / "models", Serving(cuda_graphs=True), name="seg"))
    assert (config.backend, config.default_model_filename, config.max_batch_size) == ("tensorrt", "model.plan", 16)
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert config.optimization.cuda.graphs
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
    assert list(config.input[0].dims) == [3, H, W]
    assert [each.batch_size for each in config.model_warmup] == [1, 4, 16]
    assert "tensorrt 11.4.0.106" in capsys.readouterr().out
    with pytest.raises(UsageError, match="takes 1 to 16 images"):
        export_triton(engine, tmp_path / "models", Serving(max_batch=32), name="seg")
    engine.write_bytes(b"another")
    with pytest.raises(ExportError, match="its sha256 is another"):
        export_triton(engine, tmp_path / "models", name="seg")
    with pytest.raises(WeightsError, match="has no manifest"):
        engine.with_name(f"{engine.name}.json").unlink()
        export_triton(engine, tmp_path / "models", name="seg", trust=True)


@pytest.mark.process
def test_an_openvino_network_takes_its_weights_along(
    exported: Files, tmp_path: Path, schema: Any, parsed: Callable[..., Any]
) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    from kdc.export.to_openvino import write_ir

    path = write_ir(exported("pspnet", "argmax", "uint8", True), tmp_path / "model.xml")
    config = parsed(export_triton(path, tmp_path / "models", name="seg"))
    assert (config.backend, config.max_batch_size) == ("openvino", 8)
    assert list(config.input[0].dims) == [H, W, 3] and config.input[0].data_type == schema.TYPE_UINT8
    assert list(config.output[0].dims) == [H, W] and config.output[0].data_type == schema.TYPE_UINT8
    assert {p.name for p in (tmp_path / "models" / "seg" / "1").iterdir()} == {"model.xml", "model.bin"}


def test_quotes_in_a_name_stay_quoted(schema: Any) -> None:
    name = 'a "b" \\c'
    assert text_format.Parse("\n".join(written({"name": name})), schema.ModelConfig()).name == name


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"serving": Serving(max_batch=4)}, "made for a batch of 1, so the server cannot form batches"),
        ({"serving": Serving(preferred=(2,))}, "made for a batch of 1"),
        ({"serving": Serving(cuda_graphs=True)}, "is for engines"),
        ({"name": "../up"}, "a model's name holds letters"),
        ({"serving": Serving(device="tpu")}, "backend runs on cpu, cuda"),
    ],
)
def test_flags_that_mean_nothing_are_refused(
    exported: Files, tmp_path: Path, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export_triton(exported("pspnet", "logits", "float"), tmp_path, **{"name": "seg", **flags})
    assert not list(tmp_path.iterdir())


def test_other_files_and_other_peoples_folders(exported: Files, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Triton serves .onnx, .xml, .engine, .plan"):
        export_triton(tmp_path / "model.safetensors", tmp_path)
    with pytest.raises(UsageError, match="--preferred 9: batches of 1 to 8"):
        export_triton(exported("pspnet", "argmax", "uint8", True), tmp_path, Serving(preferred=(9,)), name="seg")
    (tmp_path / "seg").mkdir()
    (tmp_path / "seg" / "config.pbtxt").write_text("somebody's")
    with pytest.raises(UsageError, match="holds something that kdc did not write"):
        export_triton(exported("pspnet", "logits", "float"), tmp_path, name="seg")
    assert (tmp_path / "seg" / "config.pbtxt").read_text() == "somebody's"
