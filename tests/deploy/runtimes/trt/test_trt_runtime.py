"""Engines before they are deserialised: manifests, machines, memory; and on a GPU what they compute.

The runner itself is driven through the real bindings in ``tests/trt_contract``.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdc.deploy.artefacts.signature import signed
from kdc.deploy.gpu import open as opening
from kdc.deploy.gpu.device import Gpu, gpu
from kdc.deploy.gpu.kernels import SIGNATURES, compile_kernels, levels
from kdc.deploy.gpu.open import KINDS, open_buffers
from kdc.deploy.runtimes.open import open_runtime
from kdc.deploy.runtimes.trt import trt_runtime
from kdc.deploy.runtimes.trt.manifest import EngineCard, check_fits, read_manifest, this_platform
from kdc.distill.errors import ExportError, ResourceError, UsageError, WeightsError
from kdc.distill.preprocess import BGR_MEAN, IMAGENET
from kdc.distill.run.files import sha256

AMPERE = Gpu("NVIDIA A10", (8, 6), "13.2")
HOPPER = Gpu("NVIDIA H200", (9, 0), "13.2")


def manifest(path: Path, **values: Any) -> dict[str, Any]:
    facts = {"kind": "engine", "sha256": sha256(path), "flavour": "tensorrt", "version": "10.16.1.11"}
    facts |= {"onnx": {"file": "model.onnx", "sha256": "0"}, "inputs": [], "outputs": [], "targets": []}
    facts |= {"gpu": str(AMPERE), "compute_capability": "8.6", "platform": this_platform()}
    return facts | {"hardware": None, "version_compatible": False, "flags": ["--batches", "1,2,4"]} | values


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "model.engine"
    path.write_bytes(b"plan")
    (tmp_path / "model.engine.json").write_text(json.dumps(signed(manifest(path))))
    return path


def test_an_engine_that_nothing_vouches_for_is_refused(
    engine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = engine.with_name("model.engine.json")
    assert getattr(read_manifest(engine), "version", None) == "10.16.1.11"
    monkeypatch.setattr(trt_runtime, "load_tensorrt", lambda card: pytest.fail("it went on"))
    good = beside.read_text()
    engine.write_bytes(b"plan, tampered with")
    for text in (good, "{", "[]", json.dumps({"kind": "onnx"}), None):
        beside.unlink() if text is None else beside.write_text(text)
        with pytest.raises(ExportError, match=r"--trust.*kdc export trt model\.onnx") as caught:
            open_runtime(engine, device="cuda")
        assert caught.value.exit_code == 4 and "\n" not in str(caught.value)
    assert read_manifest(engine, trust=True) is None
    assert "nothing vouches for" in " ".join(capsys.readouterr().out.split())
    beside.write_text(json.dumps(signed({"kind": "engine", "sha256": sha256(engine)})))
    with pytest.raises(ExportError, match=r"does not say .*\(flavour, version, onnx, inputs, outputs\)"):
        open_runtime(engine, device="cuda")
    with pytest.raises(WeightsError, match="does not exist"):
        open_runtime(engine.with_name("none.plan"), device="cuda")


def test_flags_that_do_not_fit_an_engine(engine: Path) -> None:
    with pytest.raises(UsageError, match="open it with --device cuda"):
        open_runtime(engine)
    with pytest.raises(UsageError, match=r"is for ONNX files, and .* is none"):
        open_runtime(engine, device="cuda", provider="CUDAExecutionProvider")


@pytest.mark.parametrize(
    ("values", "version", "here", "fault"),
    [
        ({}, "10.16.1.11", AMPERE, None),
        ({}, "10.16.1.11", None, None),
        ({}, "10.13.0.35", AMPERE, "tensorrt 10.16.1.11 built it, 10.13.0.35 is installed"),
        ({}, "11.4.0.106", AMPERE, r"11\.4\.0\.106 is installed \(--version-compatible"),
        ({"version_compatible": True}, "11.4.0.106", AMPERE, None),
        ({"version_compatible": True}, "10.9.0", AMPERE, "10.9.0 is installed"),
        ({}, "10.16.1.11", HOPPER, r"compute capability 8\.6, this is NVIDIA H200"),
        ({"hardware": "ampere+"}, "10.16.1.11", HOPPER, None),
        ({"hardware": "same"}, "10.16.1.11", HOPPER, "built for compute capability 8.6"),
        ({"hardware": "ampere+"}, "10.16.1.11", Gpu("T4", (7, 5), "12.0"), "8.0 and later"),
        ({"flavour": "tensorrt_rtx", "target": "some"}, "10.16.1.11", AMPERE, None),
        ({"flavour": "tensorrt_rtx", "target": "some"}, "10.16.1.11", HOPPER, "built for some, this is NVIDIA H200"),
        ({"flavour": "tensorrt_rtx", "targets": ["sm89"]}, "10.16.1.11", AMPERE, "built for sm89"),
        ({"flavour": "tensorrt_rtx", "targets": ["sm86"]}, "10.16.1.11", AMPERE, None),
        ({"flavour": "tensorrt_rtx", "targets": ["current"]}, "10.16.1.11", AMPERE, None),
        ({"flavour": "tensorrt_rtx", "targets": ["current"]}, "10.16.1.11", HOPPER, "built for sm86"),
        ({"platform": "Windows AMD64"}, "10.16.1.11", AMPERE, "built for Windows AMD64"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_command_that_rebuilds(
    values: dict[str, Any], version: str, here: Gpu | None, fault: str | None, engine: Path
) -> None:
    facts = manifest(engine, **values)
    if fault is None:
        check_fits(EngineCard.from_dict(facts), engine, version, here)
        return
    with pytest.raises(ExportError, match=fault) as caught:
        check_fits(EngineCard.from_dict(facts), engine, version, here)
    command = f"kdc export trt {engine.with_name('model.onnx')} --flavour {facts['flavour']} --batches 1,2,4"
    assert command in str(caught.value) and caught.value.exit_code == 5


def test_another_gpu_of_the_same_kind_is_said(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_fits(EngineCard.from_dict(manifest(engine)), engine, "10.16.1.11", Gpu("NVIDIA RTX A6000", (8, 6), "13.2"))
    said = " ".join(capsys.readouterr().out.split())
    assert "was tuned on NVIDIA A10" in said and "runs on NVIDIA RTX A6000" in said


def test_without_a_gpu_or_library_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "gpu", lambda: None)
    with pytest.raises(ExportError, match="no driver or no GPU"):
        open_buffers()
    with pytest.raises(UsageError, match="did you mean 'cuda-python'"):
        open_buffers("cudapython")
    monkeypatch.setattr(opening, "gpu", lambda: AMPERE)
    monkeypatch.setattr(opening, "_fault", lambda kind: f"no {kind} here")
    with pytest.raises(ExportError, match=r"pycuda: no pycuda here.*torch: no torch here.*kdc\[trt\]"):
        open_buffers()
    with pytest.raises(ExportError, match=r"\(pycuda: no pycuda here\): pip install 'kdc\[pycuda\]'"):
        open_buffers("pycuda")
    with pytest.raises(ExportError) as caught:
        open_buffers(graphs=True)
    assert "pycuda:" not in str(caught.value), "it has no graphs"


@pytest.mark.skipif(importlib.util.find_spec("cuda.bindings") is None, reason="cuda-python is not installed")
@pytest.mark.parametrize("capability", [(7, 5), (8, 6), (9, 0), (99, 9)])
def test_the_cuda_source_compiles(capability: tuple[int, int]) -> None:
    image = compile_kernels(capability)
    assert image[:4] == b"\x7fELF" or capability == (99, 9)
    assert all(name.encode() in image for name in SIGNATURES)


@pytest.mark.parametrize("preprocess", [IMAGENET, BGR_MEAN])
def test_the_table_prepares_as_the_cpu_does(preprocess: Any) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    planes = images[..., ::-1] if preprocess.order == "bgr" else images
    looked_up = np.stack([levels(preprocess)[c][planes[..., c]] for c in range(3)], 1)
    assert np.array_equal(looked_up, preprocess.apply(images))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", list(KINDS))
def test_memory_and_kernels_on_a_gpu(kind: str) -> None:
    if (fault := opening._fault(kind)) is not None:
        pytest.skip(f"{kind}: {fault}")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 33, 47, 3), np.uint8)
    scores = rng.standard_normal((2, 19, 33, 47)).astype(np.float32)
    buffers, pixels, area = open_buffers(kind), 2 * 33 * 47, 33 * 47

    def there(array: np.ndarray) -> int:
        address, host = buffers.alloc(array.nbytes), buffers.pinned(array.shape, str(array.dtype))
        host[:] = array
        buffers.upload(address, host)
        return address

    def back(address: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        host = buffers.pinned(shape, dtype)
        buffers.download(host, address)
        buffers.synchronize()
        return host

    for dtype, word in (("float32", "float"), ("float16", "half")):
        want, typed = BGR_MEAN.apply(images).astype(dtype), scores.astype(dtype)
        out, mask = buffers.alloc(want.nbytes), buffers.alloc(pixels)
        marks = buffers.event(), buffers.event()
        table, raw, classes = there(levels(BGR_MEAN)), there(images), there(typed)
        buffers.record(marks[0])
        buffers.kernel(f"normalise_{word}")(pixels, raw, table, out, pixels, area, 1)
        buffers.kernel(f"argmax_{word}")(pixels, classes, mask, pixels, area, 19)
        buffers.record(marks[1])
        assert np.array_equal(back(out, want.shape, dtype), want)
        assert np.array_equal(back(mask, (2, 33, 47), "uint8"), typed.argmax(1))
        assert buffers.elapsed(*marks) > 0
    one = there(np.arange(16, dtype=np.uint8))
    copy = buffers.pinned((16,), "uint8")
    copy[:] = 0
    if kind == "pycuda":
        with pytest.raises(ExportError, match="no CUDA graphs"):
            buffers.capture(lambda: None)
    else:
        launch = buffers.capture(lambda: buffers.download(copy, one))
        buffers.synchronize()
        assert not copy.any()
        launch()
        buffers.synchronize()
        assert copy.tolist() == list(range(16))
    with pytest.raises(ResourceError):
        buffers.alloc(1 << 50)
    buffers.close()


@pytest.mark.gpu
@pytest.mark.trt
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_agrees_with_its_onnx_file_in_its_precision(kind: str, precision: str, tmp_path: Path) -> None:
    """What only a running TensorRT shows: masks, logits, graphs, events, and the real inspector's JSON."""
    if (fault := opening._fault(kind)) is not None:
        pytest.skip(f"{kind}: {fault}")
    flavours = [name for name in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(name)]
    if not flavours or gpu() is None:
        pytest.skip("no TensorRT, or no NVIDIA driver")
    from kdc.calib.cast import cast_half
    from kdc.distill.models import build
    from kdc.export.to_onnx import export_onnx
    from kdc.export.to_trt import BuildFlags, build_engine

    settings: dict[str, Any] = {"size": (64, 128), "dynamic_batch": True}
    full = export_onnx(build("pspnet-mv2_050", 5, seed=1).eval(), tmp_path / "m.onnx", **settings)
    source = tmp_path / "m.fp16.onnx" if precision == "fp16" else full
    if precision == "fp16":
        cast_half(full, source)
    made = build_engine(source, tmp_path / "m.engine", BuildFlags(batches=(1, 2, 4), tf32=False)).to_dict()
    assert made["proof"]["by_time"] and made["proof"]["reasons"] == []
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 128, 3), np.uint8)
    with open_runtime(full) as reference:
        logits, masks = reference.infer(reference.prepare(images)), reference.masks(images)
    for cuda_graph in (False, True) if kind != "pycuda" else (False,):
        with open_runtime(tmp_path / "m.engine", device="cuda", buffers=kind, cuda_graph=cuda_graph) as runtime:
            x = runtime.prepare(images)
            apart = np.abs(runtime.infer(x) - logits).max() / np.abs(logits).max()
            assert apart < (1e-3 if precision == "fp32" else 2e-2)
            assert (runtime.masks(images) == masks).mean() > (0.999 if precision == "fp32" else 0.98)
            parts = runtime.timed(x)
            assert parts is not None and all(ms > 0 for ms in parts().values())
            assert runtime.staged(x)() > 0
