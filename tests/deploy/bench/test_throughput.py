"""Images per second over batches and streams."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdc import cli
from kdc.deploy.bench import throughput
from kdc.deploy.bench.plan import NotMeasured
from kdc.deploy.bench.protocol import Flow
from kdc.deploy.bench.record import Effort
from kdc.deploy.bench.throughput import OnGpu, Rates, ThroughputRow, bench_throughput, show_throughput
from kdc.deploy.bench.worker import Worker
from kdc.deploy.machine.gpu_meter import Readings, summary
from kdc.distill.errors import ExportError, UsageError

from ._rows import identity, machine


def test_sweep_over_batches_and_streams(network, tmp_path, capsys):
    free, one = network(tmp_path / "free.onnx", batch="any"), network(tmp_path / "one.onnx")
    result = bench_throughput(
        [free, one],
        Effort(threads=2, seconds=0.05, rounds=2, in_process=True),
        batches=(1, 4),
        streams=(1, 2),
        out=tmp_path,
    )
    settings = [(row.name, row.batch, row.streams) for row in result.rows]
    each = [(name, 1, n) for n in (1, 2) for name in ("free.onnx", "one.onnx")]
    assert settings == [*each, ("free.onnx", 4, 1), ("free.onnx", 4, 2)]
    assert [row.backend.threads for row in result.rows[:4]] == [2, 2, 1, 1]  # shared out among the streams
    for row in result.rows:
        assert 0 < row.rates.least <= row.rates.images_per_s <= row.rates.most
        assert len(row.rates.rounds) == 2
        assert result.best[row.name].images_per_s >= row.rates.images_per_s
    (missing,) = result.not_measured
    assert missing.file == "one.onnx" and "made for a batch of 1" in missing.why
    values = json.loads(Path(str(result.record)).read_text())
    assert values | {"record": result.record} == result.to_dict()
    assert list(values) == [
        *("kind", "unit", "device", "size", "threads", "protocol", "rows", "best", "not_measured", "passport", "flags"),
    ]
    assert list(values["rows"][0])[-8:] == [
        *("size_mb", "batch", "streams", "images_per_s", "least", "most", "cv", "rounds"),
    ]
    show_throughput(result)
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
    assert answer.queries == sum(counts)
    assert answer.images == 3 * (sum(counts) - 2)  # the first of each stream is not counted
    assert answer.seconds >= 0.02


def test_a_stream_that_fails_is_not_swallowed():
    worker = Worker()

    def broken() -> float:
        raise UsageError("does not fit")

    worker._queries = [iter([broken]), iter(lambda: lambda: 1.0, None)]
    with pytest.raises(UsageError, match="does not fit"):
        worker.answer({"order": "flow", "values": {"seconds": 0.01}})


def test_noise_is_flagged():
    row = ThroughputRow(identity("a"), 1, 2, Rates(1.0, 1.0, 1.0, 0.3, [1.0]), None)
    card = machine(load=0.1)
    assert throughput._flags([row], card, card, "cpu") == ["rounds vary by more than 5% (a batch 1 streams 2 30%)"]
    quiet = replace(row, rates=replace(row.rates, cv=0.01))
    assert throughput._flags([quiet], card, card, "cpu") == []
    assert "gpu" not in row.to_dict()
    assert list(replace(row, on_gpu=OnGpu(None)).to_dict().items())[-1] == ("gpu", None)  # nothing was read


def test_refusals(network, tmp_path):
    one = network(tmp_path / "one.onnx")
    with pytest.raises(UsageError, match="--streams must be above 0"):
        bench_throughput([one], streams=(0,))
    with pytest.raises(UsageError, match="must be above 0"):
        bench_throughput([one], batches=(0,))
    with pytest.raises(UsageError, match=r"nothing to measure here: one\.onnx"):
        bench_throughput([one], Effort(in_process=True), batches=(2, 4))


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

    def refused(backend, plan, task):
        tried.append(plan.batch)
        plan.missing.append(NotMeasured(backend.label, f"not measured: {plan.batch} is too large"))
        return False

    monkeypatch.setattr(throughput, "open_one", refused)
    with pytest.raises(ExportError, match=r"nothing to measure here: a\.onnx: .*1 is too .*4 is too large"):
        bench_throughput([path], Effort(in_process=True), batches=(1, 4))
    assert tried == [1, 4]


def test_energy_is_shared_out_over_every_image_that_took_it():
    class Running:
        label = "a"

        def warm(self, cap_s: float) -> None:
            pass

        def flow(self, seconds: float) -> Flow:
            # two streams: four queries of eight images are counted, two more were before them
            return Flow(images=32, seconds=1.0, queries=6)

    class Meter:
        @contextlib.contextmanager
        def turn(self, readings: Readings) -> Iterator[None]:
            readings.energy_j.append(48.0)
            yield

    plan: Any = SimpleNamespace(batch=8)
    backends: Any = [Running()]
    meter: Any = Meter()
    (flowing,) = throughput._measure(backends, plan, Effort(1.0, rounds=2), meter)
    assert flowing.rates == [32, 32]
    use = summary(flowing.readings, flowing.images)
    assert use is not None and use.energy_per_image_j == 1.0
