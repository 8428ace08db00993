"""``kdc export trt``: names of engines, flags, and what an engine of a run goes through."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kdc.distill.errors import UsageError
from kdc.export import commands, to_trt
from kdc.export.flags import OnnxFlags
from kdc.export.settings import ExportSettings

Files = Callable[..., Path]
Command = Callable[..., None]


def test_names_of_engines() -> None:
    names = ("model.onnx", "model.argmax.fp16.onnx", "model.int8.trt.onnx", "model.fp8.fp16.trt.onnx", "m.bf16.onnx")
    made = ["model.fp32.engine", "model.argmax.fp16.engine", "model.int8.trt.engine", "model.fp8.fp16.trt.engine"]
    assert [to_trt.engine_path(Path(name)).name for name in names] == [*made, "m.bf16.engine"]


def test_flags_of_the_onnx_export_do_not_go_with_a_file(command: Command) -> None:
    with pytest.raises(UsageError, match="built as it is: leave out --size, --dynamic-batch, --keep-fp32"):
        command("export", "trt", "model.onnx", "--size", "64x64", "--dynamic-batch", "--keep-fp32", "x")
    with pytest.raises(UsageError, match="add --dynamic-batch"):
        command("export", "trt", "--batches", "1,2,3")


@pytest.mark.parametrize("dry_run", [["--dry-run"], []])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--flavour", "tensorrt", "--target", "sm86"], "--target is for tensorrt_rtx"),
        (["--flavour", "tensorr"], "did you mean 'tensorrt'"),
    ],
)
def test_flags_are_checked_before_anything_is_exported(
    flags: list[str], message: str, dry_run: list[str], fake: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setattr(commands, "_export", lambda run, settings: pytest.fail("it began to export"))
    monkeypatch.setattr(commands, "_plan", lambda run, settings: pytest.fail("it printed a plan"))
    with pytest.raises(UsageError, match=message):
        command("export", "trt", "run", *dry_run, *flags)


def test_zero_is_a_value(fake: Path, exported: Files, command: Command) -> None:
    source = fake / "m.onnx"
    source.write_bytes(exported("pspnet", "logits", "float").read_bytes())
    command("export", "trt", source, "--flavour", "tensorrt", "--opt-level", "0")
    assert json.loads((fake / "m.fp32.engine").read_text())["builder_optimization_level"] == 0
    settings = OnnxFlags(agreement=0.0).settings()
    assert settings == ExportSettings(agreement=0.0)
