"""Records of measurements are read as what they were written as, whichever kdc wrote them."""

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdc.deploy.bench.latency import time_plan
from kdc.deploy.bench.latency_record import LatencyRecord, OnGpu
from kdc.deploy.bench.memory import MemoryRecord, MemoryRow
from kdc.deploy.bench.plan import NotMeasured
from kdc.deploy.bench.record import EFFORT, Protocol, check_place, newest, records
from kdc.deploy.bench.statistics import PartTimes
from kdc.deploy.bench.throughput import Best, Rates, ThroughputRecord, ThroughputRow
from kdc.deploy.bench.tradeoff import TradeoffRecord
from kdc.deploy.bench.tradeoff_chart import TradeoffRow
from kdc.deploy.machine.gpu_meter import GpuUse, Spread
from kdc.distill.run.folder import Run
from kdc.distill.run.records import Record

from ._rows import identity, latency_row, machine

COMMON: dict[str, Any] = {
    "device": "cpu",
    "size": (64, 128),
    "threads": 2,
    "protocol": Protocol(rounds=3, codec="jpg"),
    "not_measured": [NotMeasured("model.engine", "not measured: needs a GPU")],
    "flags": ["the machine was busy"],
    "passport": machine(0.5),
}
USE = GpuUse(Spread(1.0, 2.0, 3.0), None, None, 60.0, None, ["power cap"], 0.5, 7)
RATES = Rates.of([10.0, 12.5])
POINT = TradeoffRow("torch", "run", "fp32", "torch cpu", 0.5, 0.5, None, 0.9, 8.0, 9.0, 125.0, None, 1.5, 4.2, {})
RECORDS: dict[str, Record] = {
    "latency": LatencyRecord(
        **COMMON,
        mode="e2e",
        batch=1,
        backends=[
            latency_row(identity("a", tf32=True), parts={"compute": PartTimes(1.0, 2.0)}),
            latency_row(identity("b", buffers="torch", cuda_graph=True), on_gpu=OnGpu(USE, None)),
        ],
        load_after=0.7,
        gpus_after=[],
    ),
    "throughput": ThroughputRecord(
        **COMMON, rows=[ThroughputRow(identity("a"), 4, 2, RATES, None)], best={"a": Best(12.5, 4, 2)}
    ),
    "memory": MemoryRecord(**COMMON, rows=[MemoryRow(identity("a"), 1, 30.0, 71.2, 133.4, None, 5.0)]),
    "tradeoff": TradeoffRecord(
        **{key: value for key, value in COMMON.items() if key != "protocol"},
        batch=1,
        data="camvid",
        split="val",
        images=3,
        rows=[POINT],
        latency_record=None,
    ),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_is_read_as_it_was_written(kind: str) -> None:
    record = RECORDS[kind]
    values = json.loads(json.dumps(record.to_dict()))
    assert type(record).from_dict(values) == record
    assert type(record).from_dict(values | {"samples_ms": [[1.0]], "of tomorrow": 1}) == record


def test_a_record_of_an_older_kdc_lacks_what_came_later() -> None:
    values = RECORDS["tradeoff"].to_dict()
    del values["latency_record"], values["rows"][0]["gflops"]
    assert TradeoffRecord.from_dict(values) == RECORDS["tradeoff"]


def test_a_damaged_record_is_left_out_and_named(tmp_path, capsys) -> None:
    (tmp_path / "run.json").write_text("{}")
    run = Run(tmp_path)
    assert newest(run, "memory-*.json", MemoryRecord) is None
    run.bench.mkdir()
    whole = RECORDS["memory"].to_dict()
    for name, text in {"1": json.dumps(whole), "2": "{", "3": "[]", "4": json.dumps(whole | {"rows": [{}]})}.items():
        (run.bench / f"memory-{name}.json").write_text(text)
    (record,) = records(run, "memory-*.json", MemoryRecord)
    assert record.rows == MemoryRecord.from_dict(whole).rows and record.record == "bench/memory-1.json"
    said = capsys.readouterr()
    assert all(f"memory-{n}.json is left out" in "".join((said.out + said.err).split("\n")) for n in (2, 3, 4))


def test_a_place_is_tried_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_place(None, tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        check_place(None, tmp_path / "file")

    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path))

    monkeypatch.setattr("kdc.deploy.bench.record.tempfile.TemporaryFile", refuse)
    with pytest.raises(OSError, match="Read-only"):
        time_plan(SimpleNamespace(home=None), EFFORT, tmp_path)  # pyright: ignore[reportArgumentType]
