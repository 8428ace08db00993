"""What fits where a run did not: a smaller batch, or else a smaller crop."""

import re

import pytest

from kdc import cli
from kdc.distill.probe.fitting import what_fits
from kdc.distill.probe.memory import estimate_memory
from kdc.distill.settings.config import resolve

SETTINGS = {"model.student": "deeplabv3-mv2_035", "train.batch": 64, "train.crop": (256, 256)}


@pytest.mark.parametrize("mib", [700, *(pytest.param(mib, marks=pytest.mark.process) for mib in (3000, 200))])
def test_what_fits_is_below_what_did_not(mib: int) -> None:
    said = what_fits(resolve(SETTINGS), mib << 20)
    assert f"{mib} MiB were free" in said
    found = re.search(r"--batch (\d+)(?: --crop (\d+)x(\d+))? fits", said)
    assert found
    batch, crop = int(found[1]), (int(found[2] or 256), int(found[3] or 256))
    assert batch < 64
    assert estimate_memory(resolve({**SETTINGS, "train.crop": crop}), batch, None).total <= mib


@pytest.mark.process
def test_nothing_fits() -> None:
    assert "take a smaller network" in what_fits(resolve(SETTINGS), 1 << 20)


def test_where_the_estimate_would_have_fitted_half_is_said() -> None:
    assert "--batch 32 fits" in what_fits(resolve(SETTINGS), 1 << 50)


def test_a_run_that_lacks_memory_says_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("kdc.distill.job.run_job", fail)
    monkeypatch.setattr("kdc.distill.probe.fitting.free_memory", lambda _: 3000 << 20)
    assert cli.run(["train", "--student", "deeplabv3-mv2_035", "--batch", "64", "--crop", "256x256"]) == 7
    err = capsys.readouterr().err
    assert "out of memory at --batch 64 --crop 256x256" in err and re.search(r"--batch \d+ fits", err)
