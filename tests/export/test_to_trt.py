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

import onnx
import pytest

from kdc.deploy.artefacts.beside import manifest_path
from kdc.deploy.gpu.device import Gpu
from kdc.deploy.runtimes.answer import Port
from kdc.deploy.runtimes.file_info import file_info, spec_of
from kdc.deploy.runtimes.said import Said
from kdc.deploy.runtimes.trt.manifest import EngineCard
from kdc.distill.errors import ExportError, ResourceError, UsageError, WeightsError
from kdc.distill.preprocess import Preprocess
from kdc.distill.run.files import sha256, write_json
from kdc.export import to_trt
from kdc.export.to_trt import BuildFlags

from ..deploy.runtimes.test_contract import KINDS, foreign

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
    settings: dict[str, Any] = {"batches": (1, 2, 4), "targets": ["SM86"], "workspace_mib": 512}
    manifest = to_trt.build_engine(source, engine, BuildFlags(flavour_name="tensorrt_rtx", **settings)).to_dict()
    assert manifest["profile"] == {"min": [1, 64, 128, 3], "opt": [2, 64, 128, 3], "max": [4, 64, 128, 3]}
    assert manifest["inputs"][0]["shape"] == [None, 64, 128, 3]
    assert (manifest["target"], manifest["targets"], manifest["workspace_mib"]) == ("sm86", ["sm86"], 512)


@marked
def test_a_refusal_of_the_parser_names_its_node(exported: Files, tmp_path: Path) -> None:
    model = onnx.load(exported("pspnet", "logits", "float"))
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type, relu.name = "Bernoulli", "node_of_doom"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ExportError, match=r"parser refused odd\.onnx: node node_of_doom \(Bernoulli\)") as caught:
        to_trt.build_engine(tmp_path / "odd.onnx", tmp_path / "m.engine", BuildFlags(flavour_name="tensorrt_rtx"))
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
            to_trt.build_engine(source, engine, BuildFlags(flavour_name="tensorrt_rtx", **wrong))
    free = exported("pspnet", "argmax", "uint8", True)
    for wrong, message in (
        ({"hardware": "ampere+"}, "--hardware does nothing in tensorrt_rtx"),
        ({"version_compatible": True}, "needs the lean runtime"),
    ):
        with pytest.raises(UsageError, match=message):
            to_trt.build_engine(source, engine, BuildFlags(flavour_name="tensorrt_rtx", **wrong))
    if to_trt.gpu() is None:
        with pytest.raises(UsageError, match="--strip-weights: tensorrt_rtx builds such engines on a GPU only"):
            to_trt.build_engine(source, engine, BuildFlags(flavour_name="tensorrt_rtx", strip_weights=True))
    with pytest.raises(UsageError, match="did you mean 'ampere\\+'"):
        to_trt.build_engine(source, engine, BuildFlags(hardware="ampere"))
    with pytest.raises(UsageError, match="--batches 4,2,8"):
        to_trt.build_engine(free, engine, BuildFlags(flavour_name="tensorrt_rtx", batches=(4, 2, 8)))
    with pytest.raises(UsageError, match=r"--batches does nothing.*batch of 1"):
        to_trt.build_engine(source, engine, BuildFlags(batches=(1, 2, 4)))
    with pytest.raises(UsageError, match="did you mean 'tensorrt'"):
        to_trt.build_engine(source, engine, BuildFlags(flavour_name="tensorr"))
    with pytest.raises(WeightsError, match="cannot be read"):
        to_trt.build_engine(tmp_path / "none.onnx", engine)


def test_tensorrt_10_gets_typed_networks_and_no_precision_flag(fake: Path, exported: Files) -> None:
    cache, engine = fake / "timing.cache", fake / "m.engine"
    cache.write_bytes(b"old")
    settings: dict[str, Any] = {"flavour_name": "tensorrt", "workspace_mib": 64, "opt_level": 5, "timing_cache": cache}
    manifest = to_trt.build_engine(exported("pspnet", "logits", "float"), engine, BuildFlags(**settings)).to_dict()
    told = {"flags": 1 << 1, "WORKSPACE": 64 << 20, "builder_optimization_level": 5, "profiling_verbosity": "DETAILED"}
    assert json.loads(engine.read_text()) == told
    assert cache.read_bytes() == b"old+" and (manifest["notes"], manifest["warnings"]) == ([], 0)
    assert (manifest["flavour"], manifest["version"], manifest["workspace_mib"]) == ("tensorrt", "10.13.2", 64)
    with pytest.raises(UsageError, match="--target is for tensorrt_rtx"):
        to_trt.build_engine(
            exported("pspnet", "logits", "float"), engine, BuildFlags(flavour_name="tensorrt", targets=["sm86"])
        )


def test_the_manifest_says_which_output_of_another_makers_file_is_read(fake: Path) -> None:
    nodes, made, _ = KINDS["auxiliary first"]
    source, engine = foreign(fake / "net.onnx", *nodes, made=made), fake / "m.engine"
    said = Said(preprocess=Preprocess((0, 0, 0), (255, 255, 255), "bgr"))
    to_trt.build_engine(source, engine, BuildFlags(flavour_name="tensorrt"), said=said)
    card = EngineCard.from_dict(json.loads((fake / "m.engine.json").read_text()))
    ports = [Port("image", "float32", (1, 3, 16, 24))], [Port(name, "float32", (1, 5, 16, 24)) for name in made]
    spec = spec_of(file_info(engine, *ports, "fp32", card.network), engine, None)
    assert (spec.answer.name, spec.preprocess) == ("z", said.preprocess)


def test_a_timing_cache_of_another_gpu_is_said_and_replaced(
    fake: Path, exported: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = fake / "timing.cache"
    cache.write_bytes(b"foreign")
    source = exported("pspnet", "logits", "float")
    to_trt.build_engine(source, fake / "m.engine", BuildFlags(flavour_name="tensorrt", timing_cache=cache))
    assert cache.read_bytes() == b"+"
    assert "is no timing cache of this TensorRT and GPU" in " ".join(capsys.readouterr().out.split())


def test_warnings_of_a_build_that_succeeds_are_kept_and_counted(
    fake: Path, exported: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_BUILD", "warn")
    to_trt.build_engine(exported("pspnet", "logits", "float"), fake / "m.engine", BuildFlags(flavour_name="tensorrt"))
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
        to_trt.build_engine(
            exported("pspnet", "logits", "float"), fake / "m.engine", BuildFlags(flavour_name="tensorrt")
        )
    assert [path.name for path in fake.iterdir()] == ["site"], "no half engine, no manifest"


@pytest.mark.process
def test_ctrl_c_ends_the_builder(fake: Path, exported: Files) -> None:
    # a test run that was started in the background ignores SIGINT, and so would its children
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "import sys; from pathlib import Path; from kdc.export.to_trt import BuildFlags, build_engine as build\n"
    code += "build(Path(sys.argv[1]), Path(sys.argv[2]), BuildFlags(flavour_name='tensorrt'))"
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
    assert not (fake / "m.engine").exists() and not list(fake.glob(".kdc-new-*"))


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
    flags: dict[str, Any] = {"version_compatible": True, "hardware": "ampere+", "strip_weights": True, "tf32": False}
    engine = fake / "m.engine"
    manifest = to_trt.build_engine(
        exported("pspnet", "logits", "float"), engine, BuildFlags(flavour_name="tensorrt", **flags)
    ).to_dict()
    told = json.loads(engine.read_text())
    assert told["VERSION_COMPATIBLE"] is told["STRIP_PLAN"] is True and told["TF32"] is False and "REFIT" not in told
    assert told["hardware_compatibility_level"] == "AMPERE_PLUS" and manifest["tf32"] is False
    assert (manifest["stripped"], manifest["version_compatible"], manifest["hardware"]) == (True, True, "ampere+")
    assert manifest["flags"] == ["--hardware", "ampere+", "--version-compatible", "--strip-weights", "--no-tf32"]


def test_an_engine_says_how_its_file_was_calibrated(fake: Path, exported: Files) -> None:
    source = fake / "m.int8.trt.onnx"
    source.write_bytes(exported("pspnet", "logits", "float").read_bytes())
    facts = {"left_high": ["stem"], "sensitivity": {"rescued": ["stem"]}, "calibration": {"keys": ["a"]}}
    write_json(manifest_path(source), {"sha256": sha256(source), "source": {"file": "m.onnx"}, **facts})
    manifest = to_trt.build_engine(source, fake / "m.engine", BuildFlags(flavour_name="tensorrt")).to_dict()
    assert {key: manifest[key] for key in facts} == facts and manifest["source"] == {"file": "m.onnx"}
    write_json(manifest_path(source), {"sha256": "of another", "source": {"file": "m.onnx"}, **facts})
    manifest = to_trt.build_engine(source, fake / "m.engine", BuildFlags(flavour_name="tensorrt")).to_dict()
    assert manifest["source"] is None and not set(facts) & set(manifest)


def test_a_flag_that_this_tensorrt_lacks_is_refused(fake: Path, exported: Files) -> None:
    module = fake / "site" / "tensorrt.py"
    module.write_text(module.read_text().replace(', STRIP_PLAN="STRIP_PLAN"', ""))
    source = exported("pspnet", "logits", "float")
    with pytest.raises(UsageError, match=r"tensorrt 10\.13\.2 does not know --strip-weights"):
        to_trt.build_engine(source, fake / "m.engine", BuildFlags(flavour_name="tensorrt", strip_weights=True))


@pytest.mark.parametrize("broken", ["gates.json", "m.onnx.golden.npz"])
def test_a_broken_file_beside_is_reported_before_the_old_engine_goes(fake: Path, exported: Files, broken: str) -> None:
    run = fake / "run"
    (run / "export").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    source, engine = run / "export" / "m.onnx", run / "export" / "m.engine"
    source.write_bytes(exported("pspnet", "logits", "float").read_bytes())
    engine.write_bytes(b"old")
    (run / broken if broken == "gates.json" else source.with_name(broken)).write_bytes(b"[")
    with pytest.raises(WeightsError, match="cannot be read"):
        to_trt.build_engine(source, engine, BuildFlags(flavour_name="tensorrt"))
    assert engine.read_bytes() == b"old"


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
