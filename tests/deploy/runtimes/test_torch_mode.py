"""Torch in each of its forms: layout, compiled or not, type of number; what is timed is what was asked for."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kdc import cli
from kdc.deploy.runtimes import torch_runtime
from kdc.deploy.runtimes.open import open_runtime
from kdc.deploy.runtimes.torch_mode import TorchMode
from kdc.deploy.runtimes.torch_runtime import TorchRuntime, need_compiler
from kdc.distill import models
from kdc.distill.errors import ExportError
from kdc.distill.run.checkpoint import save_student

from ..._lacking import lacking

SIZE, CLASSES = (32, 64), 5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("forms") / "checkpoints" / "best.safetensors"
    save_student(path, models.build("deeplabv3-mv2_035", CLASSES, seed=0), {"data": {"size": list(SIZE)}})
    return path


def infer(path: Path, mode: str) -> tuple[np.ndarray, TorchRuntime]:
    with open_runtime(path, torch_mode=mode, threads=1) as runtime:
        assert isinstance(runtime, TorchRuntime)
        pixels = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
        weight = next(p for p in runtime.model.parameters() if p.dim() == 4 and min(p.shape[:2]) > 1)
        nhwc = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        assert nhwc == (TorchMode.parse(mode).way != "eager")
        return runtime.infer(runtime.prepare(pixels)), runtime


def test_written_as_it_is_read() -> None:
    for text in ("eager", "channels-last", "compiled:bf16", "eager:fp16"):
        assert str(TorchMode.parse(text)) == text
    assert str(TorchMode.parse("eager:fp32")) == "eager" and TorchMode.parse("channels-last") == TorchMode()


def test_layout_changes_nothing_and_half_changes_as_much_as_half_does(checkpoint: Path) -> None:
    trusted, runtime = infer(checkpoint, "channels-last")
    assert (runtime.provider, runtime.precision) == ("torch cpu channels-last", "fp32")
    eager, runtime = infer(checkpoint, "eager")
    assert (runtime.provider, runtime.precision) == ("torch cpu eager", "fp32")
    scale = np.abs(trusted).max()
    assert np.abs(eager - trusted).max() < 1e-5 * scale
    half, runtime = infer(checkpoint, "eager:bf16")
    assert (half.dtype, runtime.precision, runtime._dtype) == (np.float32, "bf16", torch.bfloat16)
    assert 1e-4 * scale < np.abs(half - trusted).max() < 0.1 * scale


def test_compiled_without_a_compiler_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise ExportError("torch needs a C++ compiler")

    monkeypatch.setattr(torch_runtime, "need_compiler", none)
    with pytest.raises(ExportError, match=r"needs a C\+\+ compiler"):
        open_runtime(checkpoint, torch_mode="compiled")


def test_what_torch_cannot_run_is_one_line(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: models.SegmentationModel, images: torch.Tensor) -> None:
        raise RuntimeError("not implemented for 'Half'\nand more")

    monkeypatch.setattr(models.SegmentationModel, "forward", missing)
    with pytest.raises(ExportError, match=r"torch cannot run .* as eager:fp16 here: not implemented for 'Half'$"):
        infer(checkpoint, "eager:fp16")
    with pytest.raises(RuntimeError, match="and more"):  # in the usual mode it is no lack of this machine
        infer(checkpoint, "channels-last")


@pytest.mark.process
def test_forms_are_timed_side_by_side_and_the_first_is_the_reference(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = (
        f"bench latency {checkpoint} --size 32x64 --torch eager,channels-last:bf16 --threads 1 --seconds 0.1 --runs 3"
    )
    assert cli.run([*line.split(), "--rounds", "3", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["backends"]
    assert [(row["name"], row["provider"], row["precision"]) for row in rows] == [
        ("torch (eager)", "torch cpu eager", "fp32"),
        ("torch (channels-last:bf16)", "torch cpu channels-last", "bf16"),
    ]
    assert {row["ratio"]["to"] for row in rows} == {"torch (eager)"}
    assert all(row["warmup"]["first_ms"] > 0 for row in rows)
    assert cli.run(["bench", "throughput", str(checkpoint), "--torch", "compield"]) == 2
    assert "did you mean 'compiled'" in capsys.readouterr().err


@pytest.mark.slow
def test_compiled_computes_the_same(checkpoint: Path) -> None:
    try:
        need_compiler()
    except ExportError as error:
        lacking(str(error))
    trusted, _ = infer(checkpoint, "channels-last")
    compiled, runtime = infer(checkpoint, "compiled")
    assert runtime.provider == "torch cpu compiled"
    assert np.abs(compiled - trusted).max() < 1e-4 * np.abs(trusted).max()


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["eager", "channels-last:fp16", "channels-last:bf16", "compiled:bf16"])
def test_forms_on_a_gpu(checkpoint: Path, mode: str) -> None:
    with open_runtime(checkpoint) as cpu, open_runtime(checkpoint, device="cuda", torch_mode=mode) as gpu:
        x = cpu.prepare(np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8))
        trusted = cpu.infer(x)
        assert np.abs(gpu.infer(x) - trusted).max() < 0.1 * np.abs(trusted).max()
        assert set(gpu.timed(x)()) == {"h2d", "compute", "d2h", "enqueue", "total"}  # type: ignore[misc]
