"""The latency protocol: statistics on made-up samples, the record, and what is refused."""

import itertools
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from onnx import helper

from kdc import cli
from kdc.deploy.bench import end_to_end, latency, onnx_cost, process
from kdc.deploy.bench import plan as planning
from kdc.deploy.bench import worker as worker_file
from kdc.deploy.bench.disturbances import latency_flags
from kdc.deploy.bench.latency import bench_latency
from kdc.deploy.bench.latency_record import LatencyRecord, OnGpu, show_latency
from kdc.deploy.bench.plan import Candidate, NotMeasured
from kdc.deploy.bench.process import Backend
from kdc.deploy.bench.protocol import Task, Turn, Warmup
from kdc.deploy.bench.record import Effort
from kdc.deploy.bench.statistics import Ratio, parts_summary, percentiles, ratio
from kdc.deploy.bench.worker import Worker
from kdc.deploy.flags import read_sizes
from kdc.deploy.runtimes.options import CPU, RuntimeOptions, is_onnx
from kdc.deploy.runtimes.ort_runtime import OrtRuntime
from kdc.deploy.runtimes.said import Said
from kdc.distill import models
from kdc.distill.errors import ExportError, ResourceError, UsageError, WeightsError
from kdc.distill.run.checkpoint import save_student

from ..._made import Port, onnx_file
from ._rows import identity, latency_row, machine


def make_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"data": {"size": [30, 60]}, "student": {"output_stride": 8}}))
    return folder


def test_percentiles_are_those_of_all_rounds():
    result = percentiles([[float(v) for v in range(1, 51)], [float(v) for v in range(51, 102)]])
    assert (result.p50, result.min, result.mean, result.n) == (51, 1, 51, 101)
    assert (result.p90, result.p95, result.p99) == (91, 96, 100)
    assert result.cv == pytest.approx(np.std(np.arange(1, 102)) / 51, abs=1e-4)


def test_ratio_is_not_fooled_by_a_machine_that_slows_down():
    rng = np.random.default_rng(0)
    drift = np.linspace(1, 3, 12)
    first = [list(20 * d * (1 + 0.02 * rng.standard_normal(30))) for d in drift]
    other = [list(10 * d * (1 + 0.02 * rng.standard_normal(30))) for d in drift]
    result = ratio("a", first, other)
    assert result.low <= 2 <= result.high
    assert result.value == pytest.approx(2, rel=0.02)
    assert ratio("a", first, other) == result  # seeded
    assert ratio("a", first, first) == Ratio("a", 1, 1, 1)
    unpaired = ratio("a", first, list(reversed(other)))
    assert unpaired.high - unpaired.low > 3 * (result.high - result.low)


def test_warm_up_waits_until_times_settle():
    worker = Worker()
    times = itertools.chain([100.0, 80, 60, 50, 40, 30, 25, 20, 16, 13], itertools.repeat(10.0))
    worker._queries = [itertools.repeat(lambda: next(times))]
    warmed = worker.warm(cap_s=20)
    assert warmed.stable
    assert warmed.ms == 10
    assert warmed.seconds >= 0.5
    restless = itertools.count(1.0)
    worker._queries = [itertools.repeat(lambda: next(restless) ** 20)]
    assert not worker.warm(cap_s=0.05).stable


def test_first_run_of_a_turn_is_not_counted():
    worker = Worker()
    times = iter([99.0, *[1.0] * 100_000])
    worker._queries = [itertools.repeat(lambda: next(times))]
    assert 99.0 not in worker.round(0.001).ms


def test_rows_keep_how_a_file_of_another_maker_was_read(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["aux"]), helper.make_node("Softmax", ["x"], ["main"], axis=-1)]
    outputs: dict[str, Port] = {"aux": [1, 16, 24, 3], "main": [1, 16, 24, 3]}
    file = onnx_file(tmp_path / "foreign.onnx", nodes, {"x": [1, 16, 24, 3]}, outputs, {}, facts={})
    options = RuntimeOptions(said=Said(output="main"))
    result = bench_latency([file], Effort(seconds=0.05, in_process=True), options=options, out=tmp_path)
    record = json.loads(Path(str(result.record)).read_text())
    answer = record["backends"][0]["contract"]["answer"]
    assert (answer["name"], answer["axes"], answer["scores"]) == ("main", "NHWC", "probs")
    assert LatencyRecord.from_dict(record).backends[0].backend.contract == result.backends[0].backend.contract

    del record["backends"][0]["contract"]  # as older records are
    assert LatencyRecord.from_dict(record).backends[0].backend.contract is None


def test_side_by_side_in_their_own_processes(network, tmp_path):
    files = [network(tmp_path / "small.onnx"), network(tmp_path / "large.onnx", repeat=60)]
    result = bench_latency(files, Effort(seconds=0.4, rounds=4, threads=1), out=tmp_path / "bench")
    small, large = result.backends
    ran, times = small.backend, large.times
    assert ran.pid != large.backend.pid
    assert (small.name, ran.runtime, ran.provider) == ("small.onnx", "onnxruntime", "CPUExecutionProvider")
    assert small.ratio.value == 1
    assert large.ratio.high < 1  # sixty convolutions are slower than one, with certainty
    assert 0 < times.min <= times.p50 <= times.p90 <= times.p95 <= times.p99
    assert result.threads == 1
    record = json.loads(Path(str(result.record)).read_text())
    assert record["size"] == [16, 24]
    assert [len(turns) for turns in record["samples_ms"]] == [4, 4]
    assert sum(len(turn) for turn in record["samples_ms"][0]) == small.times.n
    assert percentiles(record["samples_ms"][0]).p50 == pytest.approx(small.times.p50, abs=1e-3)
    assert {"cpu", "versions", "gpus"} <= set(record["passport"])
    values = result.to_dict()
    assert list(record) == [
        *("kind", "mode", "unit", "device", "size", "batch", "threads", "protocol", "backends", "not_measured"),
        *("flags", "passport", "load_after", "gpus_after", "samples_ms", "parts_ms"),
    ]
    assert list(values) == [*list(record)[:-2], "record"]  # without the raw samples
    assert list(record["protocol"]) == ["rounds", "seconds", "runs", "inputs", "seed", "processes"]
    assert list(record["backends"][0]) == [
        *("name", "runtime", "version", "provider", "nodes_on_cpu", "precision", "tf32", "head", "input", "file"),
        *("threads", "pid", "contract", "sha256", "size_mb", "p50", "p90", "p95", "p99", "min", "mean", "cv", "n"),
        *("images_per_s", "warmup", "ratio"),
    ]
    assert list(record["backends"][0]["ratio"]) == ["to", "value", "low", "high"]
    assert list(record["backends"][0]["warmup"]) == ["first_ms", "runs", "seconds", "stable", "ms", "opened_s"]


def test_run_lists_what_it_cannot_measure(network, tmp_path, capsys):
    run = make_run(tmp_path / "runs" / "one")
    network(run / "export" / "model.onnx")
    network(run / "export" / "model.fp16.onnx")
    (run / "export" / "model.engine").write_bytes(b"engine")
    files = [run / "export" / "model.onnx", run / "export" / "model.engine"]
    result = bench_latency(files, Effort(seconds=0.05, rounds=2, mode="e2e", in_process=True))
    assert [row.name for row in result.backends] == ["model.onnx"]
    assert result.not_measured == [NotMeasured("model.engine", "not measured: needs a GPU")]
    assert Path(str(result.record)).parent == run / "bench"
    assert not any("rounds" in flag for flag in result.flags)  # one backend has no ratio
    show_latency(result)
    out = capsys.readouterr().out
    assert "model.engine: not measured: needs a GPU" in out
    assert "image to mask" in out


def test_run_is_torch_and_its_exports(network, tmp_path):
    run = make_run(tmp_path / "one")
    alone = planning.select([str(run)], "cpu")
    assert len(alone.candidates) == 1
    assert alone.missing == [NotMeasured("export/*.onnx", "not exported yet: kdc export onnx one")]
    assert alone.home is not None
    plan = planning.make_plan([str(run)], size=None, batch=1)
    assert (plan.size, plan.head) == ((32, 64), "logits")
    path = network(run / "export" / "model.onnx")
    both = planning.select([str(run), str(path)], "cpu")
    # the file once, though named twice
    assert [(is_onnx(each.source), each.named) for each in both.candidates] == [(False, True), (True, True)]
    assert not planning.select([str(run)], "cpu").candidates[1].named
    assert both.missing == []


def test_a_file_of_another_batch_is_listed_and_the_others_are_measured(network, tmp_path):
    one, four, free = (network(tmp_path / f"{n}.onnx", batch=n) for n in (1, 4, "any"))
    result = bench_latency([one, four, free], Effort(seconds=0.05, rounds=1, in_process=True), batch=4, out=tmp_path)
    assert [row.name for row in result.backends] == ["4.onnx", "any.onnx"]
    assert [row.backend.input.shape[0] for row in result.backends] == [4, 4]
    (missing,) = result.not_measured
    assert missing.file == "1.onnx"
    assert "made for a batch of 1;" in missing.why
    with pytest.raises(UsageError, match=r"nothing to measure here: 1\.onnx: .*--dynamic-batch"):
        bench_latency([one], batch=4)


def test_few_samples_and_noise_are_flagged():
    row = latency_row(identity("a", nodes_on_cpu=3), cv=0.3, n=12, stable=False)
    other = replace(row, backend=replace(row.backend, head="argmax", tf32=True))
    card = machine(load=7.0)
    text = "\n".join(latency_flags([row, other], card, card, "cpu", 3))
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
    limits = ((3, 3), (3, 10), (3, 5), (2, None))
    few = [next(f for f in latency_flags([row] * 2, card, card, "cpu", *each) if "rounds:" in f) for each in limits]
    cures = ("--rounds", "--seconds", "--rounds and --seconds", "--rounds")
    assert [flag.partition("raise ")[2] for flag in few] == list(cures)  # whatever was the limit
    quiet = latency_row(identity("a"), cv=0.01, n=500)
    assert latency_flags([quiet], machine(load=0.1), card, "cpu", 10) == []


def test_refusals(network, tmp_path):
    small, other = network(tmp_path / "a.onnx"), network(tmp_path / "b.onnx", size=(32, 32))
    with pytest.raises(UsageError, match="different sizes"):
        bench_latency([small, other])
    with pytest.raises(UsageError, match="accepted: net, e2e"):
        bench_latency([small], Effort(mode="gross"))
    for seconds in (0, -1, math.nan, math.inf):
        with pytest.raises(UsageError, match=f"--seconds {seconds}: it must be above 0 and finite"):
            bench_latency([small], Effort(seconds=seconds))
    with pytest.raises(UsageError, match="--threads 0: it must be above 0"):
        bench_latency([small], Effort(threads=0))
    with pytest.raises(WeightsError, match="does not exist"):
        bench_latency([tmp_path / "c.onnx"])
    checkpoint = tmp_path / "best.safetensors"
    checkpoint.write_bytes(b"")
    with pytest.raises(UsageError, match="for ONNX files, and none"):
        bench_latency([checkpoint], options=RuntimeOptions(provider="openvino"), size=(8, 8))
    with pytest.raises(UsageError, match="CUDAExecutionProvider goes with --device cuda, not cpu"):
        bench_latency([small], Effort(in_process=True), options=RuntimeOptions(provider="CUDAExecutionProvider"))
    (tmp_path / "c.engine").write_bytes(b"engine")
    with pytest.raises(UsageError, match=r"nothing to measure here: .*needs a GPU"):
        bench_latency([tmp_path / "c.engine"])


def test_mistakes_cross_the_process_border(network, tmp_path):
    plan = planning.make_plan([network(tmp_path / "a.onnx")], size=None, batch=1)
    backend = Backend(plan.candidates[0], "a", CPU, threads=1)
    with pytest.raises(UsageError, match="made for 16x24, not 8x8"):
        backend.open(replace(plan, size=(8, 8)), Task("net", threads=1, seed=0))
    assert backend._process is not None
    backend._process.kill()
    with pytest.raises(ResourceError, match=r"the process that measures a died \(signal SIGKILL\): .*memory ran out"):
        backend.warm(cap_s=1)
    backend.end()


def test_e2e_tells_the_stages_apart(network, tmp_path):
    files = [network(tmp_path / "a.onnx"), network(tmp_path / "b.onnx", repeat=3)]
    result = bench_latency(
        files, Effort(seconds=0.05, rounds=2, mode="e2e", codec="png", in_process=True), out=tmp_path
    )
    for row in result.backends:
        assert row.parts is not None
        assert list(row.parts) == ["decode", "preprocess", "network", "resize", "argmax", "total"]
        assert row.parts["decode"].p50 > 0
        assert row.parts["total"].p50 == pytest.approx(row.times.p50, rel=1e-3)
    record = json.loads(Path(str(result.record)).read_text())
    assert record["protocol"]["codec"] == "png"
    parts = record["parts_ms"][0]
    sums = np.sum([parts[name] for name in parts if name != "total"], axis=0)
    assert sums == pytest.approx(np.asarray(parts["total"]), abs=1e-3)  # nothing falls between two stages
    assert len(sums) == result.backends[0].times.n
    with pytest.raises(UsageError, match="accepted: jpg, png"):
        bench_latency(files, Effort(seconds=0.05, mode="e2e", codec="gif", in_process=True), out=tmp_path)


def test_files_in_memory_are_what_they_were(network, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 24, 3), np.uint8)
    with OrtRuntime(network(tmp_path / "a.onnx", batch="n")) as runtime:
        files = end_to_end.encoded(noise, "png")[0]
        seen: list[np.ndarray] = []
        runtime.infer = lambda x: seen.append(x) or np.zeros((3, 3, 16, 24), np.float32)
        end_to_end.whole(runtime, files)()
        decoded = [cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB) for file in files]
        rgb = np.stack([image for image in decoded if image is not None])
        assert rgb.shape == (3, 16, 24, 3)
        assert np.array_equal(seen[0], runtime.prepare(rgb))


def test_a_runtime_with_its_own_way_to_masks_is_timed_as_one(network, tmp_path):
    class OnDevice(OrtRuntime):
        def masks(self, images):
            return super().masks(images)

    with OnDevice(network(tmp_path / "a.onnx")) as runtime:
        files = end_to_end.encoded(np.zeros((1, 1, 16, 24, 3), np.uint8), "jpg")[0]
        assert set(end_to_end.whole(runtime, files)()) == {"decode", "mask", "total"}


def test_enough_runs_but_not_for_ever():
    worker = Worker()
    worker._queries = [itertools.repeat(lambda: time.sleep(0.002) or 2.0)]
    assert len(worker.round(0.001, runs=20).ms) == 20
    assert len(worker.round(0.001, runs=1000, cap_s=0.03).ms) < 20
    assert len(worker.round(0.03, runs=2).ms) > 5  # seconds count, too


@pytest.mark.parametrize("typical", [0.001, 0.03, 0.3, 1.0, 2.0, 3.0, 5.0])
def test_a_backend_is_measured_for_at_most_twice_the_seconds(
    typical: float, network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a clock of its own: only a query takes time."""
    now, turns = [0.0], []

    def query() -> float:
        now[0] += typical
        return 1e3 * typical

    def timed_round(self: Worker, *arguments: Any, **named: Any) -> Turn:
        before = now[0]
        self._queries = [itertools.repeat(query)]
        answer = genuine(self, *arguments, **named)
        turns.append(now[0] - before)
        return answer

    genuine = Worker.round
    monkeypatch.setattr(worker_file, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setitem(worker_file.ORDERS, "round", timed_round)

    def warm(self: Worker, cap_s: float) -> Warmup:
        self._typical = 1e3 * typical
        return Warmup(1e3 * typical, 10, 1.0, True, 1e3 * typical)

    monkeypatch.setitem(worker_file.ORDERS, "warm", warm)
    files = [network(tmp_path / name) for name in ("a.onnx", "b.onnx")]
    result = bench_latency(files, Effort(seconds=6, runs=100, threads=1, in_process=True), out=tmp_path / "bench")
    per_backend = sum(turns) / 2
    assert min(6, 100 * typical) - 1e-6 <= per_backend <= 12 + 1e-6
    said = capsys.readouterr().out
    assert said.startswith("2 backends: opening and compiling first, then at most 20 s to warm up and 12 to 24 s")
    expected = float(said.partition("measuring takes about ")[2].split()[0])
    assert abs(expected - sum(turns)) <= 0.35 * expected + 1
    show_latency(result)
    assert "before that, not measured" in capsys.readouterr().out and result.backends[0].warmup.opened_s is not None


def test_images_per_second_are_counted_on_the_clock(network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries of 1, 1, 1 and 9 ms with 2 ms between them: 4 images in 20 ms, and not one in the median of 1 ms."""
    now, cycle = [0.0], itertools.cycle([1.0, 1.0, 1.0, 9.0])

    def query() -> float:
        ms = next(cycle)
        now[0] += (ms + 2) / 1e3
        return ms

    def timed_round(self: Worker, *arguments: Any, **named: Any) -> Turn:
        self._queries = [itertools.repeat(query)]
        return genuine(self, *arguments, **named)

    genuine = Worker.round
    monkeypatch.setattr(worker_file, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setitem(worker_file.ORDERS, "round", timed_round)
    monkeypatch.setitem(worker_file.ORDERS, "warm", lambda self, cap_s: Warmup(1.0, 10, 1.0, True, 1.0))
    result = bench_latency([network(tmp_path / "a.onnx")], Effort(seconds=6, threads=1, in_process=True), out=tmp_path)
    assert result.backends[0].times.p50 == 1.0
    assert result.backends[0].images_per_s == pytest.approx(200, rel=0.01)


def test_parts_by_the_devices_clock_come_beside_the_runs():
    worker = Worker()
    worker._queries = [itertools.repeat(lambda: 2.0)]
    part = {"h2d": 0.5, "compute": 1.5, "d2h": 1.0, "enqueue": 1.4, "total": 3.2}
    worker._device_steps = itertools.repeat(lambda: part)
    answer = worker.round(0.0, runs=40)
    assert answer.ms == [2.0] * 40
    assert answer.parts["compute"] == [1.5] * 10
    assert answer.queries == 1 + 40 + 10  # what the energy is shared out over
    parts = parts_summary({name: [ms] for name, ms in part.items()})
    row = latency_row(identity("a"), parts=parts, on_gpu=OnGpu(None, None))
    card = machine(load=0.0)
    text = "\n".join(latency_flags([row], card, card, "cuda", 10))
    assert "handing the network over takes the host 1.4 ms of its 1.5 ms" in text
    assert "transfers take as long as the network" in text
    quick = replace(row, parts=parts_summary({"h2d": [0.1], "compute": [9.0], "d2h": [0.1], "enqueue": [1.0]}))
    assert latency_flags([quick], card, card, "cuda", 10) == []


def test_a_record_outlives_a_file_that_cannot_be_counted(network, tmp_path, monkeypatch):
    """Of a GPU the FLOPs are asked for after the last round; here it is a CPU that is called one."""
    path = network(tmp_path / "foreign.onnx")
    monkeypatch.setattr(onnx_cost, "read_info", lambda path: (_ for _ in ()).throw(UsageError("any size")))
    plan = replace(planning.make_plan([path], size=None, batch=1), options=RuntimeOptions("cuda"))

    def on_cpu(backends, plan, task):
        for backend in backends:
            backend.options = CPU
        return process.open_all(backends, plan, task)

    monkeypatch.setattr(latency, "open_all", on_cpu)
    effort = Effort(seconds=0.05, rounds=1, threads=1, in_process=True)
    result = latency.time_plan(plan, effort, tmp_path / "bench")
    (row,) = json.loads(Path(str(result.record)).read_text())["backends"]
    assert row["p50"] > 0 and row["roofline"] is None
    assert list(row)[-4:] == ["warmup", "ratio", "gpu", "roofline"]
    assert result.not_measured == [planning.NotMeasured("foreign.onnx", "share of peak not measured: any size")]
    show_latency(result)


def test_a_file_of_another_size_is_listed(network, tmp_path):
    free, other = network(tmp_path / "free.onnx", size=("h", "w")), network(tmp_path / "other.onnx", size=(16, 24))
    plan = planning.make_plan([free, other], size=(8, 8), batch=1)
    assert ([each.source for each in plan.candidates], plan.size) == ([free], (8, 8))
    assert plan.missing[0].why == "not measured at 8x8: made for 16x24"
    with pytest.raises(UsageError, match="no input size is known"):
        planning.make_plan([free], size=None, batch=1)
    assert read_sizes("16x24,8x8") == [(16, 24), (8, 8)]


@pytest.mark.process
def test_several_batches_by_command(network, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    free = network(tmp_path / "free.onnx", size=("h", "w"), batch="n")
    other = network(tmp_path / "other.onnx", size=(16, 24), batch=2)
    line = f"bench latency {free} {other} --batch 1,2 --size 16x24 --seconds 0.02 --runs 5 --rounds 1 --threads 1"
    assert cli.run([*line.split(), "--json"]) == 0
    out, err = capsys.readouterr()
    measurements = json.loads(out.splitlines()[-1])["measurements"]
    shapes = [((*m["size"], m["batch"]), [row["name"] for row in m["backends"]]) for m in measurements]
    assert shapes == [
        ((16, 24, 1), ["free.onnx"]),
        ((16, 24, 2), ["free.onnx", "other.onnx"]),
    ]
    assert all(row["n"] >= 5 for m in measurements for row in m["backends"])
    assert "other.onnx: not measured at batch 1: made for a batch of 2" in err
    assert cli.run(["bench", "latency", str(free), "--batch", "1,x"]) == 2
    assert "--batch '1,x' is no number and no list of numbers" in capsys.readouterr().err


def test_what_a_run_holds_may_be_missing_what_was_named_may_not(network, tmp_path):
    run = make_run(tmp_path / "one")
    found, named = network(run / "export" / "a.onnx"), network(tmp_path / "b.onnx")
    engine = tmp_path / "c.engine"
    plan = planning.make_plan([str(run), named], size=None, batch=1)
    gone = ExportError("no such provider")
    by_source = {each.source: each for each in plan.candidates}
    assert by_source[found].may_be_refused(gone)
    assert not by_source[named].may_be_refused(gone)
    assert not plan.candidates[0].may_be_refused(gone)  # the run
    unread = Candidate(engine, run=None, info=None, named=True)
    assert unread.may_be_refused(gone)  # only opening tells whether it can be run
    assert not unread.may_be_refused(WeightsError("no such engine"))


def test_rows_of_one_name_are_told_apart(network, tmp_path):
    run = planning.Run(make_run(tmp_path / "one"))
    files = [network(run.export / name) for name in ("m.onnx", "openvino/m.onnx")]
    for sources, labels in ((files, [str(path) for path in files]), ([run, files[0]], ["torch", "m.onnx"])):
        assert planning.row_names([Candidate(source, run, None, False) for source in sources]) == labels


@pytest.mark.gpu
def test_torch_on_a_gpu_tells_transfers_from_the_network(tmp_path):
    model = models.build("deeplabv3-mv2_035", 11, seed=0)
    path = tmp_path / "checkpoints" / "best.safetensors"
    save_student(path, model, {"data": {"size": [64, 128]}})
    result = bench_latency(
        [path], Effort(seconds=0.5, rounds=2), options=RuntimeOptions("cuda"), size=(64, 128), out=tmp_path
    )
    (row,) = result.backends
    assert row.parts is not None
    parts = {name: part.p50 for name, part in row.parts.items()}
    assert set(parts) == {"h2d", "compute", "d2h", "enqueue", "total"}
    assert 0 < parts["h2d"] < parts["total"] and 0 < parts["d2h"] < parts["total"]
    assert parts["h2d"] + parts["compute"] + parts["d2h"] <= 1.1 * parts["total"]
