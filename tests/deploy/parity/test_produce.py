"""The road of a new file: nothing that fails, is stopped or is killed costs the file that was there before."""

import contextlib
import errno
import fcntl
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from kdc.deploy.artefacts.beside import Origin, golden_path, manifest_of, manifest_path, weights_beside, weights_of
from kdc.deploy.artefacts.ledger import read_gates, write_gate
from kdc.deploy.artefacts.manifest import Manifest, Record
from kdc.deploy.parity import produce as road
from kdc.deploy.parity.golden import read_golden
from kdc.deploy.parity.produce import Product, Ran, Trial, produce
from kdc.deploy.parity.result import GateResult
from kdc.deploy.parity.tolerances import Tolerances
from kdc.distill.errors import ExportError, NumbersError, UsageError, WeightsError
from kdc.distill.run.files import sha256
from kdc.distill.run.folder import Run
from kdc.distill.run.lock import held
from kdc.distill.run.places import MARK
from kdc.distill.run.stale import stale, stale_files
from kdc.distill.settings.config import Config

from ..._made import gate_result

OLD, NEW = b"the earlier file", b"the new file"


@dataclass(frozen=True, kw_only=True)
class Plain(Manifest):
    runs: bool = True
    weights: Origin | None = None
    ran: Record | None = None
    gate: Record | None = None

    @property
    def runs_here(self) -> bool:
        return self.runs


@pytest.fixture
def run(tmp_path: Path) -> Run:
    data = {"source": "builtin", "options": {"size": [32, 64], "val_count": 1}}
    (tmp_path / "run.json").write_text(json.dumps({"data": data}))
    (tmp_path / "config.yaml").write_text(Config().to_yaml())
    return Run(tmp_path)


@pytest.fixture(autouse=True)
def gated(monkeypatch: pytest.MonkeyPatch) -> list[GateResult]:
    """Let every file pass its gate, or do what is put into this list."""
    results = [gate_result()]

    def gate_file(new: Path, trial: Trial, dataset: Any) -> tuple[GateResult, Ran]:
        return replace(results[-1], sha256=sha256(new)), Ran("numpy", "fp32", None)

    monkeypatch.setattr(road, "_gate_file", gate_file)
    return results


def writing(content: bytes, runs: bool = True) -> Callable[[Path], Plain]:
    def write(path: Path) -> Plain:
        path.write_bytes(content)
        if (weights := weights_beside(path)) is not None:
            weights.write_bytes(b"weights of " + content)
        return Plain(file=path.name, sha256=sha256(path), kind="onnx", fit="pad", runs=runs, weights=weights_of(path))

    return write


def made(run: Run | None, path: Path, content: bytes = OLD, runs: bool = True, **other: Any) -> Product[Plain]:
    trial = Trial(Path("reference"), Tolerances(), "ask for help", left_high=["stem"])
    return produce(run, path, other.pop("write", writing(content, runs)), trial, **other)


def everything(run: Run) -> dict[str, bytes]:
    """Return all that is in a run but what says when."""
    files = {path for path in run.path.rglob("*") if path.is_file() and path.name != "run.json"}
    return {str(path.relative_to(run.path)): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_a_file_comes_with_all_that_belongs_to_it(run: Run, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = run.export / name
    made(run, path)
    product = made(run, path, NEW)
    assert path.read_bytes() == NEW and product.gate is not None
    assert manifest_of(path).gated and manifest_of(path).values["ran"] == {"provider": "numpy", "precision": "fp32"}
    assert json.loads(manifest_path(path).read_text()) == json.loads(json.dumps(product.manifest.to_dict()))
    (row,) = read_gates(run)
    assert (row.file, row.passed, row.values["sha256"], row.left_high) == (name, True, sha256(path), ["stem"])
    assert (read_golden(path).facts.artefact, read_golden(path).facts.sha256) == (name, sha256(path))
    weights = {"model.bin"} if name == "model.xml" else set()
    assert {each.name for each in run.export.iterdir()} == {name, f"{name}.json", f"{name}.golden.npz", *weights}
    assert Run(run.path).card.files[f"export/{name}"] == sha256(path)
    assert f"gate {row.stage}: passed" in capsys.readouterr().out


def test_a_failed_gate(run: Run, gated: list[GateResult]) -> None:
    path = run.export / "model.onnx"
    gated.append(gate_result(wrong=1.0))
    with pytest.raises(NumbersError, match=r"model\.onnx did not pass its gate and was not kept: .*; ask for help"):
        made(run, path)
    assert not list(run.export.iterdir()) and [row.passed for row in read_gates(run)] == [False]
    gated.append(gate_result())
    made(run, path)
    before = everything(run)
    gated.append(gate_result(wrong=1.0))
    with pytest.raises(NumbersError, match=r"was not kept; the earlier model\.onnx stays: .*; ask") as caught:
        made(run, path, NEW)
    assert everything(run) == before and caught.value.exit_code == 6
    (note,) = Run(run.path).card.notes
    assert f"{note}; ask for help" == str(caught.value), "the report tells it"


@pytest.mark.parametrize("stopped", [ExportError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["write", "gate"])
def test_an_error_or_ctrl_c(run: Run, where: str, stopped: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run.export / "model.xml"
    made(run, path)
    before = everything(run)

    def stop(new: Path, *_: Any) -> Any:
        writing(NEW)(new)
        raise stopped

    if where == "gate":
        monkeypatch.setattr(road, "_gate_file", stop)
    with pytest.raises(type(stopped)):
        made(run, path, NEW, write=stop if where == "write" else writing(NEW))
    assert everything(run) == before


def killed(work: Callable[[], Any]) -> None:
    """Do it in a child process that kills itself."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            work()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_a_kill_at_the_gate(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run.export / "model.onnx"
    made(run, path)
    before = everything(run)
    with monkeypatch.context() as patch:
        patch.setattr(road, "_gate_file", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        killed(lambda: made(run, path, NEW))
    (debris,) = run.export.glob(".kdc-new-*")
    assert {name: content for name, content in everything(run).items() if ".kdc-new-" not in name} == before
    run.seal()
    assert not [name for name in run.card.files if ".kdc-new-" in name]
    with held(debris, wait=False):
        made(run, run.export / "other.onnx")
        assert debris.exists(), "a living process holds it"
    made(run, run.export / "other.onnx")
    assert not debris.exists()


def test_nothing_of_the_users_is_taken_for_debris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in (".new-project", ".kdc-new-project", "elsewhere")]
    for folder in folders:
        folder.mkdir()
        (folder / "thesis.tex").write_text("years")
    (folders[2] / MARK).touch()
    (tmp_path / ".kdc-new-link").symlink_to(folders[2])
    (tmp_path / ".kdc-new-nowhere").symlink_to("nowhere")
    (tmp_path / ".kdc-new-file").write_text("stray")
    os.mkfifo(tmp_path / ".kdc-new-fifo")
    before = sorted(tmp_path.rglob("*"))
    made(None, tmp_path / "model.engine")
    assert [each for each in sorted(tmp_path.rglob("*")) if not each.name.startswith("model")] == before

    # nobody can tell whether a folder is held, or it is another user's
    debris = tmp_path / ".kdc-new-killed"
    debris.mkdir()
    (debris / MARK).touch()
    none = OSError(errno.ENOLCK, "no locks")
    for call, error in (("lock.fcntl.flock", none), ("places._remove_abandoned", PermissionError())):
        with monkeypatch.context() as patch:
            patch.setattr(f"kdc.distill.run.{call}", Mock(side_effect=error))
            made(None, tmp_path / "model.engine")
        assert debris.exists()
    made(None, tmp_path / "model.engine")
    assert not debris.exists() and (folders[2] / "thesis.tex").is_file()


@pytest.mark.parametrize("moves", range(4))
def test_a_kill_while_it_is_put_in_place(run: Run, moves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path, move, done = run.export / "model.xml", road.move, []
    made(run, path)

    def kill(source: Path, target: Path) -> None:
        if len(done) == moves:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(target.name)
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(road, "move", kill)
        killed(lambda: made(run, path, NEW))
    # weights, file, golden image, manifest: the earlier file is whole, or nothing vouches for what is there
    assert manifest_of(path).gated == (moves == 0)
    assert path.read_bytes() == (OLD if moves < 2 else NEW)
    (row,) = read_gates(run)
    assert (row.values["sha256"] == sha256(path)) == (moves >= 2)
    made(run, path, NEW)
    assert manifest_of(path).gated and not list(run.export.glob(".kdc-new-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_is_put_in_place_comes_afterwards(
    run: Run, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, move = run.export / "model.xml", road.move
    made(run, path)

    def stop(source: Path, target: Path) -> None:
        os.kill(os.getpid(), number)
        move(source, target)

    def handle(*_: Any) -> None:
        raise InterruptedError

    old = signal.signal(number, handle)
    try:
        with monkeypatch.context() as patch, pytest.raises(InterruptedError):
            patch.setattr(road, "move", stop)
            made(run, path, NEW)
        assert signal.getsignal(number) is handle
    finally:
        signal.signal(number, old)
    assert manifest_of(path).gated and path.read_bytes() == NEW and read_golden(path).facts.sha256 == sha256(path)
    (row,) = read_gates(run)
    assert row.values["sha256"] == sha256(path) and not list(run.export.glob(".kdc-new-*"))


@pytest.mark.parametrize("what", ["flush", "write_gate"])
def test_a_full_disk_costs_nothing(run: Run, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run.export / "model.xml"
    made(run, path)
    before = everything(run)
    monkeypatch.setattr(road, what, Mock(side_effect=OSError(errno.ENOSPC, "no space left")))
    with pytest.raises(OSError, match="no space left"):
        made(run, path, NEW)
    assert everything(run) == before


def test_writers_outside_of_a_run_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move, locked = road.move, []

    def tell(source: Path, target: Path) -> None:
        other = os.open(tmp_path, os.O_RDONLY)  # another open file, as another process has
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
        locked.append(target.name)
        move(source, target)

    monkeypatch.setattr(road, "move", tell)
    made(None, tmp_path / "model.engine")
    assert locked == ["model.engine", "model.engine.json"]
    with held(tmp_path, wait=False):
        pass


def test_a_file_that_cannot_run_here_is_not_gated(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = run.export / "model.engine"
    made(run, path)
    product = made(run, path, NEW, runs=False)
    assert product.gate is None and path.read_bytes() == NEW and manifest_of(path).values["kind"] == "onnx"
    assert not read_gates(run), "the row was about the earlier engine"
    assert not golden_path(path).exists() and capsys.readouterr().out.count("passed") == 1


def test_a_file_of_no_run(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    assert made(None, path).gate is None
    assert {each.name for each in tmp_path.iterdir()} == {"model.engine", "model.engine.json"}


def test_a_broken_ledger_is_said_before_any_work(run: Run) -> None:
    (run.path / "gates.json").write_text("[")
    with pytest.raises(WeightsError, match="cannot be read"):
        made(run, run.export / "model.onnx", write=lambda path: pytest.fail("it was written"))


def test_what_was_made_from_the_earlier_file_is_stale_until_it_is_dropped(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path, engine = run.export / "model.onnx", run.export / "model.engine"
    made(run, path)
    engine.write_bytes(b"plan")
    manifest_path(engine).write_text(json.dumps({"onnx": Origin(file=path.name, sha256=sha256(path)).to_dict()}))
    write_gate(run, "engine model", gate_result(), engine.name)
    made(run, path)
    assert stale_files(run.path) == {} and "stale" not in capsys.readouterr().out
    made(run, path, NEW)
    assert stale_files(run.path) == {engine: "model.onnx"} and stale(engine) == "model.onnx"
    assert "stale, since made from an earlier network: model.engine;" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UsageError, match=r"model\.engine is stale: it was made from an earlier model\.onnx"):
        produce(run, run.export / "other.onnx", writing(OLD), Trial(engine, Tolerances(), ""))
    made(run, path)  # as it was
    assert stale_files(run.path) == {}
    made(run, path, NEW, drop_stale=True)
    assert not engine.exists() and [row.file for row in read_gates(run)] == ["model.onnx"]
