"""Tables as text, no wider than the screen: words are wrapped, numbers never."""

import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

#: a column of words is made no narrower than this, and a word is broken only beyond the second
NARROW, LONG_WORD = 14, 24
_GAP = "  "
_NUMBER = re.compile(r"[-+~\u2212]?[\d.,]*\d(e[-+]?\d+)?[x%]?(\s|$)")


def lines(columns: Sequence[str], rows: Iterable[Sequence[Any]], width: int | None) -> list[str]:
    """Return the lines of a table.

    Columns of numbers stand to the right, those of words, the first one and those without a heading to the left.
    Where even wrapped words make the table too wide, every row becomes a block of lines, one for each cell.

    Args:
        columns: the headings; if all are empty, none are shown.
        rows: the cells, shown by ``str``.
        width: the most characters of a line; None where lines may be as long as they like.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    table = [list(columns), *cells]
    right = [bool(i and name) and _numeric([row[i] for row in cells]) for i, name in enumerate(columns)]

    whole = [max(map(_length, column)) for column in zip(*table, strict=True)]
    widths = [_least([row[i] for row in cells], name, right[i]) for i, name in enumerate(columns)]
    spare = (sum(whole) if width is None else width - len(_GAP) * (len(columns) - 1)) - sum(widths)
    if spare < 0:
        return _blocks(columns, cells, width or 0)

    for _ in range(spare):  # to the column that is wrapped most
        most = max(range(len(columns)), key=lambda i: whole[i] / max(widths[i], 1))
        if widths[most] >= whole[most]:
            break
        widths[most] += 1

    text = [line for row in cells for line in _row(row, widths, right)]
    if any(columns):
        rule = "─" * (sum(widths) + len(_GAP) * (len(widths) - 1))
        text = [*_row(columns, widths, right), rule, *text]
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


def _blocks(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return every row as a block: its first cell, then the other headings with their cells, indented."""
    names = max(map(_length, columns[1:]), default=0)
    text = []
    for first, *rest in cells:
        text += wrap(first, width)
        for name, cell in zip(columns[1:], rest, strict=True):
            head, room = f"  {name}{' ' * (names - _length(name))}  ", max(width - names - 4, 8)
            for part in wrap(cell, room):
                text.append((head + part).rstrip())
                head = " " * len(head)
    return text


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
