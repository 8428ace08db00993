"""Folders in which no masks are found: each says why, and the cure that it names works."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdc.distill.data._check import check_data
from kdc.distill.errors import DataError
from kdc.distill.settings.config import resolve
from kdc.distill.training.dataset import open_checked

from ._drawn import circles, write

POLYGON = [0.1, 0.1, 0.5, 0.1, 0.5, 0.5]


def pictures(root: Path, folder: str = "images") -> Path:
    """Write six images without masks."""
    write(root, circles(), images=folder, labels="gone")
    for path in (root / "gone").iterdir():
        path.unlink()
    (root / "gone").rmdir()
    return root


def each(root: Path, folder: str, suffix: str, text: str) -> None:
    (root / folder).mkdir(exist_ok=True)
    for i in range(6):
        (root / folder / f"{i}{suffix}").write_text(text)


def one(root: Path, file: str, value: object) -> None:
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(json.dumps(value))


COCO = {"images": [], "annotations": [{"segmentation": [[1, 1, 9, 1, 9, 9]], "category_id": 1}], "categories": []}
LABELME = json.dumps({"shapes": [{"label": "a", "points": [[1, 1], [9, 1], [9, 9]]}], "imagePath": "0.png"})


@pytest.mark.parametrize(
    ("write_labels", "said"),
    [
        (lambda r: each(r, "labels", ".txt", "0 " + " ".join(map(str, POLYGON)) + "\n"), "polygons in .txt files"),
        (lambda r: each(r, "labels", ".txt", "0 0.5 0.5 0.2 0.1\n1 0.1 0.1 0.1 0.1"), "boxes in .txt files"),
        (lambda r: one(r, "annotations/instances_train2017.json", COCO), "as COCO has them"),
        (lambda r: one(r, "images/_annotations.coco.json", COCO), "as COCO has them"),
        (lambda r: each(r, "images", ".json", LABELME), "as labelme writes them"),
        (lambda r: each(r, "Annotations", ".xml", "<annotation><object/></annotation>"), "boxes in XML"),
        (lambda r: each(r, "annotations", ".mat", "MATLAB 5.0"), "labels as .mat arrays"),
        (lambda r: None, "images that can be predicted alone"),
    ],
)
def test_other_forms_of_labels_are_named_and_nothing_is_made(
    tmp_path: Path, write_labels: Callable[[Path], None], said: str
) -> None:
    root = pictures(tmp_path / "data")
    write_labels(root)
    report = check_data(str(root))
    assert report.exit_code == 3 and said in str(report.problems[0]), report.problems
    for decode in (False, True):
        with pytest.raises(DataError, match=re.escape(said)):
            open_checked(resolve({"data.source": str(root)}), decode)

    # the cure: masks, drawn
    (root / "masks").mkdir()
    for i in range(6):
        mask = np.zeros((48, 64), np.uint8)
        cv2.fillPoly(mask, [(np.array(POLYGON).reshape(-1, 2) * (64, 48)).astype(np.int32)], 1)
        cv2.imwrite(str(root / f"masks/{i}.png"), mask)
    assert check_data(str(root)).exit_code == 0


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("pics", "truth"),
        ("{s}/pics", "{s}/truth"),
        ("Urban/pics", "Urban/truth"),
        ("data/{s}/pics", "data/{s}/truth"),
    ],
)
def test_masks_taken_for_images_are_named_with_a_cure(tmp_path: Path, images: str, labels: str) -> None:
    for split in ("train", "val") if "{s}" in images else ("",):
        folders = (text.replace("{s}", split) for text in (images, labels))
        write(tmp_path, circles(), **dict(zip(("images", "labels"), folders, strict=True)), seed=len(split))
    report = check_data(str(tmp_path))
    assert report.exit_code == 3 and report.problems[0].kind == "masks taken for images"
    settings = re.findall(r"--set '([^']*)'", report.problems[0].hint)
    cured = check_data(str(tmp_path), **dict(text.removeprefix("data.").split("=") for text in settings))
    assert cured.ok and len(cured.classes) == 3, settings


def test_masks_beside_their_images_under_a_strange_name_are_named(tmp_path: Path) -> None:
    write(tmp_path, circles(), images=".", labels="m")
    for path in sorted((tmp_path / "m").iterdir()):
        path.rename(tmp_path / f"{path.stem}-coded.png")
    report = check_data(str(tmp_path))
    assert report.exit_code == 3 and "0-coded.png looks like the mask of 0.png" in report.problems[0].value
    for path in tmp_path.glob("*-coded.png"):  # the cure
        path.rename(tmp_path / path.name.replace("-coded", "_mask"))
    assert check_data(str(tmp_path)).ok


def test_a_test_split_without_labels_is_no_problem(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path, circles(), images=f"images/{split}", labels=f"labels/{split}", seed=len(split))
    pictures(tmp_path, "images/test")
    assert check_data(str(tmp_path)).ok
