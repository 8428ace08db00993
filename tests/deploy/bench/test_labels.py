"""What an evaluation says of labels that make its scores say little, and which options describe its data."""

from pathlib import Path

import numpy as np
import pytest

from kdc.deploy.bench.accuracy import evaluate_source
from kdc.deploy.bench.evaluation_data import EvaluationData
from kdc.distill import console
from kdc.distill.data._check import check_data
from kdc.distill.errors import DataError, UsageError

from ..._made import chain
from ...distill.data._drawn import circles, write


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return chain(tmp_path / "net.onnx", size=(48, 64))


def test_eval_warns_as_the_check_does(tmp_path: Path, network: Path) -> None:
    root = write(tmp_path / "data", circles(), lambda mask: np.where(np.arange(64) < 40, 255, mask).astype(np.uint8))
    console.notes.clear()
    result = evaluate_source(network, EvaluationData(root, classes=3))
    ours = [line for line in check_data(root, classes=3).warnings if line.endswith("of val are ignored")]
    assert len(ours) == 1 and set(ours) <= set(console.notes)
    assert result.scores.ignored == 40 * 48 and result.scores.labelled == 24 * 48


def test_nothing_labelled_is_no_score(tmp_path: Path, network: Path) -> None:
    root = write(tmp_path / "data", circles(), lambda mask: np.full_like(mask, 255))
    with pytest.raises(DataError, match=r"no pixel of val of data is labelled: there is nothing to score"):
        evaluate_source(network, EvaluationData(root, classes=3))


def test_settings_describe_the_data_and_nothing_else(tmp_path: Path, network: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / "data", circles(), images=f"{split}/photos", labels=f"{split}/truth", seed=len(split))
    root = str(tmp_path / "data")
    sets = ["data.images={split}/photos", "data.labels={split}/truth"]
    assert evaluate_source(network, EvaluationData(root, sets=sets)).scores.images == 6
    for data, text, error in (
        (root, "train.lr=1", "is about no data"),
        (root, "data.split=test", "the command has an argument or flag for that"),
        (None, "data.bits=12", "name the data too"),
    ):
        with pytest.raises(UsageError, match=error):
            evaluate_source(network, EvaluationData(data, sets=[text]))
