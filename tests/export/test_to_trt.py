"""Engines: a matrix through the real builder, and a stand-in for what a builder can do to its caller."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from kdc.calib.cast import cast_fp16
from kdc.distill.errors import ExportError, ResourceError, UsageError, WeightsError
from kdc.distill.run import sha256
from kdc.export import commands, to_trt

Files = Callable[..., Path]
rtx = [
    pytest.mark.trt,
    pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"),
]


def marked(test: Any) -> Any:
    for mark in rtx:
        test = mark(test)
    return test


@marked
@pytest.mark.parametrize("input", ["float", "uint8"])
@pytest.mark.parametrize("head", ["logits", "argmax"])
@pytest.mark.parametrize("arch", ["deeplabv3", "pspnet", "deeplabv3plus"])
def test_every_form_gives_an_engine(arch: str, head: str, input: str, exported: Files, tmp_path: Path) -> None:
    full, half = exported(arch, head, input), tmp_path / "model.fp16.onnx"
    cast_fp16(full, half)
    sizes = {}
    for source, precision in ((full, "fp32"), (half, "fp16")):
        engine = tmp_path / f"model.{precision}.engine"
        manifest = to_trt.build_engine(source, engine, flavour_name="tensorrt_rtx")
        assert manifest == json.loads((tmp_path / f"model.{precision}.engine.json").read_text())
        assert manifest["sha256"] == sha256(engine) and manifest["onnx"]["sha256"] == sha256(source)
        assert manifest["precision"] == precision and manifest["flavour"] == "tensorrt_rtx" and manifest["version"]
        assert manifest["target"] == to_trt.PORTABLE and manifest["tf32"] is True
        shape, dtype = ([1, 64, 128, 3], "uint8") if input == "uint8" else ([1, 3, 64, 128], "float32")
        assert manifest["inputs"] == [{"name": "image", "dtype": dtype, "shape": shape}]
        assert manifest["outputs"][0]["shape"] == ([1, 5, 64, 128] if head == "logits" else [1, 64, 128])
        assert manifest["classes"][0] == "road" and manifest["preprocess"]["order"] in ("rgb", "bgr")
        sizes[precision] = engine.stat().st_size
    assert sizes["fp16"] < 0.8 * sizes["fp32"], "the float16 engine must hold float16 weights"
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".engine", ".engine", ".json", ".json", ".onnx"]


@marked
def test_free_batch_and_target(exported: Files, tmp_path: Path) -> None:
    source, engine = exported("pspnet", "argmax", "uint8", True), tmp_path / "m.engine"
    settings = {"batches": (1, 2, 4), "targets": ["SM86"], "workspace_mib": 512}
    manifest = to_trt.build_engine(source, engine, flavour_name="tensorrt_rtx", **settings)
    assert manifest["profile"] == {"min": [1, 64, 128, 3], "opt": [2, 64, 128, 3], "max": [4, 64, 128, 3]}
    assert manifest["inputs"][0]["shape"] == [None, 64, 128, 3]
    assert (manifest["target"], manifest["targets"], manifest["workspace_mib"]) == ("sm86", ["sm86"], 512)


@marked
def test_what_the_parser_refuses_is_told_with_its_node(exported: Files, tmp_path: Path) -> None:
    model = onnx.load(exported("pspnet", "logits", "float"))
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type, relu.domain, relu.name = "Sparkle", "made.up", "node_of_doom"
    model.opset_import.append(helper.make_opsetid("made.up", 1))
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ExportError, match=r"parser refused odd\.onnx: node node_of_doom \(Sparkle\)") as caught:
        to_trt.build_engine(tmp_path / "odd.onnx", tmp_path / "m.engine", flavour_name="tensorrt_rtx")
    assert caught.value.exit_code == 5 and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["odd.onnx"]


@marked
def test_flags_that_do_nothing_are_refused(exported: Files, tmp_path: Path) -> None:
    source, engine = exported("pspnet", "logits", "float"), tmp_path / "m.engine"
    wrong: dict[str, Any]
    for wrong, message in (
        ({"timing_cache": tmp_path / "c"}, "--timing-cache does nothing in tensorrt_rtx"),
        ({"opt_level": 5}, "--opt-level does nothing in tensorrt_rtx"),
        ({"targets": ["sm90"]}, "'sm90': tensorrt_rtx builds for current, sm75"),
    ):
        with pytest.raises(UsageError, match=message):
            to_trt.build_engine(source, engine, flavour_name="tensorrt_rtx", **wrong)
    free = exported("pspnet", "argmax", "uint8", True)
    with pytest.raises(UsageError, match="--batches 4,2,8"):
        to_trt.build_engine(free, engine, flavour_name="tensorrt_rtx", batches=(4, 2, 8))
    with pytest.raises(UsageError, match=r"--batches does nothing.*batch of 1"):
        to_trt.build_engine(source, engine, batches=(1, 2, 4))
    with pytest.raises(UsageError, match="did you mean 'tensorrt'"):
        to_trt.build_engine(source, engine, flavour_name="tensorr")
    with pytest.raises(WeightsError, match="cannot be read"):
        to_trt.build_engine(tmp_path / "none.onnx", engine)


FAKE = """
import json, os, sys, time
__version__ = os.environ.get("FAKE_VERSION", "10.13.2")
told = {}
class Names:
    def __init__(self, **values): self.__dict__.update(values)
NetworkDefinitionCreationFlag = Names(STRONGLY_TYPED=1)
BuilderFlag = Names(TF32="TF32")
MemoryPoolType = Names(WORKSPACE="WORKSPACE")
class ILogger:
    ERROR, INTERNAL_ERROR, WARNING = 1, 0, 2
    def __init__(self): pass
class Tensor:
    name, dtype, shape = "image", "DataType.FLOAT", (1, 3, 64, 128)
class Network:
    num_layers = num_inputs = num_outputs = 1
    def get_input(self, i): return Tensor()
    get_output = get_input
class Cache:
    def __init__(self, content): self.content = content
    def serialize(self): return self.content + b"+"
class Config:
    builder_optimization_level = 3
    def __setattr__(self, key, value): told[key] = value; self.__dict__[key] = value
    def set_memory_pool_limit(self, pool, size): told[pool] = size
    def get_memory_pool_limit(self, pool): return told.get(pool, 1 << 30)
    def get_flag(self, flag): return True
    def create_timing_cache(self, content): return Cache(content)
    cache = None
    def set_timing_cache(self, cache, mismatch):
        if cache.content == b"foreign": return False
        self.__dict__["cache"] = cache; return True
    def get_timing_cache(self): return self.cache
class Builder:
    def __init__(self, logger):
        self.logger = logger
        if os.environ.get("FAKE_BUILD") == "no driver":
            logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
    def create_network(self, flags): told["flags"] = flags; return Network()
    def create_builder_config(self): return Config()
    def build_serialized_network(self, network, config):
        how = os.environ.get("FAKE_BUILD", "")
        if how == "sleep":
            open(os.environ["FAKE_PID"], "w").write(str(os.getpid())); time.sleep(60)
        if how.startswith("SIG"):
            import signal
            sys.stderr.write("tactic 0x7 is about to fault\\n"); sys.stderr.flush()
            os.kill(os.getpid(), getattr(signal, how))
        if how == "warn":
            for i in range(50): self.logger.log(ILogger.WARNING, f"layer {i // 2}:\\n  " + 400 * "x")
        if how == "none":
            self.logger.log(ILogger.ERROR, "Error Code 9: no implementation\\n  for node 3"); return None
        return json.dumps(told).encode()
class OnnxParser:
    num_errors = 0
    def __init__(self, network, logger): pass
    def parse(self, content): return len(content) > 100
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for ``tensorrt`` 10, where the real one is not at hand."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "tensorrt.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    return tmp_path


def test_tensorrt_10_gets_typed_networks_and_no_precision_flag(fake: Path, exported: Files) -> None:
    cache, engine = fake / "timing.cache", fake / "m.engine"
    cache.write_bytes(b"old")
    settings = {"flavour_name": "tensorrt", "workspace_mib": 64, "opt_level": 5, "timing_cache": cache}
    manifest = to_trt.build_engine(exported("pspnet", "logits", "float"), engine, **settings)
    assert json.loads(engine.read_text()) == {"flags": 1 << 1, "WORKSPACE": 64 << 20, "builder_optimization_level": 5}
    assert cache.read_bytes() == b"old+" and (manifest["notes"], manifest["warnings"]) == ([], 0)
    assert (manifest["flavour"], manifest["version"], manifest["workspace_mib"]) == ("tensorrt", "10.13.2", 64)
    with pytest.raises(UsageError, match="--target is for tensorrt_rtx"):
        to_trt.build_engine(exported("pspnet", "logits", "float"), engine, flavour_name="tensorrt", targets=["sm86"])


def test_a_timing_cache_of_another_gpu_is_said_and_replaced(
    fake: Path, exported: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = fake / "timing.cache"
    cache.write_bytes(b"foreign")
    source = exported("pspnet", "logits", "float")
    to_trt.build_engine(source, fake / "m.engine", flavour_name="tensorrt", timing_cache=cache)
    assert cache.read_bytes() == b"+"
    assert "is no timing cache of this TensorRT and GPU" in " ".join(capsys.readouterr().out.split())


def test_warnings_of_a_build_that_succeeds_are_kept_and_counted(
    fake: Path, exported: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_BUILD", "warn")
    to_trt.build_engine(exported("pspnet", "logits", "float"), fake / "m.engine", flavour_name="tensorrt")
    manifest = json.loads((fake / "m.engine.json").read_text())
    assert manifest["warnings"] == 50 and "said" not in manifest
    assert [note.split(":")[0] for note in manifest["notes"]] == [f"layer {i}" for i in range(20)]
    assert {len(note) for note in manifest["notes"]} == {300}
    assert "tensorrt warned 50 times; see notes in m.engine.json" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("SIGSEGV", ExportError, r"died on .* \(signal SIGSEGV\); its last message: tactic 0x7 is about to fault"),
        ("SIGKILL", ResourceError, "signal SIGKILL.*most likely memory ran out"),
        ("none", ExportError, "builder refused .*: Error Code 9: no implementation for node 3$"),
        ("no driver", ExportError, r"cannot start its builder \(CUDA initialization failure.*--flavour tensorrt_rtx"),
    ],
)
def test_a_dying_builder_is_reported(
    how: str, error: type[Exception], message: str, fake: Path, exported: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_BUILD", how)
    with pytest.raises(error, match=message):
        to_trt.build_engine(exported("pspnet", "logits", "float"), fake / "m.engine", flavour_name="tensorrt")
    assert [path.name for path in fake.iterdir()] == ["site"], "no half engine, no manifest"


def test_ctrl_c_ends_the_builder(fake: Path, exported: Files) -> None:
    # a test run that was started in the background ignores SIGINT, and so would its children
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "import sys; from pathlib import Path; from kdc.export.to_trt import build_engine as build\n"
    code += "build(Path(sys.argv[1]), Path(sys.argv[2]), flavour_name='tensorrt')"
    words = [code, str(exported("pspnet", "logits", "float")), str(fake / "m.engine")]
    pid_file = fake / "pid"
    path = os.pathsep.join(p for p in sys.path if p)
    environment = os.environ | {"PYTHONPATH": path, "FAKE_BUILD": "sleep", "FAKE_PID": str(pid_file)}
    kdc = subprocess.Popen([sys.executable, "-c", *words], env=environment, stderr=subprocess.PIPE)
    try:
        builder = wait_for(lambda: int(pid_file.read_text() or 0) if pid_file.exists() else 0)
        kdc.send_signal(signal.SIGINT)
        kdc.wait(10)
        assert wait_for(lambda: not alive(builder)), "the builder outlived the command"
    finally:
        kdc.kill()
        kdc.communicate()
    assert not (fake / "m.engine").exists() and not list(fake.glob(".m.engine*"))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return result


def test_an_old_tensorrt_is_refused(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VERSION", "10.9.0.34")
    with pytest.raises(ExportError, match=r"10\.9\.0\.34 is too old: 10\.12 or newer"):
        to_trt.flavour("tensorrt")


def test_without_any_tensorrt_the_cure_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_trt, "find_spec", lambda name: None)
    with pytest.raises(
        ExportError, match=r"tensorrt or tensorrt_rtx is not installed.*kdc\[trt-rtx\].*to the target"
    ) as caught:
        to_trt.flavour()
    assert caught.value.exit_code == 5 and "\n" not in str(caught.value)


def test_a_gpu_decides_which_flavour_goes_first(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_trt, "gpu", lambda: "NVIDIA H100 (compute capability 9.0)")
    assert to_trt.flavour()[1:] == ("tensorrt", "10.13.2")
    monkeypatch.setattr(to_trt, "gpu", lambda: None)
    if importlib.util.find_spec("tensorrt_rtx"):
        assert to_trt.flavour()[1] == "tensorrt_rtx"


def test_names_of_engines() -> None:
    names = {name: commands.engine_path(Path(name)).name for name in ("model.onnx", "model.argmax.fp16.onnx")}
    assert names == {"model.onnx": "model.fp32.engine", "model.argmax.fp16.onnx": "model.argmax.fp16.engine"}


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
    assert commands._settings(dict.fromkeys(commands._ONNX_FLAGS) | {"agreement": 0.0}, commands._ONNX_FLAGS) == {
        "agreement": 0.0
    }
