"""CamVid: recognised by layout and frame names, id 11 ignored, and the real files where they are at hand."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdc.distill.data import IGNORE, open_data, recipe, splits
from kdc.distill.data._check import check_data
from kdc.distill.errors import DataError

SHARED = Path(os.environ.get("KDC_SHARED", Path(__file__).parents[4] / "shared"))


def frames(images: Path, labels: Path, count: int = 2) -> None:
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for i in range(count):
        label = np.full((12, 16), i, np.uint8)
        label[0] = 11
        cv2.imwrite(str(images / f"0016E5_{i:05d}.png"), np.full((12, 16, 3), (10, 20, 30), np.uint8))
        cv2.imwrite(str(labels / f"0016E5_{i:05d}.png"), label)


@pytest.mark.parametrize("layout", ["images/{}:labels/{}", "{}:{}annot"])
def test_both_layouts_are_recognised(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "val"):
        images, labels = layout.format(*[split] * 2).split(":")
        frames(tmp_path / images, tmp_path / labels)
    data = open_data(str(tmp_path), "train")
    assert data.name == "camvid" and len(data) == 2 and data.num_classes == 11
    assert splits(str(tmp_path)) == ["train", "val"]
    assert recipe(str(tmp_path))["train.crop"] == (360, 360)
    image, label = data.read(1)
    assert label is not None and (label[0] == IGNORE).all() and (label[1:] == 1).all()
    assert image[0, 0].tolist() == [30, 20, 10]  # RGB
    again = open_data(data.source, "train", **data.options)
    assert again.fingerprint() == data.fingerprint()
    monkeypatch.setenv("CAMVID", str(tmp_path))
    assert open_data("camvid", "val").key(0) == "0016E5_00000"


def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAMVID", raising=False)
    with pytest.raises(DataError, match="CAMVID"):
        open_data("camvid", "train")
    with pytest.raises(DataError, match="no CamVid in"):
        open_data("camvid", "train", root=str(tmp_path))
    frames(tmp_path / "images/train", tmp_path / "labels/train")
    with pytest.raises(DataError, match="splits there: train"):
        open_data(str(tmp_path), "test")
    (tmp_path / "labels/train/0016E5_00001.png").unlink()
    with pytest.raises(DataError, match="missing partner"):
        open_data(str(tmp_path), "train")


def test_a_split_without_labels_can_be_read_but_is_not_labelled(tmp_path: Path) -> None:
    frames(tmp_path / "images/train", tmp_path / "labels/train")
    frames(tmp_path / "images/test", tmp_path / "spare")
    data = open_data(str(tmp_path), "test")
    assert not data.labelled and data.read(0)[1] is None


@pytest.mark.skipif(not (SHARED / "data/camvid").is_dir(), reason="the shared CamVid is not at hand")
def test_the_real_files() -> None:
    root = str(SHARED / "data/camvid")
    train, val = open_data(root, "train"), open_data(root, "val")
    assert (train.name, len(train), len(val)) == ("camvid", 367, 101)
    image, label = val.read(0)
    assert label is not None and image.shape == (360, 480, 3) and label.shape == (360, 480)
    assert not set(np.unique(label)) - {*range(11), IGNORE}
    report = check_data(root)
    assert report.ok and not report.warnings
    total = sum(report.histogram) + report.ignored
    assert total == 468 * 360 * 480
    # the shares of its README: train and val weighted by their numbers of frames
    assert report.histogram[3] / total == pytest.approx((31.66 * 367 + 28.95 * 101) / 46800, abs=1e-4)
    assert report.ignored / total == pytest.approx((3.95 * 367 + 1.70 * 101) / 46800, abs=1e-4)
