"""16-bit images whose cameras store fewer bits."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from kdc.distill.data import open_data
from kdc.distill.data._files import read_image
from kdc.distill.errors import DataError, UsageError
from kdc.export.runner import images as runner

from ._drawn import circles, write


@pytest.mark.parametrize(("stored", "read"), [(9, 10), (10, 10), (12, 12), (13, 14), (14, 14), (16, 16)])
def test_the_depth_is_found_once_for_all_images(tmp_path: Path, stored: int, read: int) -> None:
    root = write(tmp_path, circles(), bits=stored)
    dark = cv2.imread(str(tmp_path / "images/0.png"), cv2.IMREAD_UNCHANGED)
    assert dark is not None
    cv2.imwrite(str(tmp_path / "images/0.png"), dark // 8)  # a dark image stays dark beside the others
    train, val = open_data(root, "train"), open_data(root, "val")
    assert train.bits == val.bits == read == train.options["bits"]
    assert any(f"read as {read} bits" in note for note in train.notes)

    first = read_image(tmp_path / "images/1.png", read)
    raw = cv2.imread(str(tmp_path / "images/1.png"), cv2.IMREAD_UNCHANGED)
    assert raw is not None
    assert np.array_equal(first, (np.asarray(raw) // 2 ** (read - 8)).astype(np.uint8)[..., ::-1])
    again = open_data(train.source, "train", **train.options)
    assert again.fingerprint() == train.fingerprint()


def test_eight_bits_stay_as_they_are_and_have_no_depth(tmp_path: Path) -> None:
    data = open_data(write(tmp_path, circles()), "train")
    assert data.bits is None and "bits" not in data.options


def test_the_depth_can_be_said_and_is_checked(tmp_path: Path) -> None:
    root = write(tmp_path, circles(), bits=12)
    assert open_data(root, "train", bits=14).read(0)[0].max() <= 64
    with pytest.raises(DataError, match=r"12|which 10 bits do not hold .*data.bits=12"):
        open_data(root, "train", bits=10).read(0)
    assert open_data(root, "train", bits=12).read(0)[0].max() > 250
    with pytest.raises(UsageError, match="8 to 16"):
        open_data(root, "train", bits=24)


def test_a_bundle_reads_as_the_network_learned(tmp_path: Path) -> None:
    write(tmp_path, circles(1), bits=12)
    path = tmp_path / "images/0.png"
    assert np.array_equal(runner.read_image(path, 12), read_image(path, 12))
    assert not np.array_equal(runner.read_image(path), read_image(path, 12))
