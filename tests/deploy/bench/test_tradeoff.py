"""Accuracy of several networks, their costs, who is on the front, and the plot of it."""

import base64
import csv
import itertools
import json
import random
import shutil
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kdc.deploy.bench.accuracy import bench_accuracy, show_accuracy
from kdc.deploy.bench.costs import Arithmetic, Deployed, count, deployed
from kdc.deploy.bench.evaluation_data import EvaluationData
from kdc.deploy.bench.onnx_cost import onnx_macs, onnx_params
from kdc.deploy.bench.record import Effort
from kdc.deploy.bench.tradeoff import bench_tradeoff, family, on_front, show_tradeoff
from kdc.deploy.bench.tradeoff_chart import COSTS, TradeoffRow, short_names, tradeoff_chart
from kdc.deploy.report.report import collect, write_report
from kdc.deploy.runtimes.options import RuntimeOptions
from kdc.distill import cost, models
from kdc.distill.errors import ExportError, UsageError, WeightsError
from kdc.distill.run.checkpoint import save_student
from kdc.distill.run.files import sha256
from kdc.distill.run.folder import Run

SIZE, K = (32, 64), 11


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A run on generated scenes with a checkpoint."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    model = models.build("deeplabv3-mv2_035", K, seed=0)
    data = {"source": "builtin", "options": {"size": list(SIZE), "count": 2, "val_count": 2, "seed": 0}, "size": SIZE}
    save_student(folder / "checkpoints" / "best.safetensors", model, {"data": data})
    (folder / "run.json").write_text(
        json.dumps({"data": data, "student": model.spec().to_dict(), "baseline": "runs/alone"})
    )
    return Run(folder)


def of_run(path: Path) -> Path:
    """Give an ONNX file the manifest of one that kdc exported from a checkpoint."""
    manifest = {"sha256": sha256(path), "source": {"run": "one", "checkpoint": "best.safetensors"}}
    path.with_name(f"{path.name}.json").write_text(json.dumps(manifest))
    return path


def row(
    name: str, miou: float | None, ms: float | None, network: str = "one", gflops: float | None = 2.0
) -> TradeoffRow:
    scores, speeds = (miou, None, None, None), (ms, None, None)
    return TradeoffRow(name, network, "fp32", "ort CPU", *scores, *speeds, gflops, 1.5, 5.0, {})


def test_all_three_costs_and_files(run, network, capsys):
    of_run(network(run.export / "model.onnx", size=SIZE, classes=K))
    foreign = network(run.export / "foreign.onnx", size=SIZE, classes=K)
    network(run.export / "many.onnx", size=SIZE, classes=K, batch=4)
    (run.export / "model.engine").write_bytes(b"engine")
    result = bench_tradeoff([run], Effort(seconds=0.05, rounds=1, threads=1, in_process=True))
    assert {r.name for r in result.rows} == {"torch", "model.onnx", "foreign.onnx"}
    for r in result.rows:
        # a file that was exported from the run is the same network, whatever it was folded or quantised to
        each = deployed(foreign if r.name == "foreign.onnx" else run, SIZE)
        assert each.params is not None and each.macs is not None
        assert (r.gflops, r.params_m) == (round(2 * each.macs / 1e9, 4), round(each.params / 1e6, 4))
        assert r.latency_ms and r.latency_p95_ms and 0 < r.latency_ms <= r.latency_p95_ms
    best = result.rows[0]
    assert best.miou is not None and best.miou == max(r.miou or 0.0 for r in result.rows)
    assert any(r.pareto["gflops"] for r in result.rows)
    assert any(r.pareto["latency_ms"] for r in result.rows)
    whys = {m.file: m.why for m in result.not_measured}
    assert whys["model.engine"] == "not measured: needs a GPU"
    assert "made for a batch of 4" in whys["many.onnx"]
    files = {kind: Path(path) for kind, path in (result.files or {}).items()}
    assert {path.name for path in files.values()} == {"tradeoff.json", "tradeoff.csv", "tradeoff.svg"}
    assert files["svg"].parent == run.bench
    record = Path(str(result.record))  # which the next measurement leaves alone
    assert record.match("bench/tradeoff-*.json") and record.read_bytes() == files["json"].read_bytes()
    values = json.loads(files["json"].read_text())
    assert values | {"files": result.files, "record": result.record} == result.to_dict()
    assert list(values) == [
        *("kind", "device", "size", "batch", "threads", "not_measured", "flags", "passport", "data", "split"),
        *("images", "rows", "seconds", "latency_record"),
    ]
    lines = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert [line["name"] for line in lines] == [r.name for r in result.rows]
    assert float(lines[0]["miou"]) == best.miou
    assert [line["pareto_gflops"] for line in lines] == [str(r.pareto["gflops"]) for r in result.rows]
    ElementTree.fromstring(files["svg"].read_text())
    show_tradeoff(result)
    out = capsys.readouterr().out
    assert "model.engine: not measured: needs a GPU" in out
    assert "tradeoff.svg" in out
    page = write_report(run, collect(run, pictures=False)).read_text()
    assert base64.b64encode(files["svg"].read_bytes()).decode() in page
    section = page.partition('id="tradeoff"')[2].partition("</section>")[0]
    assert f"{100 * best.miou:.2f}" in section
    assert "model.engine" in section and "not measured: needs a GPU" in section


def test_accuracy_of_a_run_and_its_files(run, network, tmp_path, capsys):
    files = [run, network(tmp_path / "alien.onnx", size=SIZE, classes=K)]
    result = bench_accuracy(files, EvaluationData(limit=1))
    assert [r.name for r in result.rows[-1:]] == ["alien.onnx"]  # on the run's data, though of no run
    assert result.images == 1
    assert result.rows[0].change == 0
    first, last = (r.evaluation.scores.miou for r in (result.rows[0], result.rows[-1]))
    assert result.rows[-1].change == pytest.approx(last - first)
    record = Path(str(result.record))
    assert record.match("bench/accuracy-*.json") and record.parent == run.bench
    values = result.to_dict()
    assert json.loads(record.read_text()) | {"record": str(record)} == values
    assert list(values) == [
        *("kind", "device", "data", "split", "images", "rows", "not_measured", "passport", "record"),
    ]
    assert list(values["rows"][-1]) == [
        *("name", "source", "ran_on", "precision", "fit", "contract", "privileged", "data", "split", "fingerprint"),
        *("scores", "seconds", "change"),
    ]
    assert result.passport.cpu.model
    show_accuracy(result)
    out = capsys.readouterr().out
    assert "mIoU change" in out and record.name in out
    with pytest.raises(UsageError, match="are not in a run folder"):
        bench_accuracy(files[1:])


def package(path: Path) -> Path:
    """Write what says of itself that it is an AOTInductor package, and nothing vouches for."""
    ports = [{"name": n, "dtype": "float32", "shape": [1, c, *SIZE]} for n, c in (("image", 3), ("z", K))]
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/wrapper_metadata.json", json.dumps({"kdc.ports": json.dumps(ports)}))
    return path


@pytest.fixture
def alone(run, tmp_path) -> Run:
    """A copy of the run without its exports and measurements."""
    shutil.copytree(run.path / "checkpoints", tmp_path / "alone" / "checkpoints")
    shutil.copy(run.path / "run.json", tmp_path / "alone")
    return Run(tmp_path / "alone")


@pytest.mark.parametrize("bench", [bench_accuracy, bench_tradeoff])
def test_torch_is_evaluated_only_in_the_form_of_validation(run, bench):
    with pytest.raises(UsageError, match="not in eager,compiled"):
        bench([run], options=RuntimeOptions(torch_mode="eager,compiled"))


def test_a_file_that_cannot_run_here_is_listed_and_the_others_are_measured(alone, network):
    foreign, four = (
        package(alone.export / "model.pt2"),
        network(alone.export / "four.onnx", size=SIZE, classes=K, batch=4),
    )
    result = bench_accuracy([alone], EvaluationData(limit=1))
    assert [r.name for r in result.rows] == ["torch", "four.onnx"]  # an image fills the batch it was made for
    (why,) = [m.why for m in result.not_measured if m.file == "model.pt2"]
    assert why.startswith("not measured: ") and "--trust" in why
    one = network(alone.path / "one.onnx", size=SIZE, classes=K)  # the same weights
    (same,) = bench_accuracy([one], EvaluationData(limit=1)).rows
    assert same.evaluation.scores.to_dict() == result.rows[1].evaluation.scores.to_dict()
    with pytest.raises(ExportError, match=r"nothing to evaluate here: model\.pt2"):
        bench_accuracy([foreign], EvaluationData(limit=1))
    four.unlink()
    both = bench_tradeoff([alone], Effort(seconds=0.05, rounds=1, threads=1, in_process=True), EvaluationData(limit=1))
    assert [r.name for r in both.rows] == ["torch"]
    assert [m.file for m in both.not_measured].count("model.pt2") == 1


def test_files_are_counted_at_the_size_they_were_made_for(alone, network, tmp_path):
    model = models.build("deeplabv3-mv2_035", K, seed=0)
    shapes = {"fixed": [1, 3, 64, 96], "free": [None, 3, None, None], "last": [1, 48, 64, 3]}
    for name, shape in shapes.items():
        path = alone.export / f"{name}.engine"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"engine")
        profile = {"opt": [2, 3, 96, 64]} if name == "free" else None
        manifest = {"inputs": [{"name": "image", "shape": shape}], "profile": profile}
        path.with_name(f"{path.name}.json").write_text(json.dumps(manifest))
    untold = alone.export / "untold.engine"
    untold.write_bytes(b"engine")
    names = [alone.export / f"{name}.engine" for name in shapes]
    rows = count([*names, untold, package(alone.export / "a.pt2")], counter="true")
    sizes = [(64, 96), (96, 64), (48, 64), SIZE, SIZE]
    assert [r.arithmetic and r.arithmetic.size for r in rows] == sizes
    assert [r.arithmetic and r.arithmetic.macs_without_aux for r in rows] == [
        cost.macs(model, size, aux=False) for size in sizes
    ]
    (typed,) = count(names[:1], size=(32, 32), counter="true")
    assert typed.arithmetic is not None and typed.arithmetic.size == (32, 32)
    free = network(alone.export / "free.onnx", size=("h", "w"), classes=K)
    assert [r.to_dict()["size"] for r in count([free], counter="true")] == [list(SIZE)]
    stray = network(tmp_path / "stray.onnx", size=("h", "w"), classes=K)
    assert deployed(stray, SIZE).macs == onnx_macs(stray, SIZE)[0]
    other = deployed(network(tmp_path / "other.onnx", size=(8, 8)), SIZE)  # no reason to lose a record
    assert (other.params, other.macs) == (81, None) and "is made for 8x8" in other.why
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    lost = deployed(broken, SIZE)
    assert (lost.params, lost.macs) == (None, None) and "is not an ONNX file" in lost.why


def test_the_front_is_what_nothing_else_beats():
    rng = random.Random(0)
    for _ in range(50):
        points = [(rng.randint(1, 6) / 10, rng.randint(1, 6)) for _ in range(8)]
        rows = [row(str(i), miou, ms) for i, (miou, ms) in enumerate(points)]
        for mine, (miou, ms) in zip(rows, points, strict=True):
            better = [p for p in points if (p[0] > miou and p[1] <= ms) or (p[0] >= miou and p[1] < ms)]
            assert on_front(mine, rows, "latency_ms") is not bool(better)
    unknown = row("x", None, 1.0)
    assert on_front(unknown, [*rows, unknown], "latency_ms") is None
    assert on_front(row("y", 0.1, None), rows, "latency_ms") is None
    assert on_front(row("z", 0.1, 100.0), [unknown], "latency_ms") is True  # what was not measured beats nobody


def drawn(rows: list[TradeoffRow]) -> ElementTree.Element:
    for r, key in itertools.product(rows, COSTS):
        r.pareto[key] = on_front(r, rows, key)
    return ElementTree.fromstring(tradeoff_chart(rows, "batch 1"))


def test_chart_has_a_dot_for_each_and_names_missing_ones():
    rows = [row("torch", 0.70, 80.0), row("a<b>.onnx", 0.70, 8.0), row("small", 0.55, 4.0, "two")]
    rows.append(row("engine", 0.6, None, "three", gflops=None))
    page = drawn(rows)
    space = "{http://www.w3.org/2000/svg}"
    kinds = [dot.get("class") for dot in page.iter(f"{space}circle")]
    # latency 3, FLOPs 3, parameters 4, and 4 in the list; a hole in each that is not on the front
    off = sum(r.pareto[key] is False for r in rows for key in COSTS)
    assert len([kind for kind in kinds if kind != "paper"]) == 3 + 3 + 4 + 4
    assert kinds.count("paper") == off > 0
    words = [text.text or "" for text in page.iter(f"{space}text")]
    assert "latency, p50, log scale" in words
    assert any("a<b>.onnx of one" in word for word in words)
    assert any("latency, p50 not measured, FLOPs not measured" in word for word in words)
    assert "one torch, one fp32" in words  # the two of one network share a label over FLOPs
    assert {"one torch", "one fp32", "two fp32"} <= set(words)
    box = [float(v) for v in (page.get("viewBox") or "").split()]
    for dot in page.iter(f"{space}circle"):
        assert box[0] <= float(dot.get("cx", -1)) <= box[2] and box[1] <= float(dot.get("cy", -1)) <= box[3]
    assert "prefers-color-scheme:dark" in tradeoff_chart(rows, "")


def test_points_have_short_names_that_do_not_touch_or_else_numbers():
    rows = [
        row(f"torch of 20261201-12211{i}_kt_r{i}_builtin", 0.5, 8.0, f"20261201-12211{i}_kt_r{i}_builtin")
        for i in range(3)
    ]
    assert short_names(rows) == ["kt_r0 torch", "kt_r1 torch", "kt_r2 torch"]
    assert short_names([row("torch", 0.5, 1.0), row("a.onnx", 0.5, 1.0)]) == ["torch", "fp32"]
    assert short_names([row("a.onnx", 0.5, 1.0), row("b.onnx", 0.5, 1.0)]) == ["a.onnx", "b.onnx"]
    crowd = [row(f"file-{i}.onnx", 0.5 + 0.001 * i, 8.0 + 0.9 * i) for i in range(14)]
    words = [text.text or "" for text in drawn(crowd).iter("{http://www.w3.org/2000/svg}text")]
    named = [word for word in words if word.startswith("file-") and "(" not in word]
    assert named and any(word.isdigit() for word in words)


def test_chart_writes_no_unit_twice():
    words = [text.text or "" for text in drawn([row("a", 0.5, 1757.0), row("b", 0.4, 560.0)]).iter()]
    assert any("1.76 s, 2 G, 1.5 M" in word for word in words) and any("560 ms" in word for word in words)
    assert {"0", "500 ms", "1 s", "1.5 s", "2 s"} <= set(words)


def test_chart_without_any_accuracy_is_still_a_chart():
    words = [text.text for text in drawn([row("a", None, 3.0)]).iter("{http://www.w3.org/2000/svg}text")]
    assert any("mIoU not measured" in (word or "") for word in words)


def test_family_is_found_where_it_lies(run):
    assert family(run) == [run]
    beside = run.path.parent / "alone"
    beside.mkdir()
    (beside / "run.json").write_text("{}")
    assert [r.path.name for r in family(run)] == ["one", "alone"]


def test_onnx_is_counted_as_the_network_it_is(network, tmp_path):
    path = network(tmp_path / "a.onnx", size=(16, 24), repeat=2, classes=5, batch=4)
    params, (macs, size) = onnx_params(path), onnx_macs(path)
    assert (params, macs, size) == (9 * 9 + 9 * 15, 16 * 24 * (9 * 9 + 9 * 15), (16, 24))  # of one image, not of four
    free = network(tmp_path / "free.onnx", size=("h", "w"), repeat=2, classes=5)
    assert onnx_macs(free, (32, 24))[0] == 2 * macs
    with pytest.raises(UsageError, match="name the one to count for"):
        onnx_macs(free)
    assert [each.params for each in count([free])] == [params]  # which needs no size
    with pytest.raises(UsageError, match="is made for 16x24"):
        onnx_macs(path, (8, 8))
    (counted,) = count([path], counter="true")
    assert counted.arithmetic == Arithmetic((16, 24), "true", macs, macs, 2 * macs, 2 * macs)
    assert deployed(path, (16, 24)) == Deployed(params, macs)
    with pytest.raises(UsageError, match="cirkd is for models and runs"):
        count([path], counter="cirkd")


def test_a_file_counts_as_what_it_was_made_from(run, network):
    """The cast form of a foreign network, in the folder of a run, is not the network of that run."""
    foreign = network(run.export / "other.onnx", size=SIZE, classes=K)
    cast, own = (network(run.export / f"{name}.fp16.onnx", size=SIZE, classes=K) for name in ("other", "model"))
    of_run(network(run.export / "model.onnx", size=SIZE, classes=K))
    for path, source in ((cast, foreign), (own, run.export / "model.onnx")):
        manifest = {"sha256": sha256(path), "source": {"file": source.name, "sha256": sha256(source)}}
        path.with_name(f"{path.name}.json").write_text(json.dumps(manifest))
    assert deployed(cast, SIZE) == deployed(foreign, SIZE) == Deployed(onnx_params(foreign), onnx_macs(foreign)[0])
    assert deployed(own, SIZE) == deployed(run, SIZE)


def test_files_are_counted_as_the_network_of_their_run(run, tmp_path):
    model = models.build("deeplabv3-mv2_035", K, seed=0)
    engine = run.export / "model.engine"
    engine.parent.mkdir(exist_ok=True)
    engine.write_bytes(b"engine")
    rows = count([run.checkpoints / "best.safetensors", engine], size=SIZE, counter="true")
    assert [r.model for r in rows] == ["best.safetensors", "model.engine"]
    assert {r.arithmetic and r.arithmetic.macs_without_aux for r in rows} == {cost.macs(model, SIZE, aux=False)}
    alien = tmp_path / "alien.engine"
    alien.write_bytes(b"engine")
    with pytest.raises(WeightsError, match="does not say which network it holds"):
        count([alien])
    assert "does not say which network it holds" in deployed(alien, SIZE).why
