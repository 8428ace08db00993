"""The calibration set holds every class that the data hold."""

import numpy as np
import pytest

from kdc.calib.images import choose, greedy
from kdc.distill.data import Dataset
from kdc.distill.errors import DataError, UsageError


class Scenes(Dataset):
    """Images of class 0 only, but for one that holds class 1."""

    name, split, classes = "scenes", "train", ("sky", "pole", "ghost")

    def __init__(self, count: int, rare: int, labelled: bool = True) -> None:
        self.count, self.rare, self.labelled = count, rare, labelled

    def __len__(self) -> int:
        return self.count

    def key(self, i: int) -> str:
        return f"{i:03d}"

    def fingerprint(self) -> str:
        return "f"

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        label = np.zeros((4, 6), np.uint8)
        label[0] = 255
        label[1, 0] = 1 if i == self.rare else 0
        return np.zeros((4, 6, 3), np.uint8), label if self.labelled else None


def test_rare_class_comes_first_and_missing_one_is_said(capsys):
    chosen = choose(Scenes(40, rare=33), 3)
    assert chosen.indices[0] == 33
    assert len(set(chosen.indices)) == 3
    assert chosen.missing == ["ghost"]
    assert "no calibration image holds ghost" in capsys.readouterr().out
    assert chosen.coverage is not None
    assert sum(chosen.coverage) == pytest.approx(1)  # ignored pixels are no class
    assert chosen.keys[0] == "033"


def test_greedy_takes_scarce_classes():
    pixels = np.array([[100, 0, 0], [90, 10, 0], [95, 0, 5], [100, 0, 0]])
    assert set(greedy(pixels, 2)) == {1, 2}
    assert sorted(greedy(pixels, 9)) == [0, 1, 2, 3]  # no more than there are, none twice


def test_unlabelled_data_are_drawn_by_seed_and_that_is_said(capsys):
    data = Scenes(40, rare=0, labelled=False)
    one, same, other = (choose(data, 5, seed=seed).indices for seed in (0, 0, 1))
    assert one == same != other
    assert len(set(one)) == 5
    assert "scenes train has no labels: the images are drawn at random" in capsys.readouterr().out
    assert choose(data).coverage is None


def test_the_audit_counts_and_is_kept(capsys):
    few = choose(Scenes(40, rare=33), 3)
    assert len(few.audit) == 2 and "calibrated on 3 images, 128 or more are advised" in few.audit[1]
    assert few.to_dict()["audit"] == few.audit
    assert "128 or more" in capsys.readouterr().out
    enough = choose(Scenes(200, rare=33))
    assert len(enough.indices) == 128 and len(enough.audit) == 1  # of the ghost
    assert len(choose(Scenes(40, rare=3)).indices) == 40
    assert len(choose(Scenes(200, rare=3), 150, scan=10).indices) == 150  # as many labels are read as are needed


def test_refusals():
    with pytest.raises(UsageError, match="--images 0: at least 1 image"):
        choose(Scenes(4, 0), 0)
    with pytest.raises(DataError, match="split 'train' of scenes holds 4; ask for at most as many"):
        choose(Scenes(4, 0), 5)
    with pytest.raises(DataError, match="is empty"):
        choose(Scenes(0, 0), 1)


def test_the_fingerprint_is_of_every_pixel_that_was_chosen():
    class Changed(Scenes):
        def read(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
            image, label = super().read(i)
            image[2, 3, 1] = 7 * (i == 2)
            return image, label

    prints = [choose(data, 5).fingerprint for data in (Scenes(5, rare=0), Scenes(5, rare=1), Changed(5, rare=0))]
    assert prints[0] == prints[1] != prints[2]
