"""Folders of images and masks: layouts, spellings, encodings, splits, and what is inferred."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from kdc.distill.data import IGNORE, Dataset, open_data, splits
from kdc.distill.errors import DataError, UsageError

SHARED = Path(os.environ.get("KDC_SHARED", Path(__file__).parents[4] / "shared"))
FIXTURES = SHARED / "data/fixtures"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="the shared fixtures are not at hand")
MASK = np.array([[0, 0, 1, 1], [0, 2, 2, 255], [0, 0, 0, 255]], np.uint8)


def image(path: Path, shape: tuple[int, int] = (3, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*shape, 3), (50, 100, 150), np.uint8))


def mask(path: Path, values: np.ndarray = MASK) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def pairs(root: Path, images: str, masks: str, count: int = 3) -> Path:
    for i in range(count):
        image(root / images.format(i))
        mask(root / masks.format(i))
    return root


def label(data: Dataset, i: int = 0) -> np.ndarray:
    found = data.read(i)[1]
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/{}.png", "labels/{}.png"),
        ("JPEGImages/{}.jpg", "SegmentationClass/{}.png"),
        ("imgs/{}_image.png", "annotations/{}_annotation.png"),
        ("Img/city/{}_leftImg8bit.png", "gtFine/city/{}_gtFine_labelIds.png"),
        ("{}.png", "{}_mask.png"),
        ("deep/er/images/{}.png", "deep/er/masks/{}.png"),
    ],
)
def test_usual_layouts_are_found_and_split_by_seed(tmp_path: Path, images: str, masks: str) -> None:
    root = str(pairs(tmp_path, images, masks, 10))
    train, val = open_data(root, "train"), open_data(root, "val")
    assert splits(root) == ["train", "val"] and (len(train), len(val)) == (8, 2)
    keys = [data.key(i) for data in (train, val) for i in range(len(data))]
    assert len(set(keys)) == 10
    assert np.array_equal(label(train), MASK) and train.num_classes == 3
    assert any("3 classes inferred" in note for note in train.notes)
    other = open_data(root, "val", split_seed=1, val_fraction=0.4)
    assert len(other) == 4
    assert len(open_data(root, "all")) == 10


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/{s}/{i}.png", "labels/{s}/{i}.png"),
        ("{s}/images/{i}.png", "{s}/masks/{i}.png"),
        ("{s}/{i}.png", "{s}annot/{i}.png"),
        ("{s}/{i}.png", "{s}/{i}_mask.png"),
    ],
)
@pytest.mark.parametrize("spelling", [("train", "val"), ("training", "validation")])
def test_given_splits(tmp_path: Path, images: str, masks: str, spelling: tuple[str, str]) -> None:
    for folder, count in zip(spelling, (3, 2), strict=True):
        pairs(tmp_path, images.replace("{s}", folder).replace("{i}", "{}"), masks.replace("{s}", folder).replace("{i}", "{}"), count)  # fmt: skip  # noqa: E501
    assert splits(str(tmp_path)) == ["train", "val"]
    assert [len(open_data(str(tmp_path), split)) for split in ("train", "val", "all")] == [3, 2, 5]
    with pytest.raises(DataError, match="splits there: train, val"):
        open_data(str(tmp_path), "test")


def test_lists_of_stems_give_the_splits(tmp_path: Path) -> None:
    root = pairs(tmp_path, "images/{}.png", "labels/{}.png")
    (root / "train.txt").write_text("0\n2\n")
    (root / "val.txt").write_text("1\n")
    train = open_data(str(root), "train")
    assert [train.key(i) for i in range(len(train))] == ["0", "2"]
    (root / "val.txt").write_text("7\n")
    with pytest.raises(DataError, match="names 1 missing image, such as 7"):
        open_data(str(root), "val")


def test_two_lists_are_paired_by_line(tmp_path: Path) -> None:
    root = pairs(tmp_path, "a/{}.png", "b/other{}.png")
    for split, rows in {"train": (0, 1), "val": (2,)}.items():
        (root / f"{split}_images.txt").write_text("".join(f"a/{i}.png\n" for i in rows))
        (root / f"{split}_labels.txt").write_text("".join(f"b/other{i}.png\n" for i in rows))
    options = {"images": "{split}_images.txt", "labels": "{split}_labels.txt"}
    assert [len(open_data(str(root), split, **options)) for split in ("train", "val")] == [2, 1]
    (root / "both.txt").write_text("a/0.png b/other0.png\na/1.png,b/other1.png\n")
    assert np.array_equal(label(open_data(str(root), "all", images="both.txt")), MASK)
    (root / "train_labels.txt").write_text("b/other0.png\n")
    with pytest.raises(DataError, match="2 images and 1 masks"):
        open_data(str(root), "train", **options)


def test_named_folders(tmp_path: Path) -> None:
    root = pairs(tmp_path, "x/{}.png", "y/{}.png")
    assert np.array_equal(label(open_data(str(root), "all", images="x", labels="y")), MASK)


def test_palette_indices_stay_indices(tmp_path: Path) -> None:
    image(tmp_path / "images/0.png")
    picture = Image.fromarray(MASK)
    picture.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200] + [0] * 759)
    (tmp_path / "labels").mkdir()
    picture.save(tmp_path / "labels/0.png")
    data = open_data(str(tmp_path), "all")
    assert np.array_equal(label(data), MASK)
    assert data.palette == ((200, 0, 0), (0, 200, 0), (0, 0, 200))


@pytest.mark.parametrize("bits", [1, 2, 4, 16])
def test_other_bit_depths(tmp_path: Path, bits: int) -> None:
    values = np.minimum(MASK, 1) if bits == 1 else MASK % 3
    image(tmp_path / "images/0.png")
    (tmp_path / "labels").mkdir()
    path = tmp_path / "labels/0.png"
    if bits == 1:
        Image.fromarray(values.astype(bool)).save(path)
    elif bits == 16:
        cv2.imwrite(str(path), values.astype(np.uint16))
    else:
        _save_grey(path, values, bits)
    assert np.array_equal(label(open_data(str(tmp_path), "all")), values)


def _save_grey(path: Path, values: np.ndarray, bits: int) -> None:
    """Write a grey PNG of 2 or 4 bits a pixel, which neither Pillow nor OpenCV does."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b""
    for row in values:
        number = 0
        for value in row.tolist():
            number = number << bits | value
        rows += b"\0" + number.to_bytes(len(row) * bits // 8)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


CODED = np.array([[[0, 0, 0], [0, 255, 0]], [[255, 0, 0], [9, 9, 9]]], np.uint8)


def test_rgb_codes_from_the_yaml(tmp_path: Path) -> None:
    image(tmp_path / "images/0.png", (2, 2))
    mask(tmp_path / "labels/0.png", CODED)
    (tmp_path / "kdc.yaml").write_text(
        "codes: {weed: [255, 0, 0], soil: [0, 0, 0], crop: [0, 255, 0]}\nignore_codes: [[9, 9, 9]]\n"
    )
    data = open_data(str(tmp_path), "all")
    assert data.classes == ("weed", "soil", "crop") and data.palette[0] == (255, 0, 0)
    assert label(data).tolist() == [[1, 2], [0, IGNORE]]
    again = open_data(data.source, "all", **data.options)
    assert again.fingerprint() == data.fingerprint() and again.classes == data.classes


def test_rgb_codes_inferred_and_said(tmp_path: Path) -> None:
    image(tmp_path / "images/0.png", (2, 2))
    mask(tmp_path / "labels/0.png", CODED)
    data = open_data(str(tmp_path), "all")
    assert label(data).tolist() == [[0, 1], [3, 2]]
    assert any("a colour each" in note and "(0, 255, 0)" in note for note in data.notes)


def test_grey_codes_and_binary_masks(tmp_path: Path) -> None:
    for name, values in (("grey", [0, 85, 170]), ("binary", [0, 255])):
        image(tmp_path / name / "images/0.png", (1, len(values)))
        mask(tmp_path / name / "labels/0.png", np.array([values], np.uint8))
        data = open_data(str(tmp_path / name), "all")
        assert label(data).tolist() == [list(range(len(values)))], name
        again = open_data(data.source, "all", **data.options)
        assert np.array_equal(label(again), label(data))


def test_an_ignored_zero_moves_the_classes_down(tmp_path: Path) -> None:
    root = str(pairs(tmp_path, "images/{}.png", "labels/{}.png", 1))
    found = label(open_data(root, "all", classes=2, ignore_index=[0, 255]))
    assert np.array_equal(found, np.where((MASK == 0) | (MASK == 255), IGNORE, MASK.astype(int) - 1))


def test_class_names_and_palette_from_the_yaml(tmp_path: Path) -> None:
    root = pairs(tmp_path, "images/{}.png", "labels/{}.png")
    (root / "dataset.yaml").write_text(
        "classes: [a, b, c]\nignore_index: 255\npalette: [[1, 2, 3], [4, 5, 6], [7, 8, 9]]\n"
    )
    data = open_data(str(root), "train")
    assert data.classes == ("a", "b", "c") and data.palette[2] == (7, 8, 9)
    assert not any("inferred" in note for note in data.notes)
    assert open_data(str(root), "train", classes="x,y,z").classes == ("x", "y", "z")  # what is said on top wins


def test_images_alone_can_be_predicted(tmp_path: Path) -> None:
    for i in range(3):
        image(tmp_path / f"{i}.jpg")
    data = open_data(str(tmp_path), "all")
    assert len(data) == 3 and not data.labelled and data.read(0)[1] is None


@pytest.mark.parametrize(
    ("yaml", "error"),
    [
        ("clases: [a]", "unknown key 'clases'; did you mean 'classes'"),
        ("classes: [a", "not readable as YAML"),
        ("just words", "expected keys and values"),
        ("classes: [a, a, b]", "2 of them different"),
        ("codes: [[1, 2], [3, 4]]", "neither a grey value nor a colour"),
        ("codes: [1, [0, 0, 0]]", "mixes"),
        ("{classes: [a, b], codes: [1, 2, 3]}", "3 values for 2 classes"),
        ("{classes: 3, palette: [[1, 2, 3]]}", "expected 3 colours"),
    ],
)
def test_mistakes_in_the_yaml_are_named(tmp_path: Path, yaml: str, error: str) -> None:
    root = pairs(tmp_path, "images/{}.png", "labels/{}.png")
    (root / "kdc.yaml").write_text(yaml)
    with pytest.raises((DataError, UsageError), match=error.replace("(", r"\(")):
        open_data(str(root), "train")


def test_hopeless_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images found"):
        open_data(str(tmp_path), "train")
    root = pairs(tmp_path, "images/{}.png", "labels/{}.png")
    mask(root / "labels/1.png", np.arange(12, dtype=np.uint8).reshape(3, 4) + 243)
    with pytest.raises(DataError, match="instance ids, or photographs"):
        open_data(str(root), "train")
    with pytest.raises(UsageError, match="val_fraction"):
        open_data(str(root), "train", classes=3, val_fraction=1.5)


@needs_fixtures
@pytest.mark.parametrize(
    ("folder", "split", "count", "options", "classes", "values"),
    [
        ("cwfid", "all", 2, {}, 3, {0, 1, 2}),
        ("cwfid", "all", 2, {"labels": "masks"}, 2, {0, 1}),
        ("nyu40", "all", 3, {}, 40, {0, 3, 10, 17, 31, 34, 39, 255}),
        ("voc2012", "val", 1, {"classes": 21}, 21, {0, 12, 17, 255}),
        ("cityscapes", "val", 1, {"classes": 19}, 19, {0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 255}),
        ("ade20k", "val", 2, {"classes": 150, "ignore_index": 0}, 150, {0, 1, 2, 4, 6, 9, 17, 255}),
    ],
)
def test_real_files(folder: str, split: str, count: int, options: dict, classes: int, values: set[int]) -> None:
    data = open_data(str(FIXTURES / folder), split, **options)
    assert len(data) == count and data.num_classes == classes
    found = [set(np.unique(label(data, i)).tolist()) for i in range(count)]
    assert values in found


@needs_fixtures
def test_a_folder_of_datasets_is_not_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds datasets of its own"):
        open_data(str(FIXTURES), "train")
