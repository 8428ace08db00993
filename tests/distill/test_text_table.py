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
    assert all(word in words for row in ROWS for cell in row for word in cell.split())


def test_numbers_stand_to_the_right_and_words_to_the_left() -> None:
    head, rule, first, second = lines(COLUMNS, ROWS, None)
    assert first.index("1,307,859") == second.index("68,072,166") + 1
    assert head.index("what") == first.index("a small") == second.index("7x7") and set(rule) == {"─"}


def test_a_file_gets_every_row_on_one_line() -> None:
    assert len(lines(COLUMNS, [("x" * 50, 1, 2, "y " * 200)], None)) == 3


def test_a_table_too_wide_for_its_numbers_becomes_blocks() -> None:
    columns = ["backend", *(f"p{i}" for i in range(12))]
    text = lines(columns, [["model.onnx", *["12345.67"] * 12], ["torch", *["1.00"] * 12]], 60)
    assert text[0] == "model.onnx" and text[1] == "  p0   12345.67" and text[13] == "torch" and len(text) == 26


def test_wide_characters_and_long_words_are_broken_by_what_they_take_on_the_screen() -> None:
    assert wrap("道路", 2) == ["道", "路"] and wrap("ab" * 20, 16) == ["ab" * 8, "ab" * 8, "ab" * 4]
    assert lines(("", ""), [], 80) == [] and lines(("", ""), [("a", "")], 80) == ["a"]
