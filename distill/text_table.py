"""Tables as text, no wider than the screen: words are wrapped, numbers never."""

import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

#: a column of words is made no narrower than this, and a word is broken only beyond the second
NARROW, LONG_WORD = 14, 24
_GAP = "  "
_NUMBER = re.compile(r"[-+~\u2212]?[\d.,]*\d(e[-+]?\d+)?[x%kMGT]?(\s|$)")


#: what moves the cursor, starts an escape code, breaks a line, turns the direction of a text, or cannot be encoded
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Return a text, which may be anybody's, as one line for a terminal or a page: ESC and the like are spelt out."""
    return _HIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def lines(columns: Sequence[str], rows: Iterable[Sequence[Any]], width: int | None) -> list[str]:
    """Return the lines of a table.

    Columns of numbers stand to the right, those of words, the first one and those without a heading to the left.
    Columns that find no room become a further table below, which begins with the first column again.

    Args:
        columns: the headings; if all are empty, none are shown.
        rows: the cells, shown by ``str``.
        width: the most characters of a line; None where lines may be as long as they like.
    """
    table = [list(columns), *([visible(str(cell)) for cell in row] for row in rows)]
    parts = [_Column(name, [row[i] for row in table[1:]], first=i == 0) for i, name in enumerate(columns)]
    groups = [parts[:1]]
    for part in parts[1:]:
        needed = sum(len(_GAP) + each.least for each in (*groups[-1], part)) - len(_GAP)
        if width is not None and needed > width and len(groups[-1]) > 1:
            groups.append(parts[:1])
        groups[-1] = [*groups[-1], part]

    text = _lines(groups[0], width, heading=any(columns))
    for group in groups[1:]:
        text += ["", *_lines(group, width, heading=any(columns))]
    return text


class _Column:
    """A column, whether it holds numbers, and the widths that it needs and that it would like."""

    def __init__(self, name: str, cells: Sequence[str], *, first: bool) -> None:
        self.name, self.cells = name, cells
        self.right = bool(name) and not first and _numeric(cells)
        self.whole = max(map(_length, (name, *cells)))
        self.least = _least(cells, name, self.right)


def _lines(columns: Sequence[_Column], width: int | None, *, heading: bool) -> list[str]:
    """Return the lines of one table."""
    widths = [column.least if width is not None else column.whole for column in columns]
    whole = [column.whole for column in columns]
    room = sum(widths) if width is None else max(width - len(_GAP) * (len(columns) - 1), len(columns))
    while sum(widths) > room:  # a very narrow screen: numbers are broken after all
        widths[widths.index(max(widths))] -= 1
    while sum(widths) < room and widths != whole:  # to the column that is wrapped most
        most = max(range(len(columns)), key=lambda i: whole[i] / max(widths[i], 1))
        widths[most] += 1

    right = [column.right for column in columns]
    cells = zip(*(column.cells for column in columns), strict=True)
    text = [line for row in cells for line in _row(row, widths, right)]
    if heading:
        rule = "─" * (sum(widths) + len(_GAP) * (len(widths) - 1))
        text = [*_row([column.name for column in columns], widths, right), rule, *text]
    return text


def _least(cells: Sequence[str], heading: str, number: bool) -> int:
    """Return the width that a column needs: that of its longest number, or words of which only long ones are broken."""
    whole = max(map(_length, cells), default=0)
    words = [word for text in (heading, *(() if number else cells)) for word in text.split()]
    longest = min(max(map(_length, words), default=0), LONG_WORD)
    return max(longest, whole if number else min(whole, NARROW))


def _numeric(cells: Sequence[str]) -> bool:
    """Tell whether a column holds numbers; some of them may be lacking."""
    found = sum(bool(_NUMBER.match(cell)) for cell in cells)
    return 2 * found > len([cell for cell in cells if cell and cell != "-"])


def _row(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    wrapped = [wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
    return [
        _GAP.join(
            " " * pad + part if end else part + " " * pad
            for part, width, end in zip(parts, widths, right, strict=True)
            if (pad := width - _length(part)) >= 0
        ).rstrip()
        for parts in zip_longest(*wrapped, fillvalue="")
    ]


def wrap(text: str, width: int | None) -> list[str]:
    """Break a text into lines of at most ``width`` (None: of any length), between words where that can be."""
    from rich.cells import chop_cells

    if width is None or _length(text) <= width:
        return [text] if text else []
    out, line = [], ""
    for word in text.split():
        if line and _length(line) + 1 + _length(word) > width:
            out.append(line)
            line = ""
        *whole, line = chop_cells(f"{line} {word}".strip(), width)
        out += whole
    return [*out, line]


def _length(text: str) -> int:
    """Return how many columns of the screen a text takes."""
    from rich.cells import cell_len

    return cell_len(text)
