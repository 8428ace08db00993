"""What is known of the data before a run folder is made: problems stop it, warnings are passed on."""

from pathlib import Path

import numpy as np
import pytest

from kdc.distill import console, job
from kdc.distill.data._check import check_data
from kdc.distill.errors import DataError, UsageError
from kdc.distill.settings.config import Config, resolve
from kdc.distill.training.dataset import open_checked

from ..data._drawn import circles, write

TINY = {
    "train.iters": 2,
    "train.batch": 2,
    "train.crop": (32, 32),
    "train.threads": 1,
    "model.student": "pspnet-mv2_035",
    "method.name": "none",
}


def config(root: str, **changes: object) -> Config:
    return resolve({**TINY, "data.source": root, **{key.replace("__", "."): value for key, value in changes.items()}})


def test_train_says_what_the_check_warns_of(tmp_path: Path) -> None:
    def mostly_ignored(mask: np.ndarray) -> np.ndarray:
        return np.where(np.arange(64) < 40, 255, 0 * mask).astype(np.uint8)

    root = write(tmp_path, circles(), mostly_ignored)
    warnings = check_data(root, classes=2, ignore_index=255).warnings
    assert len(warnings) == 5  # train and val: ignored, one class; one is never seen
    console.notes.clear()
    open_checked(config(root, data__classes=2, data__ignore_index=255), decode=True)
    assert set(warnings) <= set(console.notes)


def test_data_without_a_labelled_pixel_make_no_run(tmp_path: Path) -> None:
    root = write(tmp_path / "data", circles(), lambda mask: np.full_like(mask, 255))
    with pytest.raises(DataError, match=r"nothing to learn but from a teacher alone.*task.weight=0"):
        job.run_job(config(root, data__classes=2), root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UsageError, match="nothing to learn without a teacher"):
        job.run_job(config(root, data__classes=2, task__weight=0.0), root=tmp_path / "runs")

    # the cure: a teacher alone
    labelled = write(tmp_path / "labelled", circles(classes=2))
    teacher = job.run_job(config(labelled, data__classes=2), root=tmp_path / "runs")
    distil = {"method.name": "naive", "model.teacher": str(teacher.path), "task.weight": 0.0}
    run = job.run_job(config(root, data__classes=2, **distil), root=tmp_path / "runs")
    assert run.card.status == "finished" and run.card.final is None
    assert all(line["loss"] > 0 and sum(line["task"].values()) == 0 for line in run.records())


def test_a_val_without_a_labelled_pixel_has_no_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, value in (("train", 0), ("val", 255)):
        blank = value == 255
        write(tmp_path / "data", circles(), lambda mask, blank=blank: np.full_like(mask, 255) if blank else mask, images=f"images/{split}", labels=f"labels/{split}", seed=value)  # fmt: skip  # noqa: E501
    run = job.run_job(config(str(tmp_path / "data"), data__classes=3), root=tmp_path / "runs")
    said = capsys.readouterr().out
    assert "no pixel of val is labelled" in said and "mIoU" not in said
    assert run.card.final is None and run.card.status == "finished"
