"""No image of one split gets into another, however the folders and lists spell them."""

from pathlib import Path

import pytest

from kdc.distill.data import open_data, splits
from kdc.distill.data._check import check_data
from kdc.distill.errors import DataError

from ._drawn import circles, write


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/{}2017", "annotations/{}2017"),
        ("images/{}_2017", "labels/{}"),
        ("{}2017", "{}2017_masks"),
        ("{}_images", "{}_masks"),
        ("{}_images", "{}annot"),
        ("images/{}", "masks"),
        ("images", "masks/{}"),
        ("images/city/{}", "masks/city/{}"),
        ("{}/images", "{}/labels"),
    ],
)
@pytest.mark.parametrize("spelling", [("train", "val"), ("Train", "Val"), ("training", "validation"), ("trn", "valid")])
def test_splits_by_the_name_of_folders(tmp_path: Path, images: str, labels: str, spelling: tuple[str, str]) -> None:
    masks = circles(5)
    for split, part in zip(spelling, (masks[:3], masks[3:]), strict=True):
        write(tmp_path / split, part, images="i", labels="l", seed=len(split))
        for kind, where in (("i", images), ("l", labels)):
            folder = tmp_path / "data" / where.format(split)
            folder.mkdir(parents=True, exist_ok=True)
            for path in (tmp_path / split / kind).iterdir():
                path.rename(folder / f"{split}_{path.name}")
    root = str(tmp_path / "data")
    assert splits(root) == ["train", "val"]
    for split, name, count in zip(("train", "val"), spelling, (3, 2), strict=True):
        data = open_data(root, split)
        assert len(data) == count and data.labelled and all(name in data.key(i) for i in range(count))
    assert check_data(root).ok


def test_two_folders_of_one_split_ask_which(tmp_path: Path) -> None:
    for year in (2014, 2017):
        for split in ("train", "val"):
            write(tmp_path, circles(), images=f"images/{split}{year}", labels=f"labels/{split}{year}", seed=year)
    with pytest.raises(DataError, match=r"train2014, train2017: which is train\?") as error:
        open_data(str(tmp_path), "train")
    assert "data.images=images/{split}2017" in str(error.value)
    cured = check_data(str(tmp_path), images="images/{split}2017", labels="labels/{split}2017")
    assert cured.ok and cured.images == {"train": 6, "val": 6}


def test_folders_that_are_no_split_are_left_out_aloud(tmp_path: Path) -> None:
    for split in ("train", "val", "surplus"):
        write(tmp_path, circles(), images=f"images/{split}", labels=f"labels/{split}", seed=len(split))
    data = open_data(str(tmp_path), "train")
    assert any("surplus left out" in note for note in data.notes)


@pytest.mark.parametrize("prefix", ["", "/", "/SegNet/CamVid/", "SegNet/CamVid/"])
def test_lists_of_another_machine(tmp_path: Path, prefix: str) -> None:
    write(tmp_path, circles(), images="frames", labels="truth")
    for split, numbers in (("train", range(4)), ("val", range(4, 6))):
        rows = [f"{prefix}frames/{i}.png {prefix}truth/{i}.png" for i in numbers]
        (tmp_path / f"{split}.txt").write_text("\n".join(rows))
    images = "{split}.txt"
    report = check_data(str(tmp_path), images=images)
    assert report.ok and report.images == {"train": 4, "val": 2} and len(report.classes) == 3

    (tmp_path / "val.txt").write_text("/nowhere/7.png /nowhere/7.png\n")
    with pytest.raises(DataError, match=r"names 2 files that are neither there nor below .*, such as /nowhere/7.png"):
        open_data(str(tmp_path), "val", images=images)


def test_a_line_of_a_list_means_one_image(tmp_path: Path) -> None:
    for drive in ("a", "b"):
        write(tmp_path, circles(), images=f"images/{drive}", labels=f"labels/{drive}", seed=ord(drive))
    (tmp_path / "train.txt").write_text("0\n")
    with pytest.raises(DataError, match=r"0 is both .*: write the folder into the list"):
        open_data(str(tmp_path), "train")
    (tmp_path / "train.txt").write_text("a/0\n/b/1.png\n")
    data = open_data(str(tmp_path), "train")
    assert [data.key(i) for i in range(len(data))] == ["a/0", "b/1"]


def test_xml_beside_the_masks_is_not_taken_for_them(tmp_path: Path) -> None:
    write(tmp_path, circles(), images="JPEGImages", labels="SegmentationClass")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/0.xml").write_text("<annotation/>")
    assert open_data(str(tmp_path), "train").labelled
