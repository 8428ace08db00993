"""Tables fit the screen, whatever is in them."""

import pytest

from kdc.distill.text_table import lines, wrap

COLUMNS = ("name", "params", "p50 ms", "what it is")
ROWS = [
    ("deeplabv3-mv2_050", "1,307,859", "1.05", "a small network with a long explanation that cannot stay on one line"),
    ("pspnet-r101", "68,072,166", "-", "7x7 convolution"),
]


@pytest.mark.parametrize("width", [120, 80, 60, 40, 25])
def test_no_line_is_wider_than_the_screen_and_nothing_is_lost(width: int) -> None:
    text = lines(COLUMNS, ROWS, width)
    assert max(map(len, text)) <= width
    words = " ".join(text).split()
    assert all(word in words for row in ROWS for cell in row for word in cell.split() if width > 25)


def test_numbers_stand_to_the_right_and_words_to_the_left() -> None:
    head, rule, first, second = lines(COLUMNS, ROWS, None)
    assert first.index("1,307,859") == second.index("68,072,166") + 1
    assert head.index("what") == first.index("a small") == second.index("7x7") and set(rule) == {"─"}


def test_a_file_gets_every_row_on_one_line() -> None:
    assert len(lines(COLUMNS, [("x" * 50, 1, 2, "y " * 200)], None)) == 3


def test_columns_without_room_stand_below_beside_the_first_one_again() -> None:
    columns = ["backend", *(f"p{i}" for i in range(12))]
    text = lines(columns, [["model.onnx", *["12345.67"] * 12], ["torch", *["1.00"] * 12]], 60)
    assert max(map(len, text)) <= 60 and text[4] == "" and len(text) == 3 * 5 - 1
    assert text[0].split() == ["backend", "p0", "p1", "p2", "p3", "p4"] and text[5].split()[:2] == ["backend", "p5"]
    assert text[7].startswith("model.onnx  12345.67") and text[8].startswith("torch ") and text[8].endswith(" 1.00")


def test_a_screen_too_narrow_for_a_number_breaks_it() -> None:
    assert lines(("", ""), [("ab", "1234567890")], 6) == ["ab  12", "    34", "    56", "    78", "    90"]


def test_wide_characters_and_long_words_are_broken_by_what_they_take_on_the_screen() -> None:
    assert wrap("道路", 2) == ["道", "路"] and wrap("ab" * 20, 16) == ["ab" * 8, "ab" * 8, "ab" * 4]
    assert lines(("", ""), [], 80) == [] and lines(("", ""), [("a", "")], 80) == ["a"]
