"""Engines: flags and refusals of the real builder, and a stand-in for what a builder can do to its caller."""

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

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdc.deploy.trt_buffers import Gpu
from kdc.distill.errors import ExportError, ResourceError, UsageError, WeightsError
from kdc.distill.run import Run
from kdc.export import commands, gated, to_trt

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
    relu.op_type, relu.name = "Bernoulli", "node_of_doom"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ExportError, match=r"parser refused odd\.onnx: node node_of_doom \(Bernoulli\)") as caught:
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
    for wrong, message in (
        ({"hardware": "ampere+"}, "--hardware does nothing in tensorrt_rtx"),
        ({"version_compatible": True}, "needs the lean runtime"),
    ):
        with pytest.raises(UsageError, match=message):
            to_trt.build_engine(source, engine, flavour_name="tensorrt_rtx", **wrong)
    if to_trt.gpu() is None:
        with pytest.raises(UsageError, match="--strip-weights: tensorrt_rtx builds such engines on a GPU only"):
            to_trt.build_engine(source, engine, flavour_name="tensorrt_rtx", strip_weights=True)
    with pytest.raises(UsageError, match="did you mean 'ampere\\+'"):
        to_trt.build_engine(source, engine, hardware="ampere")
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
BuilderFlag = Names(TF32="TF32", REFIT="REFIT", STRIP_PLAN="STRIP_PLAN", VERSION_COMPATIBLE="VERSION_COMPATIBLE")
ProfilingVerbosity = Names(DETAILED="DETAILED")
HardwareCompatibilityLevel = Names(AMPERE_PLUS="AMPERE_PLUS", SAME_COMPUTE_CAPABILITY="SAME")
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
    def set_flag(self, flag): told[flag] = True
    def clear_flag(self, flag): told[flag] = False
    def get_flag(self, flag): return told.get(flag, True)
    def create_timing_cache(self, content): return Cache(content)
    def add_optimization_profile(self, profile): pass
    cache = None
    def set_timing_cache(self, cache, mismatch):
        if cache.content == b"foreign": return False
        self.__dict__["cache"] = cache; return True
    def get_timing_cache(self): return self.cache
class Profile:
    def set_shape(self, name, least, usual, most): told["profile"] = [name, least, usual, most]
class Builder:
    def __init__(self, logger):
        self.logger = logger
        if os.environ.get("FAKE_BUILD") == "no driver":
            logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
    def create_network(self, flags): told["flags"] = flags; return Network()
    def create_builder_config(self): return Config()
    def create_optimization_profile(self): return Profile()
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
    told = {"flags": 1 << 1, "WORKSPACE": 64 << 20, "builder_optimization_level": 5, "profiling_verbosity": "DETAILED"}
    assert json.loads(engine.read_text()) == told
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


def test_flags_reach_the_builder_and_the_manifest(fake: Path, exported: Files) -> None:
    flags = {"version_compatible": True, "hardware": "ampere+", "strip_weights": True, "tf32": False}
    engine = fake / "m.engine"
    manifest = to_trt.build_engine(exported("pspnet", "logits", "float"), engine, flavour_name="tensorrt", **flags)
    told = json.loads(engine.read_text())
    assert told["VERSION_COMPATIBLE"] is told["STRIP_PLAN"] is True and told["TF32"] is False and "REFIT" not in told
    assert told["hardware_compatibility_level"] == "AMPERE_PLUS" and manifest["tf32"] is False
    assert (manifest["stripped"], manifest["version_compatible"], manifest["hardware"]) == (True, True, "ampere+")
    assert manifest["flags"] == ["--hardware", "ampere+", "--version-compatible", "--strip-weights", "--no-tf32"]


def test_a_flag_that_this_tensorrt_lacks_is_told(fake: Path, exported: Files) -> None:
    module = fake / "site" / "tensorrt.py"
    module.write_text(FAKE.replace(', STRIP_PLAN="STRIP_PLAN"', ""))
    source = exported("pspnet", "logits", "float")
    with pytest.raises(UsageError, match=r"--strip-weights is nothing that tensorrt 10\.13\.2 knows"):
        to_trt.build_engine(source, fake / "m.engine", flavour_name="tensorrt", strip_weights=True)


def free_network(path: Path, pooled: bool = False, baked: bool = False) -> Path:
    """Write a foreign network whose batch, height and width are free; it may be made for one size all the same."""
    nodes = [helper.make_node("Conv", ["image", "w"], ["z"], pads=[1, 1, 1, 1], name="conv")]
    stored = [numpy_helper.from_array(np.ones((5, 3, 3, 3), np.float32), "w")]
    if pooled:  # the pooling of a pyramid: a matrix of one width
        nodes.append(helper.make_node("MatMul", ["z", "columns"], ["out"], name="pooling"))
        stored.append(numpy_helper.from_array(np.ones((64, 64), np.float32), "columns"))
    elif baked:  # columns that are looked up: their numbers are beyond a smaller image
        nodes.append(helper.make_node("Gather", ["z", "at"], ["picked"], axis=3, name="gather"))
        nodes.append(helper.make_node("Resize", ["picked", "", "", "sizes"], ["out"], mode="nearest"))
        nodes.insert(0, helper.make_node("Shape", ["z"], ["sizes"]))
        nodes.insert(0, nodes.pop(1))
        stored.append(numpy_helper.from_array(np.arange(60, 64), "at"))
    else:
        nodes.append(helper.make_node("Relu", ["z"], ["out"]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 5, "h", "w"])
    model = helper.make_model(
        helper.make_graph(nodes, "net", [image], [out], stored),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    facts = {"kdc.model": json.dumps({"output_stride": 8})}
    helper.set_model_props(model, facts)
    onnx.save(model, path)
    return path


SIZES = ((32, 64), (32, 64), (48, 128))


def test_profiled_sizes_are_tried_at_every_corner(fake: Path) -> None:
    made = to_trt.build_engine(free_network(fake / "f.onnx"), fake / "m.engine", flavour_name="tensorrt", sizes=SIZES)
    assert made["profile"] == {"min": [1, 3, 32, 64], "opt": [4, 3, 32, 64], "max": [16, 3, 48, 128]}
    assert made["flags"] == ["--sizes", "32x64,32x64,48x128"]


@pytest.mark.parametrize(
    ("network", "sizes", "message"),
    [
        ({}, None, "leaves height or width free: name the smallest, usual and largest"),
        ({}, ((32, 64), (30, 64), (64, 64)), "at least as high and as wide"),
        ({}, ((32, 64), (36, 64), (64, 64)), "36x64 is no multiple of the output stride 8; the next is 40x64"),
        ({"pooled": True}, SIZES, r"does not take .*x3x\d+x128, a corner of the profile.*pooling"),
        ({"baked": True}, ((32, 32), (32, 64), (32, 64)), "does not take 1x3x32x32, a corner of the profile"),
    ],
)
def test_a_corner_that_the_network_does_not_take_is_refused(
    network: dict[str, bool], sizes: Any, message: str, fake: Path
) -> None:
    source = free_network(fake / "f.onnx", **network)
    with pytest.raises(UsageError, match=message) as caught:
        to_trt.build_engine(source, fake / "m.engine", flavour_name="tensorrt", sizes=sizes)
    assert "\n" not in str(caught.value) and not (fake / "m.engine").exists()


def test_sizes_of_a_file_that_is_made_for_one(fake: Path, exported: Files) -> None:
    with pytest.raises(UsageError, match=r"--sizes does nothing for .* made for 64x128"):
        to_trt.build_engine(
            exported("pspnet", "logits", "float"), fake / "m.engine", flavour_name="tensorrt", sizes=SIZES
        )
    with pytest.raises(UsageError, match="kdc's own never do"):
        commands.trt(None, sizes="8x8,8x8,8x8")
    with pytest.raises(UsageError, match="smallest, usual and largest, such as"):
        commands.trt("model.onnx", sizes="8x8")


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
    monkeypatch.setattr(to_trt, "gpu", lambda: Gpu("NVIDIA H100", (9, 0), "13.2"))
    assert to_trt.flavour()[1:] == ("tensorrt", "10.13.2")
    monkeypatch.setattr(to_trt, "gpu", lambda: None)
    if importlib.util.find_spec("tensorrt_rtx"):
        assert to_trt.flavour()[1] == "tensorrt_rtx"


def test_names_of_engines() -> None:
    names = ("model.onnx", "model.argmax.fp16.onnx", "model.int8.trt.onnx", "model.fp8.fp16.trt.onnx", "m.bf16.onnx")
    made = ["model.fp32.engine", "model.argmax.fp16.engine", "model.int8.trt.engine", "model.fp8.fp16.trt.engine"]
    assert [commands.engine_path(Path(name)).name for name in names] == [*made, "m.bf16.engine"]


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


def test_an_engine_of_a_run_that_runs_here_goes_through_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.json").write_text("{}")
    asked = []
    monkeypatch.setattr(to_trt, "build_engine", lambda *_, **flags: {"proof": flags["proof"]})
    monkeypatch.setattr(gated, "prove", lambda *given, **settings: asked.append((given, settings)) or {"gate": 1})
    monkeypatch.setattr(Run, "seal", lambda _: None)
    file = tmp_path / "export" / "model.fp16.onnx"
    assert commands._engine(file, {"proof": {"by_time": {}}}, {"images": 3}) == {"gate": 1}
    (run, path, reference, _), settings = asked[0]
    assert (run.path, path, reference) == (tmp_path, file.with_name("model.fp16.engine"), file)
    assert settings == {"images": 3, "cure": to_trt.CURE}
    assert commands._engine(file, {"proof": None}, {}) == {"proof": None} and len(asked) == 1


def test_zero_is_a_value(fake: Path, exported: Files) -> None:
    source = fake / "m.onnx"
    source.write_bytes(exported("pspnet", "logits", "float").read_bytes())
    commands.trt(str(source), flavour="tensorrt", opt_level=0)
    assert json.loads((fake / "m.fp32.engine").read_text())["builder_optimization_level"] == 0
    assert commands._settings(dict.fromkeys(commands._ONNX_FLAGS) | {"agreement": 0.0}, commands._ONNX_FLAGS) == {
        "agreement": 0.0
    }
