"""Images per second over batches and streams."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdc import cli
from kdc.deploy.bench import throughput
from kdc.deploy.bench.throughput import bench_throughput, show
from kdc.deploy.bench.worker import Worker
from kdc.deploy.machine.gpu_meter import summary
from kdc.distill.errors import ExportError, UsageError


def test_sweep_over_batches_and_streams(network, tmp_path, capsys):
    free, one = network(tmp_path / "free.onnx", batch="any"), network(tmp_path / "one.onnx")
    result = bench_throughput(
        [free, one], batches=(1, 4), streams=(1, 2), threads=2, seconds=0.05, rounds=2, in_process=True, out=tmp_path
    )
    settings = [(row["name"], row["batch"], row["streams"]) for row in result["rows"]]
    each = [(name, 1, n) for n in (1, 2) for name in ("free.onnx", "one.onnx")]
    assert settings == [*each, ("free.onnx", 4, 1), ("free.onnx", 4, 2)]
    assert [row["threads"] for row in result["rows"][:4]] == [2, 2, 1, 1]  # shared out among the streams
    for row in result["rows"]:
        assert 0 < row["least"] <= row["images_per_s"] <= row["most"]
        assert len(row["rounds"]) == 2
        best = result["best"][row["name"]]
        assert best["images_per_s"] >= row["images_per_s"]
    (missing,) = result["not_measured"]
    assert missing["file"] == "one.onnx" and "made for a batch of 1" in missing["why"]
    assert json.loads(Path(result["record"]).read_text())["rows"] == result["rows"]
    show(result)
    out = capsys.readouterr().out
    assert out.count("best") == 2
    assert "one.onnx: not measured at batch 4: made for a batch of 1" in out


def test_flow_counts_what_every_stream_did():
    worker = Worker()
    worker._batch = 3
    counts = [0, 0]

    def query(i: int):
        def step() -> float:
            counts[i] += 1
            return 1.0

        return step

    worker._queries = [iter(query(i) for _ in iter(int, 1)) for i in (0, 1)]
    answer = worker.flow(0.02)
    assert answer["queries"] == sum(counts)
    assert answer["images"] == 3 * (sum(counts) - 2)  # the first of each stream is not counted
    assert answer["seconds"] >= 0.02


def test_a_stream_that_fails_is_not_swallowed():
    worker = Worker()

    def broken() -> float:
        raise UsageError("does not fit")

    worker._queries = [iter([broken]), iter(lambda: lambda: 1.0, None)]
    assert worker.answer({"do": "flow", "seconds": 0.01}) == {"error": "does not fit", "kind": "UsageError"}


def test_noise_is_flagged():
    row = {"name": "a", "batch": 1, "streams": 2, "cv": 0.3, "nodes_on_cpu": 0, "head": "logits", "pid": 1}
    card = {"cpu": {"load": 0.1, "cores": 2}, "gpus": []}
    assert throughput._flags([row], card, card, "cpu") == ["rounds vary by more than 5% (a batch 1 streams 2 30%)"]
    assert throughput._flags([row | {"cv": 0.01}], card, card, "cpu") == []


def test_refusals(network, tmp_path):
    one = network(tmp_path / "one.onnx")
    with pytest.raises(UsageError, match="--streams must be above 0"):
        bench_throughput([one], streams=(0,))
    with pytest.raises(UsageError, match="must be above 0"):
        bench_throughput([one], batches=(0,))
    with pytest.raises(UsageError, match=r"nothing to measure here: one\.onnx"):
        bench_throughput([one], batches=(2, 4), in_process=True)


def test_by_default_an_export_of_one_batch_is_measured_at_it(network, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    network(tmp_path / "one.onnx")
    line = "bench throughput one.onnx --seconds 0.05 --rounds 1 --streams 1 --threads 1 --json"
    assert cli.run(line.split()) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(row["name"], row["batch"]) for row in result["rows"]] == [("one.onnx", 1)]
    (missing,) = result["not_measured"]
    assert missing["why"].startswith("not measured at batch 4: made for a batch of 1")


def test_what_no_batch_opens_is_refused_after_all_were_tried(network, tmp_path, monkeypatch):
    path = network(tmp_path / "a.onnx", batch="n")
    tried = []

    def refused(backend, plan, **order):
        tried.append(plan.batch)
        plan.missing.append({"file": backend.label, "why": f"not measured: {plan.batch} is too large"})
        return False

    monkeypatch.setattr(throughput, "open_one", refused)
    with pytest.raises(ExportError, match=r"nothing to measure here: a\.onnx: .*1 is too .*4 is too large"):
        bench_throughput([path], batches=(1, 4), in_process=True)
    assert tried == [1, 4]


def test_energy_is_shared_out_over_every_image_that_took_it():
    class Running:
        label = "a"

        def ask(self, do: str, **order: float) -> dict:
            # two streams: four queries of eight images are counted, two more were before them
            return {"images": 32, "seconds": 1.0, "queries": 6} if do == "flow" else {}

    class Meter:
        @contextlib.contextmanager
        def turn(self, into: dict) -> Iterator[None]:
            into.setdefault("energy_j", []).append(48.0)
            yield

    plan: Any = SimpleNamespace(batch=8)
    backends: Any = [Running()]
    rates, reads = throughput._measure(backends, plan, 1.0, 2, Meter())
    assert rates["a"] == [32, 32]
    found = summary(*reads["a"])
    assert found is not None and found["energy_per_image_j"] == 1.0
