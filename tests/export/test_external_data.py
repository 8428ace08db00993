"""An ONNX file that keeps its weights in another file: what is made of it needs no other."""

import importlib.util
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from kdc.distill.errors import UsageError
from kdc.export.to_bundle import export_bundle
from kdc.export.to_triton import export_triton
from kdc.export.to_trt import BuildFlags, build_engine

Files = Callable[..., Path]


@pytest.fixture
def split(exported: Files, tmp_path: Path) -> Path:
    """A network in two files, in a folder of its own."""
    path = tmp_path / "split" / "model.onnx"
    path.parent.mkdir()
    model = onnx.load(exported("pspnet", "argmax", "uint8"))
    onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=100)
    assert path.stat().st_size < 200_000 < path.with_name("model.data").stat().st_size
    return path


def loads_alone(content: bytes, folder: Path) -> bool:
    path = folder / "alone.onnx"
    path.write_bytes(content)
    onnx.checker.check_model(str(path), full_check=True)
    return len(content) > 200_000


def test_a_bundle_and_a_model_repository_hold_one_file(split: Path, tmp_path: Path) -> None:
    export_bundle(split, tmp_path / "b.zip", golden_image=False)
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        name = next(name for name in archive.namelist() if name.endswith("model.onnx"))
        assert loads_alone(archive.read(name), tmp_path)
    made = export_triton(split, tmp_path / "repository", name="seg")
    served = made.path / "1"
    assert [path.name for path in served.iterdir()] == ["model.onnx"]
    assert loads_alone((served / "model.onnx").read_bytes(), tmp_path)


@pytest.mark.trt
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
def test_an_engine_is_built(split: Path, tmp_path: Path) -> None:
    build_engine(split, tmp_path / "m.engine", BuildFlags(flavour_name="tensorrt_rtx"))
    assert json.loads((tmp_path / "m.engine.json").read_text())["onnx"]["file"] == "model.onnx"


def test_weights_that_would_come_back_from_two_files_are_refused(
    split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdc.export.to_trt.check_flags", lambda _: ("tensorrt", "11.4"))
    with pytest.raises(UsageError, match=r"--strip-weights: .* keeps weights in 'model.data'"):
        build_engine(split, tmp_path / "m.engine", BuildFlags(strip_weights=True))
