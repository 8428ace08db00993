"""The latency protocol: statistics on made-up samples, the record, and what is refused."""

import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdc.deploy import sources
from kdc.deploy.latency import Backend, bench_latency, show
from kdc.deploy.latency_worker import Worker
from kdc.deploy.sampling import flags, percentiles, ratio
from kdc.distill.errors import ExportError, UsageError, WeightsError


def network(path: Path, *, size=(16, 24), repeat: int = 1, batch: int | str = 1) -> Path:
    """Write ``repeat`` convolutions after each other."""
    rng = np.random.default_rng(0)
    tensors, nodes = [], []
    for i in range(repeat):
        tensors.append(numpy_helper.from_array(0.1 * rng.standard_normal((3, 3, 3, 3)).astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], pads=[1, 1, 1, 1]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3, *size]) for name in ("x0", f"x{repeat}")]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def make_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"data": {"size": [30, 60]}, "student": {"output_stride": 8}}))
    return folder


def test_percentiles_are_those_of_all_rounds():
    result = percentiles([[float(v) for v in range(1, 51)], [float(v) for v in range(51, 102)]])
    assert (result["p50"], result["min"], result["mean"], result["n"]) == (51, 1, 51, 101)
    assert (result["p90"], result["p95"], result["p99"]) == (91, 96, 100)
    assert result["cv"] == pytest.approx(np.std(np.arange(1, 102)) / 51, abs=1e-4)


def test_ratio_is_not_fooled_by_a_machine_that_slows_down():
    rng = np.random.default_rng(0)
    drift = np.linspace(1, 3, 12)
    first = [list(20 * d * (1 + 0.02 * rng.standard_normal(30))) for d in drift]
    other = [list(10 * d * (1 + 0.02 * rng.standard_normal(30))) for d in drift]
    result = ratio(first, other)
    assert result["low"] <= 2 <= result["high"]
    assert result["value"] == pytest.approx(2, rel=0.02)
    assert ratio(first, other) == result  # seeded
    assert ratio(first, first) == {"value": 1, "low": 1, "high": 1}
    unpaired = ratio(first, list(reversed(other)))
    assert unpaired["high"] - unpaired["low"] > 3 * (result["high"] - result["low"])


def test_warm_up_waits_until_times_settle():
    worker = Worker()
    times = itertools.chain([100.0, 80, 60, 50, 40, 30, 25, 20, 16, 13], itertools.repeat(10.0))
    worker._steps = itertools.repeat(lambda: next(times))
    warmed = worker.warm(cap_s=20)
    assert warmed["stable"]
    assert warmed["ms"] == 10
    assert warmed["seconds"] >= 0.5
    restless = itertools.count(1.0)
    worker._steps = itertools.repeat(lambda: next(restless) ** 20)
    assert not worker.warm(cap_s=0.05)["stable"]


def test_first_run_of_a_turn_is_not_counted():
    worker = Worker()
    times = iter([99.0, *[1.0] * 100_000])
    worker._steps = itertools.repeat(lambda: next(times))
    assert 99.0 not in worker.round(0.001)["ms"]


def test_side_by_side_in_their_own_processes(tmp_path):
    files = [network(tmp_path / "small.onnx"), network(tmp_path / "large.onnx", repeat=60)]
    result = bench_latency(files, seconds=0.4, rounds=4, threads=1, out=tmp_path / "bench")
    small, large = result["backends"]
    assert small["pid"] != large["pid"]
    assert (small["name"], small["runtime"], small["provider"]) == ("small.onnx", "onnxruntime", "CPUExecutionProvider")
    assert small["ratio"]["value"] == 1
    assert large["ratio"]["high"] < 1  # sixty convolutions are slower than one, with certainty
    assert 0 < large["min"] <= large["p50"] <= large["p90"] <= large["p95"] <= large["p99"]
    assert result["threads"] == 1
    assert result["size"] == [16, 24]
    record = json.loads(Path(result["record"]).read_text())
    assert [len(turns) for turns in record["samples_ms"]] == [4, 4]
    assert sum(len(turn) for turn in record["samples_ms"][0]) == small["n"]
    assert percentiles(record["samples_ms"][0])["p50"] == pytest.approx(small["p50"], abs=1e-3)
    assert {"cpu", "versions", "gpus"} <= set(record["passport"])
    assert "samples_ms" not in result


def test_run_lists_what_it_cannot_measure(tmp_path, capsys):
    run = make_run(tmp_path / "runs" / "one")
    network(run / "export" / "model.onnx")
    network(run / "export" / "model.fp16.onnx")
    (run / "export" / "model.engine").write_bytes(b"engine")
    files = [run / "export" / "model.onnx", run / "export" / "model.engine"]
    result = bench_latency(files, seconds=0.05, rounds=2, mode="e2e", in_process=True)
    assert [row["name"] for row in result["backends"]] == ["model.onnx"]
    assert result["not_measured"] == [{"file": "model.engine", "why": "not measured: needs a GPU"}]
    assert Path(result["record"]).parent == run / "bench"
    assert not any("rounds" in flag for flag in result["flags"])  # one backend has no ratio
    show(result)
    out = capsys.readouterr().out
    assert "model.engine: not measured: needs a GPU" in out
    assert "image to mask" in out


def test_run_is_torch_and_its_exports(tmp_path):
    run = make_run(tmp_path / "one")
    chosen, missing, home = sources.expand([str(run)], "cpu")
    assert len(chosen) == 1
    assert missing == [{"file": "export/*.onnx", "why": "not exported yet: kdc export onnx one"}]
    assert home is not None
    assert sources.agree(chosen, None) == ((32, 64), "logits")
    path = network(run / "export" / "model.onnx")
    chosen, missing, _ = sources.expand([str(run), str(path)], "cpu")
    assert [sources.is_onnx(source) for source in chosen] == [False, True]  # the file once, though named twice
    assert missing == []


def test_a_file_of_another_batch_is_listed_and_the_others_are_measured(tmp_path):
    one, four, free = (network(tmp_path / f"{n}.onnx", batch=n) for n in (1, 4, "any"))
    result = bench_latency([one, four, free], batch=4, seconds=0.05, rounds=1, in_process=True, out=tmp_path)
    assert [row["name"] for row in result["backends"]] == ["4.onnx", "any.onnx"]
    assert [row["input"]["shape"][0] for row in result["backends"]] == [4, 4]
    (missing,) = result["not_measured"]
    assert missing["file"] == "1.onnx"
    assert "made for a batch of 1;" in missing["why"]
    with pytest.raises(UsageError, match=r"nothing to measure here: 1\.onnx: .*--dynamic-batch"):
        bench_latency([one], batch=4)


def test_few_samples_and_noise_are_flagged():
    row = {"name": "a", "cv": 0.3, "n": 12, "warmup": {"stable": False, "seconds": 1.0}, "nodes_on_cpu": 3}
    row |= {"provider": "CUDAExecutionProvider", "head": "logits"}
    card = {"cpu": {"load": 7.0, "cores": 2}, "gpus": []}
    text = "\n".join(flags([row, row | {"head": "argmax", "tf32": True}], card, card, "cpu", 3))
    for part in (
        "more than 5% (a 30%",
        "100 samples (a 12",
        "not stable",
        "left to the CPU (a 3",
        "load average 7.0 on 2 cores",
        "only 3 rounds",
        "run as TF32 (a)",
    ):
        assert part in text
    assert "different heads (argmax, logits)" in text
    quiet = row | {"cv": 0.01, "n": 500, "warmup": {"stable": True}, "nodes_on_cpu": 0}
    assert flags([quiet], {"cpu": {"load": 0.1, "cores": 2}, "gpus": []}, card, "cpu", 10) == []


def test_refusals(tmp_path):
    small, other = network(tmp_path / "a.onnx"), network(tmp_path / "b.onnx", size=(32, 32))
    with pytest.raises(UsageError, match="different sizes"):
        bench_latency([small, other])
    with pytest.raises(UsageError, match="accepted: net, e2e"):
        bench_latency([small], mode="gross")
    with pytest.raises(UsageError, match="must be above 0"):
        bench_latency([small], seconds=0)
    with pytest.raises(WeightsError, match="does not exist"):
        bench_latency([tmp_path / "c.onnx"])
    checkpoint = tmp_path / "best.safetensors"
    checkpoint.write_bytes(b"")
    with pytest.raises(UsageError, match="for ONNX files, and none"):
        bench_latency([checkpoint], provider="CUDAExecutionProvider", size=(8, 8))
    with pytest.raises(UsageError, match="CUDAExecutionProvider goes with --device cuda, not cpu"):
        bench_latency([small], provider="CUDAExecutionProvider", in_process=True)
    with pytest.raises(UsageError, match=r"nothing to measure here: .*needs a GPU"):
        bench_latency([tmp_path / "c.engine"])


def test_mistakes_cross_the_process_border(tmp_path):
    backend = Backend(network(tmp_path / "a.onnx"), "a", threads=1)
    order = {"source": str(tmp_path / "a.onnx"), "device": "cpu", "batch": 1, "threads": 1, "head": "logits"}
    with pytest.raises(UsageError, match="made for 16x24, not 8x8"):
        backend.ask("open", **order, mode="net", seed=0, size=(8, 8))
    assert backend._process is not None
    backend._process.kill()
    with pytest.raises(ExportError, match="the process that measures a died"):
        backend.ask("warm", cap_s=1)
    backend.close()
