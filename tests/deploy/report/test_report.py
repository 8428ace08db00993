"""Report of a made-up run: self-contained, complete, honest about what is missing."""

import hashlib
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from typer.testing import CliRunner

from kdc.cli import app
from kdc.deploy.bench.latency_record import LatencyRecord
from kdc.deploy.bench.memory import MemoryRecord, MemoryRow
from kdc.deploy.bench.plan import NotMeasured
from kdc.deploy.bench.record import Effort, Protocol
from kdc.deploy.bench.statistics import Ratio
from kdc.deploy.bench.throughput import Rates, ThroughputRecord, ThroughputRow
from kdc.deploy.machine.passport import Cpu, Passport
from kdc.deploy.report.report import collect, write_report
from kdc.distill import models
from kdc.distill.data import open_data
from kdc.distill.preprocess import IMAGENET
from kdc.distill.run.checkpoint import save_student, student_file
from kdc.distill.run.files import sha256, write_card
from kdc.distill.run.folder import Run
from kdc.distill.settings.config import Config

from ..._made import onnx_file
from ..._page import Page
from ..bench._rows import identity, latency_row, machine

SECTIONS = ("run", "accuracy", "pictures", "curves", "gates", "quantisation", "latency", "tradeoff", "cost")
SECTIONS += ("environment", "commands")


def page_of(run: Run, **flags: Any) -> Page:
    return Page(write_report(run, collect(run, **flags)).read_text())


def scores(offset: float) -> dict[str, Any]:
    iou = [min(1.0, 0.9 - 0.06 * i + offset) for i in range(11)]
    values = {
        "miou": sum(iou) / 11,
        "miou_present": sum(iou) / 11,
        "boundary_miou": 0.3 + offset,
        "pixel_accuracy": 0.8 + offset,
    }
    return values | {"iou": iou, "images": 4, "label_pixels": [100 * (11 - i) for i in range(11)]}


def gate(stage: str, passed: bool = True) -> dict[str, Any]:
    """Return a row of an early ledger, which lacks what came later."""
    values = {"stage": stage, "file": f"{stage}.onnx", "passed": passed, "reasons": [] if passed else ["too far apart"]}
    values |= {"agreement": 0.99995, "tied": 0.0, "max_diff": 3.1e-6 if passed else "inf", "max_relative": 2e-7}
    values |= {"miou_reference": 0.612, "miou_candidate": 0.6118, "miou_drop": 0.02, "images": 4, "seconds": 1.0}
    values |= {"reference": "torch (cpu)", "candidate": "onnxruntime (CPU)", "data": "builtin val"}
    return values | {"tolerances": {"max_diff": 1e-4, "agreement": 0.9999, "miou_drop": None}}


def latency(device: str = "cpu") -> LatencyRecord:
    passport = Passport("now", "Linux", Cpu("Test CPU <9000>", 2, 4, ["avx2"], None, 0.5), 8.0, [], {})
    first, other = latency_row(identity("torch last")), latency_row(identity("model.onnx"))
    return LatencyRecord(
        mode="net",
        device=device,
        size=(64, 128),
        batch=1,
        threads=2,
        protocol=Protocol(),
        backends=[first, replace(other, ratio=Ratio("torch last", 2.06, 2.01, 2.12))],
        not_measured=[NotMeasured("model.engine", "not measured: needs a GPU")],
        flags=["the machine was busy"],
        passport=passport,
        load_after=0.5,
        gpus_after=[],
    )


def metrics(offset: float) -> str:
    lines: list[dict[str, Any]] = [
        {"step": s, "stage": "kt:autoencoder", "loss": 2 / s, "task": {}, "terms": {}} for s in (1, 5, 9)
    ]
    for step in (1, 10, 20, 30):
        task, terms = {"ce": 2 / step, "aux": 1 / step}, {"kt.lt": 3 / step**2, "kt.ka": 0.4}
        line = {"step": step, "stage": "main", "lr": 0.01, "loss": 4 / step, "task": task, "terms": terms}
        lines += [line | {"weights": {"kt.lt": 2.0, "kt.ka": 0.9}}]
        if step > 1:
            lines += [{"step": step, "stage": "main", "val": {"miou": 0.01 * step + offset}}]
    return "".join(json.dumps(line) + "\n" for line in lines)


def make_run(root: Path, name: str, kind: str, seed: int, **card: Any) -> Run:
    data = open_data("builtin", "val", size=(48, 96), val_count=4)
    student = models.build("deeplabv3-mv2_035", 11, output_stride=16, seed=seed)
    source: dict[str, Any] = {"name": "builtin", "source": "builtin", "options": data.options}
    source |= {
        "classes": list(data.classes),
        "fingerprint": open_data("builtin", "train", **data.options).fingerprint(),
    }
    source |= {
        "palette": [list(c) for c in data.palette],
        "num_classes": 11,
        "size": [48, 96],
        "notes": list(data.notes),
    }
    run = Run.create(name, Config(), out=root / name, kind=kind, student=student.spec().to_dict(), data=source, **card)
    run.record(command=["kdc", kind, "--seed", str(seed), "--data", "it's <here>"])
    save_student(run.checkpoints / "best.safetensors", student, {})
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished distillation with everything that a run can have."""
    root = tmp_path_factory.mktemp("runs")
    teacher = make_run(root, "teacher", "teacher", 2, status="finished", final=scores(0.08))
    alone = make_run(root, "alone", "train", 1, status="finished", final=scores(0.0))
    (alone.path / "metrics.jsonl").write_text(metrics(0.0))
    file = student_file(teacher)
    card = {
        "name": "deeplabv3-mv2_035",
        "file": str(file),
        "sha256": sha256(file),
        "run": str(teacher.path),
        "source": "run teacher",
    }
    done = make_run(
        root,
        "distilled",
        "distill",
        1,
        method="kt",
        teacher=card,
        baseline=str(alone.path),
        parents=[str(teacher.path)],
    )
    done.record(status="finished", final=scores(0.031), terms={"kt.lt": "2.0"})
    (done.path / "metrics.jsonl").write_text(metrics(0.05))
    (done.path / "timing.jsonl").write_text('{"step": 1, "images_per_s": 12.5, "memory_mib": 800}\n')
    (done.path / "gates.json").write_text(
        json.dumps([gate("onnx-fp32"), gate("onnx-int8", passed=False), gate("onnx-fp16") | {"tied": 0.01234}])
    )
    done.bench.mkdir()
    (done.bench / "latency-20250101-000000.json").write_text(json.dumps(latency().to_dict()))
    on_gpu = latency("cuda")  # a later one must not take the place of the CPU's
    (done.bench / "latency-20250102-000000.json").write_text(json.dumps(on_gpu.to_dict()))
    return done


@pytest.fixture(scope="module")
def page(run: Run) -> Page:
    return page_of(run)


def test_the_page_is_one_file_without_scripts(page: Page) -> None:
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert set(SECTIONS) <= set(page.ids)
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)
    assert all(image.get("alt") for image in page.images)


def test_the_page_says_what_came_of_it(page: Page) -> None:
    for text in (
        "distilled from deeplabv3-mv2_035 with kt",
        "Generated images.",
        "+3.1 points of mIoU over the same student trained alone",
        "39 % of the way to its teacher",
        "mIoU along boundaries",
        "too far apart",
        "99.995",
        "and 1.234 ties",
        "batch 1, 2 threads",
        "batch 1, on the GPU",
        "2.06×",
        "not measured: needs a GPU",
        "the machine was busy",
        "Test CPU <9000>",
        "--data 'it'\"'\"'s <here>'",
        "12.5 images/s",
        "kt.lt",
        "kt:autoencoder",
    ):
        assert text in re.sub(r"\s+", " ", page.text), text


def test_every_role_has_its_pictures(page: Page) -> None:
    assert len(page.images) in (6, 12)
    kinds = [str(image["src"]).split(";")[0] for image in page.images[:6]]
    assert kinds == ["data:image/jpeg", *["data:image/png"] * 4, "data:image/jpeg"]


def test_the_low_precision_file_is_among_the_pictures(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path.parent, tmp_path / "runs")
    moved = Run(tmp_path / "runs" / "distilled")
    weights = {"w": np.random.default_rng(0).standard_normal((11, 3, 1, 1)).astype(np.float32)}
    layer = helper.make_node("Conv", ["image", "w"], ["logits"], name="layer")
    facts = {"kdc.preprocess": IMAGENET.to_dict(), "kdc.classes": list(moved.card.data.classes)}
    shape = {"logits": [1, 11, 48, 96]}
    file = moved.export / "model.int8.ort.onnx"
    onnx_file(file, [layer], {"image": [1, 3, 48, 96]}, shape, weights, facts=facts)

    page = collect(moved)
    for strip in page.strips:
        panels = {panel.name: panel for panel in strip.panels}
        assert list(panels)[-2:] == ["INT8 file", "errors"]
        own, others = panels["INT8 file"], [panels["distilled"].uri, panels["teacher"].uri]
        assert own.uri and own.uri not in others and own.score is not None

    # what cannot be run here is said, and the next one shown
    (moved.export / "model.fp8.trt.onnx").write_bytes(b"torn")
    file.rename(file.with_name("model.int8.trt.onnx"))
    page = collect(moved)
    assert "INT8 file" in [panel.name for panel in page.strips[0].panels]
    assert any("model.fp8.trt.onnx is not pictured" in note for note in page.notes)


def test_the_best_while_training_says_on_how_many_images(run: Run, tmp_path: Path) -> None:
    card = run.read()
    write_card(tmp_path, card | {"data": card["data"] | {"val_images": 500}})
    (tmp_path / "metrics.jsonl").write_text(
        "".join(
            json.dumps({"step": step, "stage": "main", "val": {"miou": miou, "images": 100}}) + "\n"
            for step, miou in ((10, 0.3), (20, 0.42), (30, 0.4))
        )
    )
    text = " ".join(page_of(Run(tmp_path), pictures=False).text.split())
    assert "Best while training42.0 % mIoU at step 20on 100 of the 500 validation images" in text

    # as training writes them, the lines do not count their images: the setting does
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "stage": "main", "val": {"miou": 0.3}}\n')
    config = {**card["config"], "train": {**card["config"]["train"], "val_images": 200}}
    write_card(tmp_path, {**card, "data": card["data"] | {"val_images": 500}, "config": config})
    text = " ".join(page_of(Run(tmp_path), pictures=False).text.split())
    assert "30.0 % mIoU at step 10on 200 of the 500 validation images" in text


def test_every_picture_enlarges_without_a_script(page: Page) -> None:
    assert page.tags.count("details") == page.tags.count("summary") == len(page.images) > 0


def test_the_headline_carries_its_caution(page: Page) -> None:
    text = re.sub(r"\s+", " ", page.text)
    assert "One seed, 4 images. Another seed gives another number; kdc compare --seeds 3 measures" in text
    # what is advised is a flag of that command
    assert "--seeds" in CliRunner().invoke(app, ["compare", "--help"]).output


def shipping(folder: Path) -> Run:
    """A run with files of two precisions, of which the larger is the faster."""
    for name in ("export", "bench", "checkpoints"):
        (folder / name).mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"kind": "train", "final": scores(0.0), "seed": 7}))
    run = Run(folder)
    rows = []
    for name, size in (("model.onnx", 5_200_000), ("model.int8.onnx", 1_600_000), ("model.fp16.onnx", 1_000_000)):
        (folder / "export" / name).write_bytes(name.encode().ljust(size, b"x"))
        digest = sha256(folder / "export" / name)
        change = {"file": name, "sha256": digest, "miou_reference": 0.61, "miou_candidate": 0.61 - size / 1e11}
        rows.append(gate(name, passed="fp16" not in name) | change)
    (folder / "gates.json").write_text(json.dumps(rows))
    return run


def timed(run: Run, p50: dict[str, float], seconds: float = 6.0, cv: float = 0.01, **values: Any) -> LatencyRecord:
    """A measurement of the run's checkpoint and files; ``p50`` is in milliseconds."""
    backends = []
    for name, ms in p50.items():
        file = run.export / name
        digest = sha256(file) if file.is_file() else ""
        backend = identity(name, runtime="torch" if name == "torch" else "onnxruntime", sha256=digest)
        row = latency_row(backend, cv=cv)
        backends.append(replace(row, times=replace(row.times, p50=ms)))
    return replace(latency(), backends=backends, protocol=Protocol(seconds=seconds), flags=[], **values)


def write(run: Run, name: str, record: LatencyRecord, age: int) -> None:
    path = run.bench / f"latency-{name}.json"
    path.write_text(json.dumps(record.to_dict()))
    os.utime(path, (1e9 - age, 1e9 - age))


def test_what_can_be_deployed_stands_beside_the_headline(tmp_path: Path) -> None:
    run = shipping(tmp_path)
    text = " ".join(page_of(run, pictures=False).text.split())
    assert "One seed (7), 4 images." in text
    # without a measurement the smallest; what failed its gate is not shipped, however small
    assert "model.int8.onnx1.6 MBspeed not measured0.00 points of mIoU on 4 images" in text
    write(run, "a", timed(run, {"torch": 1757.0, "model.onnx": 400.0, "model.int8.onnx": 278.9}), 0)
    text = " ".join(page_of(run, pictures=False).text.split())
    assert "model.int8.onnx1.6 MB6.3× the speed of its checkpoint in torch" in text and "model.onnx5.2 MB4" not in text
    assert "1.76 s" in text and "k ms" not in text
    write(run, "b", timed(run, {"torch": 1757.0, "model.onnx": 100.0, "model.int8.onnx": 300.0}), -1)
    shown = collect(run, pictures=False).shipped
    assert [file.file for file in shown] == ["model.onnx", "model.int8.onnx"]
    # a file that was made anew was neither gated nor timed
    (run.export / "model.int8.onnx").write_bytes(b"another")
    assert [file.file for file in collect(run, pictures=False).shipped] == ["model.onnx"]


def test_the_headline_has_the_ratio_of_the_table(tmp_path: Path) -> None:
    run = shipping(tmp_path)
    record = timed(run, {"torch": 61.1, "model.onnx": 1.59})
    own = replace(record.backends[1], ratio=Ratio("torch", 49.5, 31.1, 283.0))
    write(run, "a", replace(record, backends=[record.backends[0], own]), 0)
    text = " ".join(page_of(run, pictures=False).text.split())
    assert "50× the speed of its checkpoint" in text
    assert "49.5× 31.1–283" in text


def test_a_quick_or_noisy_measurement_does_not_replace_a_better_one(tmp_path: Path) -> None:
    run = shipping(tmp_path)
    both = {"torch": 10.0, "model.onnx": 5.0}

    def shown() -> list[str | None]:
        return [bench.shown.record for bench in collect(run, pictures=False).benches]

    write(run, "careful", timed(run, both), 5)
    write(run, "quick", timed(run, both | {"torch of teacher": 9.0}, seconds=0.5), 4)
    assert shown() == ["bench/latency-careful.json"]
    text = " ".join(page_of(run, pictures=False).text.split())
    assert "Newer, but not as careful, and so not shown: bench/latency-quick.json" in text
    write(run, "noisy", timed(run, both, cv=0.3), 3)
    assert shown() == ["bench/latency-careful.json"]
    write(run, "again", timed(run, both), 2)
    assert shown() == ["bench/latency-again.json"]
    # one that holds a file more, as it is now, says more, and one of another size is another kind
    write(run, "more", timed(run, both | {"model.int8.onnx": 3.0}, seconds=0.5), 1)
    write(run, "small", timed(run, both, size=(32, 32)), 0)
    assert shown() == ["bench/latency-more.json", "bench/latency-small.json"]


def test_a_quick_measurement_says_so(tmp_path: Path) -> None:
    run = shipping(tmp_path)
    write(run, "quick", timed(run, {"torch": 10.0, "model.onnx": 5.0}, seconds=0.5), 2)
    text = " ".join(page_of(run, pictures=False).text.split())
    assert "2× the speed of its checkpoint in torch (measured quickly)" in text
    assert "A quick measurement: 0.5 s a backend, where 6 are usual. Small differences may be chance; kdc bench" in text
    # what is advised takes its time, unless it is told not to
    write(run, "careful", timed(run, {"torch": 10.0, "model.onnx": 5.0}, seconds=Effort().seconds), 1)
    text = " ".join(page_of(run, pictures=False).text.split())
    assert "measured quickly" not in text and "A quick measurement" not in text


def test_what_has_no_score_has_no_column(run: Run, tmp_path: Path) -> None:
    write_card(tmp_path, run.read() | {"baseline": None, "teacher": None})
    page = page_of(Run(tmp_path), pictures=False)
    accuracy = page.text.partition("Whole validation images")[2].partition("Pictures")[0]
    assert accuracy and "not measured" not in accuracy and "student alone" not in page.text
    assert "change" not in accuracy and "teacher" not in accuracy


def test_rows_are_named_by_what_they_are(run: Run) -> None:
    page = collect(run, pictures=False)
    assert page.short("torch of alone") == page.short("torch", "alone") == "student alone, torch"
    assert page.short("model.onnx of distilled", "distilled") == "distilled, model.onnx"
    assert page.short("a.onnx of elsewhere", "elsewhere") == "a.onnx of elsewhere"


def test_equal_students_change_nothing(run: Run) -> None:
    # student and baseline of the fixture hold the same weights, so no image gained or lost
    page = collect(run)
    assert [s.why for s in page.strips] in (["the hardest", "typical"], ["the hardest and typical"])
    for strip in page.strips:
        panels = {p.name: p.uri for p in strip.panels}
        assert panels["student alone"] == panels["distilled"] != panels["teacher"]


def test_a_run_that_was_trained_on_is_set_beside_the_one_it_goes_on_from(run: Run) -> None:
    card = {"method": "kt", "teacher": run.read()["teacher"], "tuned_from": run.path.name}
    tuned = make_run(run.path.parent, "tuned", "qat", 1, **card)
    tuned.record(status="finished", final=scores(0.041))
    text = re.sub(r"\s+", " ", page_of(tuned).text)
    assert "trained on with rounding, taught by deeplabv3-mv2_035 with kt" in text
    assert "+1.0 points of mIoU over distilled, the run that it goes on from" in text
    assert "Trained on" in text and "student alone" not in text
    tuned.record(tuned_from="gone")
    assert "The run that it goes on from is not here" in re.sub(r"\s+", " ", page_of(tuned).text)


def test_a_bare_run_is_called_not_measured(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    page = page_of(Run(tmp_path))
    text = re.sub(r"\s+", " ", page.text)
    assert "This run is not finished" in text and "No accuracy was measured yet" in text
    assert text.count("Not measured.") >= 6
    assert page.images == []


def test_a_gate_of_another_file_is_not_shown_as_passed(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "fp16.onnx").write_bytes(b"network")
    rows = [gate("fp32") | {"sha256": "00"}, gate("fp16") | {"sha256": hashlib.sha256(b"network").hexdigest()}]
    (tmp_path / "gates.json").write_text(json.dumps(rows))
    text = page_of(Run(tmp_path)).text
    assert (text.count("✓ passed"), text.count("of another file")) == (2, 0)
    (tmp_path / "export" / "fp16.onnx").write_bytes(b"another")
    text = page_of(Run(tmp_path)).text
    assert (text.count("✓ passed"), text.count("of another file")) == (1, 1)


@pytest.mark.parametrize("text", ["{", '[{"stage": "onnx model"}]'])
def test_a_damaged_ledger_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "gates.json").write_text(text)
    assert collect(Run(tmp_path)).gates == []
    said = capsys.readouterr()
    left_out = r"the gates are left out|the gate 'onnx model' is left out: missing .*agreement"
    assert re.search(left_out, said.out + said.err)


def test_a_row_that_lacks_a_key_goes_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text("{}")
    lacking = {key: value for key, value in gate("fp16").items() if key != "images"}
    (tmp_path / "gates.json").write_text(json.dumps([gate("fp32"), lacking]))
    (kept,) = collect(Run(tmp_path)).gates
    assert kept.row.stage == gate("fp32")["stage"]
    said = " ".join("".join(capsys.readouterr()).split())
    assert f"the gate '{lacking['stage']}' is left out: missing" in said and "'images'" in said


def test_missing_data_and_weights_are_reported(run: Run, tmp_path: Path) -> None:
    card = run.read()
    card["baseline"] = None
    card["data"] |= {"source": "/nowhere/at/all"}
    card["teacher"] |= {"file": "/gone.safetensors"}
    write_card(tmp_path, card)
    save_student(tmp_path / "checkpoints" / "best.safetensors", models.rebuild(run.card.student), {})
    text = re.sub(r"\s+", " ", page_of(Run(tmp_path)).text)
    assert "No pictures: the data cannot be opened" in text and "/nowhere/at/all" in text
    assert "/gone.safetensors is missing" in text
    assert "The same student trained alone was not measured" in text


def test_changed_data_is_reported(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    changed = Run(tmp_path / "run")
    assert not any("has changed" in note for note in collect(changed).notes)
    changed.record(data=changed.card.data.to_dict() | {"fingerprint": "another"})
    assert any("the data has changed since this run" in note for note in collect(changed).notes)


def test_a_plain_training_has_no_teacher_columns(run: Run) -> None:
    text = page_of(Run(run.path.parent / "alone"), pictures=False).text
    assert "trained without a teacher" in text
    assert "student alone" not in text and "change" not in text
    assert "No pictures: they were not asked for" in text


def test_moved_runs_find_each_other(run: Run, tmp_path: Path) -> None:
    for name in ("moved", "alone"):
        (tmp_path / name).mkdir()
        source = run.path if name == "moved" else run.path.parent / "alone"
        card = json.loads((source / "run.json").read_text()) | {"baseline": "/old/place/alone"}
        write_card(tmp_path / name, card)
    assert collect(Run(tmp_path / "moved"), pictures=False).gain.points == pytest.approx(0.031)


def test_what_became_of_the_network_on_its_way_to_the_target(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for name in ("export", "bench"):
        (folder / name).mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"kind": "train"}))
    one = {"agreement": 0.99123, "miou": 0.5, "drop": 0.25}
    cost = {"nodes": 2, "without": one, "agreement": 0.125, "miou": None, "cost": 0.125}
    quantised = {"precision": "int8", "calibrator": "mse", "products": 59, "quantised_products": 58}
    quantised |= {"high": "fp16", "bytes_before": 5200000, "bytes_after": 1600000, "left_high": ["stem", "classifier"]}
    quantised |= {"reduced_range": True, "target": "trt", "images": 2}
    for name in ("model.int8.trt.onnx", "model.bf16.trt.onnx"):
        (folder / "export" / name).touch()
    # what failed its gate is gone, and nothing is told of it
    (folder / "export" / "model.fp8.trt.onnx.json").write_text(json.dumps({"fp8": quantised | {"calibrator": "lost"}}))
    facts = {"calibration": {"indices": [1, 2], "data": "camvid train", "audit": ["calibrated on 2 images"]}}
    (folder / "export" / "model.int8.trt.onnx.json").write_text(
        json.dumps(
            facts
            | {"int8": quantised, "calibrators": {"minmax": one | {"agreement": 0.98}, "mse": one}}
            | {"qat": {"layers": 57, "from": "the run before", "grid": "s8"}}
            | {
                "sensitivity": {"everything": one, "steps": [one | {"agreement": 0.995}], "rescued": ["stem"]}
                | {"costs": [cost | {"group": "stem"}, cost | {"group": "layer1.0"}], "holds": False, "keys": ["a"]}
            }
        )
    )
    cast = {"low": "bf16", "caster": "kdc", "half_nodes": 113, "float_nodes": ["mean"], "casts": 4, "clamped": {"w": 3}}
    cast |= {"largest": {"conv_9": 65000.0}, "overflowing": {"conv_9": 65000.0}}
    (folder / "export" / "model.bf16.trt.onnx.json").write_text(json.dumps(facts | {"cast": cast}))
    (folder / "export" / "model.fp16.engine").write_bytes(b"x" * 1500000)
    proof = {"by_time": {"fp16": 0.875, "fp32": 0.125}, "by_flops": None, "by_layers": {"fp16": 1.0}, "reasons": []}
    proof |= {"layers": 7, "reformat_layers": 0, "total_ms": 1.5}
    engine = {"precision": "fp16", "flavour": "tensorrt", "version": "10.16", "target": "sm90", "bytes": 1500000}
    (folder / "export" / "model.fp16.engine.json").write_text(json.dumps(engine | {"layers": 7, "proof": proof}))
    (folder / "export" / "model.int8.openvino.xml").write_bytes(b"x" * 2400000)
    network, rates = identity("ONNX model.onnx"), Rates.of([12.5])
    common = {"device": "cpu", "size": (64, 128), "threads": 2, "protocol": Protocol(), "not_measured": []}
    common |= {"flags": ["the machine was busy"], "passport": machine(0.5)}
    measured = ThroughputRecord(**common, rows=[ThroughputRow(network, 4, 2, rates, None)], best={})
    (folder / "bench" / "throughput-1.json").write_text(json.dumps(measured.to_dict()))
    held = MemoryRecord(**common, rows=[MemoryRow(network, 4, 30.0, 71.2, 133.4, None, None)])
    (folder / "bench" / "memory-1.json").write_text(json.dumps(held.to_dict()))
    page = page_of(Run(folder), pictures=False)
    assert {"#engines", "#throughput"} <= set(page.addresses)
    text = " ".join(page.text.split())
    for wanted in (
        "58 of 59 convolutions and matrix products in INT8, ranges by mse; the rest in fp16; 5.2 MB → 1.6 MB",
        "Weights have 7 bits", "Calibrated on 2 images of camvid train", "Trained with quantisation: 57 layers",
        "Left high: stem, classifier", "mse taken99.12350.000.25", "with 1 group left high, 99.500 %",
        "The limits still do not hold", "stem+0.125not measuredleft high", "layer1.0+0.125",
        "113 nodes in bfloat16", "Kept in float32 for their range: conv_9", "set to its end: w",
        "tensorrt 10.16, sm90", "fp16 87.5 %, fp32 12.5 %", "export/model.int8.openvino.xml2.4 MB",
        "4212.5", "the machine was busy", "471.2 MiB133 MiB",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert "ranges by lost" not in text
