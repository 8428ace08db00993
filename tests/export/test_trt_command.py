"""``kdc export trt``: names of engines, flags, and what an engine of a run goes through."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdc.distill.errors import UsageError
from kdc.export import commands, flags, to_trt

Files = Callable[..., Path]


def test_names_of_engines() -> None:
    names = ("model.onnx", "model.argmax.fp16.onnx", "model.int8.trt.onnx", "model.fp8.fp16.trt.onnx", "m.bf16.onnx")
    made = ["model.fp32.engine", "model.argmax.fp16.engine", "model.int8.trt.engine", "model.fp8.fp16.trt.engine"]
    assert [to_trt.engine_path(Path(name)).name for name in names] == [*made, "m.bf16.engine"]


def test_flags_of_the_onnx_export_do_not_go_with_a_file() -> None:
    with pytest.raises(UsageError, match="built as it is: leave out --size, --dynamic-batch, --keep-fp32"):
        commands.trt("model.onnx", size="64x64", dynamic_batch=True, keep_fp32=["x"])
    with pytest.raises(UsageError, match="add --dynamic-batch"):
        commands.trt(None, batches="1,2,3")


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"flavour": "tensorrt", "target": ["sm86"]}, "--target is for tensorrt_rtx"),
        ({"flavour": "tensorr"}, "did you mean 'tensorrt'"),
    ],
)
def test_flags_are_checked_before_anything_is_exported(
    flags: dict[str, Any], message: str, dry_run: bool, fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_export", lambda run, settings: pytest.fail("it began to export"))
    monkeypatch.setattr(commands, "_plan", lambda run, settings: pytest.fail("it printed a plan"))
    with pytest.raises(UsageError, match=message):
        commands.trt("run", dry_run=dry_run, **flags)


def test_zero_is_a_value(fake: Path, exported: Files) -> None:
    source = fake / "m.onnx"
    source.write_bytes(exported("pspnet", "logits", "float").read_bytes())
    commands.trt(str(source), flavour="tensorrt", opt_level=0)
    assert json.loads((fake / "m.fp32.engine").read_text())["builder_optimization_level"] == 0
    assert flags._settings(dict.fromkeys(flags._ONNX_FLAGS) | {"agreement": 0.0}, flags._ONNX_FLAGS) == {
        "agreement": 0.0
    }
