"""The checker lists everything that is wrong, and training refuses what it lists."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from kdc.distill.data import BadSample, open_data
from kdc.distill.data._check import check_data
from kdc.distill.data._loader import Order, TrainSamples, loader
from kdc.distill.errors import DataError

from ._drawn import circles, write


def make(root: Path, count: int = 4, size: tuple[int, int] = (24, 32)) -> Path:
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        cv2.imwrite(str(root / f"images/{i}.jpg"), rng.integers(0, 256, (*size, 3), np.uint8))
        cv2.imwrite(str(root / f"labels/{i}.png"), rng.integers(0, 3, size, np.uint8))
    return root


def cut(path: Path, share: float = 0.6) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def test_sound_data_has_no_problems_and_a_true_histogram(tmp_path: Path) -> None:
    report = check_data(str(make(tmp_path)), classes=3)
    assert report.ok and not report.problems and not report.warnings
    assert sum(report.histogram) == 4 * 24 * 32 and report.ignored == 0 and report.present == [4, 4, 4]
    first = cv2.imread(str(tmp_path / "labels/0.png"), cv2.IMREAD_UNCHANGED)
    assert first is not None and report.to_dict()["ok"] is True


def test_every_problem_is_listed_with_file_value_and_cause(tmp_path: Path) -> None:
    make(tmp_path, 9)
    cut(tmp_path / "images/0.jpg")
    cut(tmp_path / "labels/1.png")
    cv2.imwrite(str(tmp_path / "labels/2.png"), np.zeros((32, 24), np.uint8))
    cv2.imwrite(str(tmp_path / "labels/3.png"), np.full((24, 32), 3, np.uint8))
    cv2.imwrite(str(tmp_path / "labels/4.png"), np.random.default_rng(0).integers(0, 9, (24, 32, 3), np.uint8))
    (tmp_path / "labels/5.png").unlink()
    (tmp_path / "images/6.jpg").write_text("no picture")
    (tmp_path / "images/7.jpg").write_bytes(b"")
    (tmp_path / "images/8.jpg").unlink()
    report = check_data(str(tmp_path), classes=3)
    found = {(Path(p.file).parent.name, Path(p.file).stem): (p.kind, p.value, p.hint) for p in report.problems}
    assert {place: kind for place, (kind, _, _) in found.items()} == {
        ("images", "0"): "truncated",
        ("labels", "1"): "truncated",
        ("labels", "2"): "size mismatch",
        ("labels", "3"): "label out of range",
        ("labels", "4"): "encoding",
        ("images", "5"): "missing partner",
        ("images", "6"): "unreadable",
        ("images", "7"): "truncated",
        ("labels", "8"): "missing partner",
    }
    assert found["labels", "2"][1] == "mask 32x24, image 24x32 (HxW)" and "EXIF" in found["labels", "2"][2]
    assert found["labels", "3"][1] == "3 in 768 pixels"
    assert "--ignore-index 3" in found["labels", "3"][2] and "--classes 4" in found["labels", "3"][2]
    with pytest.raises(DataError, match=r"missing partner.*kdc data check"):
        open_data(str(tmp_path), "train", classes=3)


@pytest.mark.parametrize("name", ["images/0.jpg", "labels/0.png"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_training_refuses_truncated_files(tmp_path: Path, name: str, share: float) -> None:
    make(tmp_path, 1)
    cut(tmp_path / name, share)
    data = open_data(str(tmp_path), "all", classes=3)
    with pytest.raises(BadSample, match="truncated") as caught:
        data.read(0)
    assert name in str(caught.value)
    with pytest.raises(DataError, match="truncated"):
        next(iter(loader(TrainSamples(data, 0, (8, 8)), Order(1, 2, 0, 0, 1))))


def test_a_jpeg_with_a_thumbnail_is_still_seen_to_be_truncated(tmp_path: Path) -> None:
    make(tmp_path, 1)
    path = tmp_path / "images/0.jpg"
    data = path.read_bytes()
    thumbnail = b"Exif\0\0" + data[:400] + b"\xff\xd9"
    whole = data[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2) + thumbnail + data[2:]
    path.write_bytes(whole + b"trailing bytes of a camera maker")
    assert open_data(str(tmp_path), "all", classes=3).read(0)[0].shape == (24, 32, 3)
    path.write_bytes(whole[: len(whole) // 2 + 300])
    with pytest.raises(BadSample, match="truncated"):
        open_data(str(tmp_path), "all", classes=3).read(0)


def test_an_ignore_id_that_was_not_named_is_suggested(tmp_path: Path) -> None:
    make(tmp_path, 1)
    cv2.imwrite(str(tmp_path / "labels/0.png"), np.full((24, 32), 255, np.uint8))
    problem = check_data(str(tmp_path), classes=3, ignore_index=3).problems[0]
    assert problem.hint == "an ignore id? --ignore-index 255"


def test_unseen_classes_and_empty_masks_are_warnings(tmp_path: Path) -> None:
    make(tmp_path, 2)
    cv2.imwrite(str(tmp_path / "labels/1.png"), np.full((24, 32), 255, np.uint8))
    report = check_data(str(tmp_path), classes=5)
    assert report.ok
    assert {"class 3 (class3) is never seen", "class 4 (class4) is never seen"} <= set(report.warnings)
    assert any("every pixel is ignored" in warning for warning in report.warnings)


def test_jpeg_masks_are_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path, 2)
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"labels/{i}.jpg"), np.zeros((24, 32), np.uint8))
        (tmp_path / f"labels/{i}.png").unlink()
    assert {p.kind for p in check_data(str(tmp_path), classes=3).problems} == {"encoding"}
    with pytest.raises(DataError, match="a JPEG mask"):
        check_data(str(tmp_path))


def test_the_report_can_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path)
    cut(tmp_path / "labels/1.png")
    check_data(str(tmp_path), classes=3).show()
    shown = capsys.readouterr().out
    assert "labels/1.png" in shown and "truncated" in shown and "1 problems" in shown


def test_the_built_in_data_is_sound() -> None:
    report = check_data("builtin", size=(32, 64), count=20, val_count=5)
    assert report.ok and report.images == {"train": 20, "val": 5, "test": 5}


def test_images_in_two_splits_are_seen_whatever_their_file(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path, circles(), images=f"images/{split}", labels=f"labels/{split}", seed=len(split))
    assert not check_data(str(tmp_path)).warnings
    picture = cv2.imread(str(tmp_path / "images/train/2.png"))
    assert picture is not None
    cv2.imwrite(str(tmp_path / "images/val/4.png"), picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    (warning,) = check_data(str(tmp_path)).warnings
    assert warning.startswith("1 image of val is in train too: val 4 = train 2")


def test_two_images_of_one_name_are_a_problem(tmp_path: Path) -> None:
    make(tmp_path, 2)
    cv2.imwrite(str(tmp_path / "images/1.png"), np.zeros((24, 32, 3), np.uint8))
    (problem,) = check_data(str(tmp_path), classes=3).problems
    assert problem.kind == "two images of one name" and {Path(problem.file).name, Path(problem.value).name} == {
        "1.jpg",
        "1.png",
    }
    Path(problem.file).unlink()  # the cure
    assert check_data(str(tmp_path), classes=3).ok


@pytest.mark.parametrize(("share", "warned"), [(0.002, True), (0.05, False)])
def test_one_class_with_nearly_all_pixels_is_a_warning(tmp_path: Path, share: float, warned: bool) -> None:
    def rare(mask: np.ndarray) -> np.ndarray:
        return (np.arange(mask.size).reshape(mask.shape) < share * mask.size).astype(np.uint8)

    warnings = check_data(write(tmp_path, circles(), rare), classes=2).warnings
    assert warnings == (["class 0 (class0) has 99.8 % of the labelled pixels of train", "class 0 (class0) has 99.8 % of the labelled pixels of val"] if warned else [])  # fmt: skip  # noqa: E501


def test_many_unseen_classes_are_one_line(tmp_path: Path) -> None:
    (warning,) = check_data(write(tmp_path, circles()), classes=20).warnings
    assert warning.startswith("17 of 20 classes are never seen: 3 (class3), 4 (class4)")
