"""What is planned to be measured: batches that nothing fits, missing files, and the flags of engines."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from kdc import cli
from kdc.deploy.bench.plan import Candidate, NothingToMeasure, Plan, make_plan, make_plans
from kdc.deploy.bench.process import Backend, open_one, started
from kdc.deploy.bench.protocol import Task
from kdc.deploy.bench.worker import Worker
from kdc.deploy.runtimes.options import RuntimeOptions
from kdc.deploy.runtimes.ort_runtime import OrtRuntime
from kdc.distill.errors import ExportError, UsageError, WeightsError


def sources(plan: Plan) -> list:
    return [candidate.source for candidate in plan.candidates]


def backend_of(candidate: Candidate, plan: Plan) -> Backend:
    options = plan.options.for_source(candidate.source)
    return Backend(candidate, candidate.label, options, threads=1, in_process=True)


def test_a_batch_that_nothing_fits_is_listed_and_refused_only_where_all_are(network, tmp_path):
    one = network(tmp_path / "one.onnx")
    (plan,) = make_plans([one], sizes=[None], batches=(4, 1, 8))
    assert (plan.batch, sources(plan)) == (1, [one])
    assert [m.why.partition(";")[0] for m in plan.missing] == [
        f"not measured at batch {n}: made for a batch of 1" for n in (4, 8)
    ]
    with pytest.raises(NothingToMeasure, match=r"one\.onnx: not measured at batch 4") as caught:
        make_plans([one], sizes=[None], batches=(4, 8))
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="no input size is known"):  # another mistake is told as it is
        make_plans([network(tmp_path / "free.onnx", size=("h", "w"))], sizes=[None], batches=(1, 4))


def test_a_flag_is_accepted_if_one_of_several_batches_uses_it(network, tmp_path):
    one, free = network(tmp_path / "one.onnx"), tmp_path / "a.pt"
    free.write_bytes(b"")
    plans = make_plans([one, free], sizes=[(16, 24)], batches=(1, 4), options=RuntimeOptions(provider="openvino"))
    assert [sources(plan) for plan in plans] == [[one, free], [free]]
    with pytest.raises(UsageError, match="--provider openvino is for ONNX files"):
        make_plans([free], sizes=[(16, 24)], batches=(1, 4), options=RuntimeOptions(provider="openvino"))


@pytest.fixture
def files(network, tmp_path: Path) -> list[Path]:
    """An ONNX file, a checkpoint and an engine, the latter two empty."""
    made = [network(tmp_path / "a.onnx"), tmp_path / "a.pt", tmp_path / "a.engine"]
    for path in made[1:]:
        path.write_bytes(b"")
    return made


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2", ".engine", ".plan", ".safetensors"])
def test_a_missing_file_is_no_missing_run(suffix, tmp_path, capsys):
    gone = tmp_path / f"gone{suffix}"
    for device in ("cpu", "cuda"):
        with pytest.raises(WeightsError, match="does not exist"):
            make_plan([gone], size=(8, 8), batch=1, options=RuntimeOptions(device))
    for command in ("params", "flops"):
        assert cli.run(["bench", command, str(gone)]) == 4
        assert f"{gone.name} does not exist" in capsys.readouterr().err


def test_flags_of_engines_reach_engines_alone(files, monkeypatch):
    seen: dict[str, dict[str, Any]] = {}

    def opened(source: str, **options: Any) -> None:
        seen[Path(source).suffix] = options
        raise ExportError("not here")

    monkeypatch.setattr("kdc.deploy.runtimes.open.open_runtime", opened)
    plan = make_plan(
        [files[0], files[2]], size=(16, 24), batch=1, options=RuntimeOptions("cuda", buffers="torch", cuda_graph=True)
    )
    for candidate in plan.candidates:
        candidate = replace(candidate, named=False)  # so that what is not available is listed
        assert not open_one(backend_of(candidate, plan), plan, Task("net", threads=1, seed=0))
    assert (seen[".engine"]["buffers"], seen[".engine"]["cuda_graph"]) == ("torch", True)
    assert (seen[".onnx"].get("buffers"), seen[".onnx"].get("cuda_graph")) == ("auto", False)
    assert [m.file for m in plan.missing] == ["a.onnx", "a.engine"]
    again = backend_of(plan.candidates[1], plan)
    assert not open_one(again, plan, Task("net", threads=1, seed=0)) and len(plan.missing) == 2  # told once


def test_an_engine_is_measured_at_the_size_that_its_manifest_says(files, capsys):
    engine = files[2]
    manifest = engine.with_name("a.engine.json")
    for shape, size in (([1, 3, 16, 24], (16, 24)), ([4, 8, 24, 3], (8, 24))):
        manifest.write_text(json.dumps({"inputs": [{"shape": shape}]}))
        assert make_plan([engine], size=None, batch=1, options=RuntimeOptions("cuda")).size == size
    manifest.write_text(json.dumps({"inputs": [{"shape": [None, 3, 1, 1]}], "profile": {"opt": [2, 3, 64, 32]}}))
    assert make_plan([engine], size=None, batch=1, options=RuntimeOptions("cuda")).size == (64, 32)
    for spoilt in ("{}", "[]", '{"inputs": [{"shape": [1, 3, "a", 2]}]}', '{"profile": 3}'):
        manifest.write_text(spoilt)
        assert cli.run(["bench", "latency", str(engine), "--device", "cuda"]) == 4
        assert "holds native code and" in capsys.readouterr().err
        assert cli.run(["bench", "latency", str(engine), "--device", "cuda", "--trust"]) == 2
        assert "no input size is known" in capsys.readouterr().err


def test_flags_of_engines_need_one(files, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    for command in ("latency", "throughput", "memory", "accuracy", "tradeoff"):
        for flags in (["--buffers", "torch"], ["--cuda-graph"]):
            assert cli.run(["bench", command, str(files[0]), *flags]) == 2
            assert f"{' '.join(flags)} is for TensorRT engines, and none is run here" in capsys.readouterr().err
    assert cli.run(["bench", "latency", str(files[2]), "--device", "cuda", "--buffers", "cudapython"]) == 2
    assert "did you mean 'cuda-python'?" in capsys.readouterr().err
    cv2.imwrite("a.png", np.zeros((16, 24, 3), np.uint8))
    assert cli.run(["predict", str(files[0]), "a.png", "--cuda-graph"]) == 2
    assert "--cuda-graph is for TensorRT engines" in capsys.readouterr().err
    assert cli.run(["predict", str(files[2]), "a.png", "--device", "cuda", "--buffers", "torch"]) == 4
    assert "kdc export trt" in capsys.readouterr().err  # the engine itself was asked


def test_a_worker_tells_how_an_engine_was_run():
    facts = {"buffers": "torch", "cuda_graph": True}
    spec = SimpleNamespace(head="logits", shape=(1, 3, 8, 8), dtype="float32", layout="NCHW", contract=None)
    engine = {"name": "tensorrt", "provider": "tensorrt cuda", "precision": "fp16", "tf32": None}
    engine |= {"source": "a.engine", "on_cpu": 0}
    worker: Any = Worker()
    worker._runtimes = [SimpleNamespace(spec=spec, facts=facts, **engine)]
    assert facts.items() <= worker._opened("a.engine", 1).to_dict().items()


def test_networks_that_were_opened_in_this_process_are_closed(network, tmp_path, monkeypatch):
    path, closed = network(tmp_path / "a.onnx"), []
    monkeypatch.setattr(OrtRuntime, "close", lambda runtime: closed.append(runtime.source))
    plan = make_plan([path], size=None, batch=1)
    with started(plan, 1, in_process=True) as (backend,):
        assert open_one(backend, plan, Task("net", threads=1, seed=0)) and not closed
    assert closed == [path]
