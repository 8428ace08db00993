"""OpenVINO: contracts read from its files, what it really computes in, refusals."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from kdc.deploy.artefacts.beside import weights_beside
from kdc.deploy.runtimes.open import open_runtime
from kdc.deploy.runtimes.openvino_file import read_ir
from kdc.deploy.runtimes.openvino_runtime import OpenvinoRuntime
from kdc.deploy.runtimes.ort_runtime import read_info
from kdc.distill.errors import ExportError, UsageError, WeightsError
from kdc.distill.preprocess import BGR_MEAN

from ..._made import Port, onnx_file

ov = pytest.importorskip("openvino", reason="openvino is not installed")

K, H, W = 5, 16, 24
RNG = np.random.default_rng(0)
FIRST, LAST = RNG.standard_normal((8, 3, 3, 3)) / 500, RNG.standard_normal((K, 8, 1, 1))
KDC = {"kdc.preprocess": BGR_MEAN.to_dict(), "kdc.classes": list("abcde"), "kdc.palette": [[0, 0, k] for k in range(K)]}


def network(path: Path, *, shape=(1, 3, H, W), argmax: bool = False, metadata=KDC) -> Path:
    """Write two convolutions (and an argmax that keeps its dimension, in int64) as ONNX."""
    nodes = [
        helper.make_node("Conv", ["image", "a"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["z"]),
    ]
    made: dict[str, Port] = {"z": [shape[0], K, *shape[2:]]}
    if argmax:
        nodes.append(helper.make_node("ArgMax", ["z"], ["mask"], axis=1, keepdims=1))
        made = {"mask": ([shape[0], 1, *shape[2:]], TensorProto.INT64)}
    stored = {"a": FIRST.astype(np.float32), "b": LAST.astype(np.float32)}
    return onnx_file(path, nodes, {"image": shape}, made, stored, facts=metadata)


def ir(source: Path, *, compress: bool = False) -> Path:
    path = source.with_suffix(".xml")
    ov.save_model(ov.Core().read_model(str(source)), str(path), compress_to_fp16=compress)
    return path


def images(n: int = 1) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, H, W, 3), np.uint8)


@pytest.mark.parametrize("argmax", [False, True])
@pytest.mark.parametrize("batch", [1, "batch"])
def test_its_own_file_says_what_the_onnx_file_says(tmp_path: Path, argmax: bool, batch: int | str) -> None:
    source = network(tmp_path / "a.onnx", argmax=argmax, shape=(batch, 3, H, W))
    expected, given = read_info(source), read_ir(ir(source))
    assert given == expected


@pytest.mark.parametrize("argmax", [False, True])
def test_it_computes_what_onnxruntime_computes_in_float32(tmp_path: Path, argmax: bool) -> None:
    source = network(tmp_path / "a.onnx", argmax=argmax)
    path, x = ir(source), images()
    with open_runtime(source, threads=1) as trusted:
        expected = trusted.infer(trusted.prepare(x))
    for runtime in (open_runtime(path, threads=1), open_runtime(source, provider="OpenVINO", threads=1)):
        with runtime:
            assert isinstance(runtime, OpenvinoRuntime)
            assert (runtime.name, runtime.provider, runtime.precision) == ("openvino", "OpenVINO CPU", "fp32")
            assert runtime.layers == {"fp32": 2}, "bfloat16 was asked for by nobody"
            assert runtime._compiled.get_property("INFERENCE_NUM_THREADS") == 1
            out = runtime.infer(runtime.prepare(x))
            assert out.dtype == expected.dtype and out.shape == expected.shape
            if argmax:
                assert (out == expected).mean() > 0.999
            else:
                # bfloat16 would be off by about 1e-2
                assert np.abs(out - expected).max() < 1e-5 * max(1, np.abs(expected).max())
            assert runtime.spec.classes == tuple("abcde") and runtime.spec.preprocess == BGR_MEAN
            assert 0 < runtime.staged(runtime.prepare(x))() < 60_000


def test_what_it_returns_is_the_callers(tmp_path: Path) -> None:
    with open_runtime(ir(network(tmp_path / "a.onnx"))) as runtime:
        first = runtime.infer(runtime.prepare(images()))
        kept = first.copy()
        runtime.infer(np.zeros((1, 3, H, W), np.float32))
        assert (first == kept).all()


def test_free_batch_and_size(tmp_path: Path) -> None:
    with open_runtime(ir(network(tmp_path / "a.onnx", shape=("batch", 3, H, W)))) as runtime:
        assert runtime.spec.batch is None
        together = runtime.masks(images(3))
        assert (together[2] == runtime.masks(images(3)[2:])[0]).all()
    anywhere = ir(network(tmp_path / "b.onnx", shape=(1, 3, "h", "w")))
    with pytest.raises(UsageError, match="takes any image size"):
        open_runtime(anywhere)
    with open_runtime(anywhere, size=(H, W)) as runtime:
        assert runtime.masks(images()).shape == (1, H, W)


def test_compressed_weights_are_stored_as_fp16_and_computed_in_fp32(tmp_path: Path) -> None:
    source = network(tmp_path / "a.onnx")
    path = ir(source, compress=True)
    assert read_ir(path).precision == "fp16"
    with open_runtime(path) as runtime:
        assert isinstance(runtime, OpenvinoRuntime)
        assert runtime.precision == "fp32" and runtime.layers == {"fp32": 2}


def test_an_int8_network_of_nncf_is_recognised(tmp_path: Path) -> None:
    nncf = pytest.importorskip("nncf", reason="nncf is not installed")
    source = network(tmp_path / "a.onnx")
    with open_runtime(source) as runtime:
        calibration = [runtime.prepare(images()) for _ in range(2)]
    quantised = nncf.quantize(ov.Core().read_model(str(source)), nncf.Dataset(calibration), subset_size=2)
    path = tmp_path / "a.int8.openvino.xml"
    ov.save_model(quantised, str(path), compress_to_fp16=False)
    info = read_ir(path)
    assert info.precision == "int8" and info.metadata["kdc.classes"] == list("abcde")
    with open_runtime(path) as runtime:
        assert runtime.precision == "int8" and isinstance(runtime, OpenvinoRuntime) and runtime.layers["int8"] >= 1


def test_a_file_quantised_for_onnxruntime_is_opened_with_a_warning(tmp_path: Path, capsys) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source, path = network(tmp_path / "a.onnx"), tmp_path / "q.onnx"
    quantize_dynamic(source, path, weight_type=QuantType.QUInt8)
    if not read_info(path).precision.startswith("int8"):
        pytest.skip("this ONNX Runtime left it in float32")
    with open_runtime(path, provider="openvino"):
        pass
    assert "quantised for another runtime" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"<net", b"<html></html>", b"<net><layers/></net>"])
def test_broken_files_are_one_line(tmp_path: Path, content: bytes) -> None:
    path = ir(network(tmp_path / "a.onnx"))
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        open_runtime(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_entities_are_refused(tmp_path: Path) -> None:
    path = ir(network(tmp_path / "a.onnx"))
    path.write_text('<!DOCTYPE net [<!ENTITY a "aa">]>' + path.read_text().partition("?>")[2])
    with pytest.raises(WeightsError, match="defines entities"):
        open_runtime(path)


def test_weights_that_are_missing_or_cut_off(tmp_path: Path) -> None:
    path = ir(network(tmp_path / "a.onnx"))
    weights = weights_beside(path)
    assert weights is not None
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="cannot be opened by OpenVINO") as caught:
        open_runtime(path)
    assert "\n" not in str(caught.value)
    weights.unlink()
    with pytest.raises(WeightsError, match=r"needs the file 'a.bin' beside it"):
        open_runtime(path)
    with pytest.raises(WeightsError, match="cannot be read"):
        open_runtime(tmp_path / "none.xml")


def test_flags_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ir(network(tmp_path / "a.onnx"))
    with pytest.raises(UsageError, match="leave out --device cuda"):
        open_runtime(path, device="cuda")
    with pytest.raises(UsageError, match=r"is for ONNX files, and .* is none"):
        open_runtime(path, provider="CPUExecutionProvider")
    with pytest.raises(UsageError, match="is made for 16x24"):
        open_runtime(path, size=(32, 32))
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(ExportError, match=r"pip install 'kdc\[openvino\]'") as caught:
        open_runtime(path)
    assert caught.value.exit_code == 5


SIGNALLED = """
import gc, os, signal, sys, threading
from kdc.deploy.runtimes.open import open_runtime

signal.signal(signal.SIGUSR1, lambda *_: print("alive"))
first, second = open_runtime(sys.argv[1]), open_runtime(sys.argv[1])
first.close()
del first
gc.collect()
def end():
    global second
    second.close()
    del second
    gc.collect()
if sys.argv[2] == "thread":
    other = threading.Thread(target=end)
    other.start()
    other.join()
else:
    end()
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.parametrize("where", ["thread", "main"])
def test_a_signal_after_the_last_network_is_survived(tmp_path: Path, where: str) -> None:
    path = ir(network(tmp_path / "a.onnx"))
    command = [sys.executable, "-X", "faulthandler", "-c", SIGNALLED, str(path), where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "alive"), done.stderr
