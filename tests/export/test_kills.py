"""Kills at random moments of ``export``, ``calib`` and ``report``: what was proven before is whole after every one."""

import contextlib
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdc.deploy.artefacts.beside import manifest_of
from kdc.deploy.parity.golden import check_golden
from kdc.deploy.runtimes.open import open_runtime
from kdc.distill.run.folder import Run
from kdc.distill.run.places import BESIDE
from kdc.distill.run.seal import check_run

from .._warm import Command

#: kills of each command
KILLS = 10
INT8 = ["--to", "int8", "--for", "ort", "--images", "8", "--agreement", "0.5"]


def whole_files(*names: str) -> Callable[[Run], None]:
    """Return a check that exported files are whole, gated, and give the mask of their golden image."""

    def check(run: Run) -> None:
        for path in [run.export / name for name in names]:
            assert manifest_of(path).gated and check_golden(path).passed
            open_runtime(path).close()

    return check


def whole_page(run: Run) -> None:
    assert (run.path / "report.html").read_text().rstrip().endswith("</html>")
    whole_files("model.onnx")(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "flags", "check"),
    [
        (["export", "onnx"], ["--images", "2"], whole_files("model.onnx")),
        (["calib"], INT8, whole_files("model.onnx", "model.int8.ort.onnx")),
        (["report"], [], whole_page),
    ],
    ids=["export", "calib", "report"],
)
def test_what_was_proven_is_whole_after_a_kill_at_any_moment(
    gated_run: Run, tmp_path: Path, command: list[str], flags: list[str], check: Callable[[Run], None]
) -> None:
    words = [*command, str(gated_run.path), *flags]
    for _ in range(2):  # the first one waits for the process that others are forked off
        start = time.monotonic()
        first = Command(words, tmp_path)
        _, errors = first.communicate()
        assert first.returncode == 0, errors
    lasts, moments = time.monotonic() - start, random.Random(command[0])
    check(gated_run)

    killed = 0
    for _ in range(KILLS):
        process = Command(words, tmp_path)
        time.sleep(moments.uniform(0.0, lasts))
        with contextlib.suppress(ProcessLookupError):  # it was faster this time
            process.send_signal(signal.SIGKILL)
        process._process.join(60)
        killed += process.returncode == -signal.SIGKILL
        run = Run(gated_run.path)
        assert not check_run(run.path).faults
        check(run)
    assert killed >= KILLS // 2

    last = Command(words, tmp_path)
    _, errors = last.communicate()
    assert last.returncode == 0, errors
    check(Run(gated_run.path))
    assert not [*gated_run.path.rglob(f"{BESIDE}*"), *gated_run.path.rglob(".*.[0-9]*")]
    shutil.rmtree(gated_run.path)
