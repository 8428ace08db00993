"""The page about data cards: each of its examples describes data as it says; cards may lie anywhere."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdc.distill.commands.data import data_info
from kdc.distill.data import open_data
from kdc.distill.data._check import check_data
from kdc.distill.errors import DataError
from kdc.distill.settings.config import resolve
from kdc.distill.settings.layers import data_options

from ._drawn import circles, write

PAGE = (Path(__file__).resolve().parents[3] / "docs/data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
COLOURS = np.array([[0, 0, 0], [0, 255, 0], [255, 0, 0], [255, 255, 255]], np.uint8)


def numbers(root: Path) -> None:
    write(root, [np.where(mask == 3, 255, mask).astype(np.uint8) for mask in circles(classes=4)])


def own_folders(root: Path) -> None:
    for split in ("training", "val"):
        write(root, circles(), images=f"{split}/photos", labels=f"{split}/truth", seed=len(split))


def listed(root: Path) -> None:
    write(root, circles(), images="a", labels="b")
    for split, rows in (("train", range(4)), ("val", range(4, 6))):
        (root / f"{split}.lst").write_text("".join(f"/there/a/{i}.png /there/b/{i}.png\n" for i in rows))


MAKERS: list[Callable[[Path], object]] = [
    numbers,
    lambda root: write(root, circles(classes=2), lambda mask: np.array([0, 255], np.uint8)[mask]),
    lambda root: write(root, circles(classes=4), lambda mask: COLOURS[mask]),
    own_folders,
    listed,
    lambda root: write(root / "data", circles(), bits=11),
]


@pytest.mark.parametrize(("text", "make"), list(zip(EXAMPLES, MAKERS, strict=True)))
def test_the_examples_of_the_page_hold(tmp_path: Path, text: str, make: Callable[[Path], object]) -> None:
    make(tmp_path)
    card = tmp_path / ("card.yaml" if "root" in text else "kdc.yaml")
    card.write_text(text)
    report = check_data(str(card if "root" in text else tmp_path))
    assert report.ok and not report.warnings, report
    assert len(report.classes) == (2 if "crack" in text else 3) and all(report.present)
    assert ("bits" in text) == (open_data(str(card), "train").bits == 12)


def test_every_key_of_the_card_is_on_the_page() -> None:
    from kdc.distill.data._card import Options

    keys = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", PAGE, re.MULTILINE)
    assert {*Options.__dataclass_fields__, "root"} == {key for line in keys for key in re.findall(r"\w+", line)}


def test_a_card_elsewhere_is_laid_over_the_one_inside(tmp_path: Path) -> None:
    write(tmp_path / "disk", circles())
    (tmp_path / "disk/kdc.yaml").write_text("classes: [a, b, c]\nval_fraction: 0.5\n")
    (tmp_path / "cards").mkdir()
    card = tmp_path / "cards/mine.yaml"
    card.write_text("root: ../disk\nclasses: [x, y, z]\n")
    data = open_data(str(card), "val")
    assert data.classes == ("x", "y", "z") and len(data) == 3 and data.source == str(tmp_path / "disk")
    again = open_data(data.source, "val", **data.options)  # as a run opens it, without the card
    card.unlink()
    assert again.fingerprint() == data.fingerprint() and again.classes == data.classes
    assert open_data(str(tmp_path / "disk/kdc.yaml"), "val").classes == ("a", "b", "c")

    card.write_text("root: nowhere\n")
    with pytest.raises(DataError, match=r"root: .*nowhere is no folder"):
        open_data(str(card), "val")


@pytest.mark.parametrize("value", ["{split}/photos", "{split}.lst", "{split}", "2017"])
def test_text_is_taken_as_text(value: str) -> None:
    assert resolve({}, [f"data.images={value}"]).data.options()["images"] == value
    assert data_options("x", sets=[f"data.images={value}"]) == {"images": value}


def test_data_info_takes_settings(tmp_path: Path) -> None:
    own_folders(tmp_path)
    info = data_info(str(tmp_path), sets=["data.images={split}/photos", "data.labels={split}/truth"])
    assert {name: split.labelled for name, split in info.splits.items()} == {"train": True, "val": True}


def test_settings_describe_the_data_as_the_card_does(tmp_path: Path) -> None:
    own_folders(tmp_path)
    sets = ["data.images={split}/photos", "data.labels={split}/truth", "data.classes={0: a, 1: b, 2: c}"]
    report = check_data(str(tmp_path), **data_options(str(tmp_path), sets=sets))
    assert report.ok and report.classes == ("a", "b", "c") and report.images == {"train": 6, "val": 6}
