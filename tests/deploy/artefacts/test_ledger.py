"""The ledger, gates.json: what stands in it, and commands that write at once."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kdc.deploy.artefacts import ledger
from kdc.deploy.artefacts.ledger import GateRow, read_gates, write_gate
from kdc.distill.errors import WeightsError
from kdc.distill.run.folder import Run

from ..._made import gate_result


def test_ledger_keeps_one_entry_a_stage(tmp_path: Path) -> None:
    assert read_gates(tmp_path) == []
    write_gate(tmp_path, "onnx", gate_result(wrong=1.0))
    (tmp_path / "run.json").write_text("{}")
    write_gate(Run(tmp_path), "fp16", gate_result())
    write_gate(tmp_path, "onnx", gate_result(), file="model.onnx")
    entries = read_gates(tmp_path)
    assert [(e.stage, e.passed) for e in entries] == [("fp16", True), ("onnx", True)]
    assert entries[1].file == "model.onnx" and entries[1].values["tolerances"]["agreement"] == 0.9999


def test_commands_that_write_at_once_keep_each_others_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(folder: Path) -> list[ledger.GateRow]:
        entries = read_gates(folder)
        time.sleep(0.02)
        return entries

    monkeypatch.setattr(ledger, "read_gates", slowly)
    result = gate_result()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda i: write_gate(tmp_path, f"stage {i}", result, file=f"{i}.onnx"), range(6)))
    assert {entry.stage for entry in read_gates(tmp_path)} == {f"stage {i}" for i in range(6)}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: ledger.discard(tmp_path, [tmp_path / f"{i}.onnx"]), range(4)))
    assert {entry.file for entry in read_gates(tmp_path)} == {"4.onnx", "5.onnx"}
    assert [path.name for path in tmp_path.iterdir()] == ["gates.json"]


@pytest.mark.parametrize("text", ["[", "", "{}", "3", "[1]", '[{"file": "model.onnx"}]', "\0"])
def test_a_broken_ledger_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "gates.json").write_text(text)
    with pytest.raises(
        WeightsError, match=r"gates\.json cannot be read \(.+\); delete it, and kdc parity RUN"
    ) as caught:
        write_gate(tmp_path, "onnx", gate_result())
    assert caught.value.exit_code == 4 and (tmp_path / "gates.json").read_text() == text
    (tmp_path / "model.onnx").touch()
    with pytest.raises(WeightsError, match="cannot be read"):
        ledger.discard(tmp_path, [tmp_path / "model.onnx"])
    assert (tmp_path / "model.onnx").exists()


def test_a_line_fits_the_file_that_was_gated(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    row = GateRow({"stage": "onnx model", "file": path.name, "sha256": hashlib.sha256(b"gated").hexdigest()})
    assert row.fits(tmp_path), "nothing there is another file"
    path.write_bytes(b"gated")
    assert row.fits(tmp_path)
    path.write_bytes(b"another")
    assert not row.fits(tmp_path)
    assert GateRow({"stage": "int8", "file": path.name}).fits(tmp_path), "an old line has no hash"
    assert GateRow({"stage": "compiled"} | {"sha256": "00"}).fits(tmp_path)
