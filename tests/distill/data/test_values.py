"""What mask values mean where the number of classes is said, and values that interpolation left."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from kdc.distill.data import open_data
from kdc.distill.data._check import check_data
from kdc.distill.errors import DataError, UsageError

from ._drawn import circles, write

BLACK_WHITE = np.array([0, 255], np.uint8)
COLOURS = np.array([[0, 0, 0], [0, 255, 0], [255, 0, 0]], np.uint8)


@pytest.mark.parametrize(
    ("stored", "options", "values", "ignored"),
    [
        ([0, 255], {"classes": 2}, [0, 255], False),
        ([0, 255], {"classes": ["ground", "thing"]}, [0, 255], False),
        ([0, 255], {"classes": 2, "ignore_index": -1}, [0, 255], False),
        ([0, 255], {"classes": 2, "ignore_index": 255}, [0, 1], True),  # as it was said
        ([0, 255], {"classes": 1, "ignore_index": 0}, [255], True),
        ([0, 127, 254], {"classes": 3}, [0, 127, 254], False),
        ([0, 128, 255], {"classes": 3}, [0, 128, 255], False),
        ([0, 128, 255], {"classes": 2}, [0, 128], True),
        ([0, 1, 255], {"classes": 2}, [0, 1], True),
        ([0, 1, 2, 255], {"classes": 3}, [0, 1, 2], True),
        ([0, 1, 2], {"ignore_index": -1}, [0, 1, 2], False),
        ([0, 1, 2], {"classes": 3, "ignore_index": -1}, [0, 1, 2], False),
        ([0, 1, 2], {"ignore_index": [-1, 255]}, [0, 1, 2], False),
    ],
)
def test_a_named_count_takes_the_reading_that_it_fits(
    tmp_path: Path, stored: list[int], options: dict, values: list[int], ignored: bool
) -> None:
    table = np.array(stored, np.uint8)
    root = write(tmp_path, circles(classes=len(stored)), lambda mask: table[mask])
    data = open_data(root, "train", **options)
    assert list(data.options["codes"]) == values
    label = data.read(0)[1]
    assert label is not None and (bool((label == 255).any()) == ignored)
    again = open_data(data.source, "train", **data.options)
    assert again.fingerprint() == data.fingerprint()


def test_a_count_takes_as_many_colours_and_names_ask_which_is_which(tmp_path: Path) -> None:
    root = write(tmp_path, circles(), lambda mask: COLOURS[mask])
    assert [tuple(code) for code in open_data(root, "train", classes=3).options["codes"]] == [
        (0, 0, 0),
        (0, 255, 0),
        (255, 0, 0),
    ]
    with pytest.raises(DataError, match=r"\(0, 255, 0\).*codes: \{a: \[R, G, B\], b: \[R, G, B\]"):
        open_data(root, "train", classes=["a", "b", "c"])
    codes = {"a": [0, 0, 0], "b": [0, 255, 0], "c": [255, 0, 0]}
    assert open_data(root, "train", codes=codes).classes == ("a", "b", "c")


def test_ids_that_no_mask_holds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 to 65535, or -1 for none"):
        open_data(write(tmp_path, circles()), "train", ignore_index=-2)


def resized(factor: float):
    return lambda mask: cv2.resize(mask, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize("factor", [0.5, 0.77, 1.5, 2, 4])
@pytest.mark.parametrize("classes", [None, 2])
def test_blends_of_grey_values_are_a_problem(tmp_path: Path, factor: float, classes: int | None) -> None:
    root = write(tmp_path, circles(classes=2), lambda mask: resized(factor)(BLACK_WHITE[mask]))
    with pytest.raises(DataError, match=r"grey values are blends of two others: .* in .* pixels") as error:
        open_data(root, "train", **({"classes": classes} if classes else {}))
    assert "nearest neighbour" in str(error.value)

    # the cure that it names
    sharp = write(tmp_path / "sharp", circles(classes=2), lambda mask: cv2.resize(BLACK_WHITE[mask], None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST))  # fmt: skip  # noqa: E501
    assert open_data(sharp, "train").num_classes == 2


@pytest.mark.parametrize("factor", [0.5, 0.77, 2])
def test_blends_of_colours_are_a_problem(tmp_path: Path, factor: float) -> None:
    root = write(tmp_path, circles(), lambda mask: resized(factor)(COLOURS[mask]))
    with pytest.raises(DataError, match=r"colours are blends of two others: \(.*\) in \d+ pixels"):
        open_data(root, "train")
    named = check_data(root, codes={"a": [0, 0, 0], "b": [0, 255, 0], "c": [255, 0, 0]})
    assert named.problems and all("nearest neighbour" in problem.hint for problem in named.problems)


def test_a_class_whose_colour_is_between_two_others_is_no_blend(tmp_path: Path) -> None:
    palette = np.array([[0, 0, 0], [64, 0, 0], [128, 0, 0]], np.uint8)  # as the VOC palette has them
    assert open_data(write(tmp_path, circles(), lambda mask: palette[mask]), "train").num_classes == 3
    numbers = np.array([0, 7, 90], np.uint8)
    assert open_data(write(tmp_path / "n", circles(), lambda mask: numbers[mask]), "train").num_classes == 91
