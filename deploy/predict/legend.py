"""The legend below an overlay: which colour is which class."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
#: in pixels, of a picture 640 wide; wider ones have a larger legend
_TEXT, _WIDTH = 13, 640
#: the most rows below a video, whose pictures are all of one size
FILM_ROWS = 3
_PAPER, _INK, _SOFT = (250, 250, 248), (26, 29, 33), (93, 101, 110)


class Legend:
    """Swatches and names of classes, laid out for pictures of one width."""

    def __init__(self, classes: Sequence[str], palette: Sequence[Colour], width: int) -> None:
        """Choose the sizes.

        Args:
            classes: their names, in the order of their numbers.
            palette: their colours, RGB.
            width: of the pictures, in pixels.
        """
        self.classes, self.palette, self.width = classes, palette, width
        scale = min(max(width / _WIDTH, 0.75), 4.0)
        self._font = ImageFont.load_default(round(_TEXT * scale))
        self._pad, self._swatch, self._row = round(8 * scale), round(11 * scale), round(20 * scale)

    def height(self, rows: int) -> int:
        """Return the height of a legend of so many rows, an even number of pixels, as a video needs."""
        return (rows * self._row + 2 * self._pad + 1) // 2 * 2

    def rows(self, ids: Sequence[int]) -> list[list[tuple[int, int]]]:
        """Break classes into rows that fit the width: of each entry, the class and where it begins."""
        rows: list[list[tuple[int, int]]] = [[]]
        x = self._pad
        for k in ids:
            wide = self._wide(self._name(k)) + self._swatch + 3 * self._pad
            if rows[-1] and x + wide > self.width:
                rows.append([])
                x = self._pad
            rows[-1].append((k, x))
            x += wide
        return rows

    def draw(self, mask: np.ndarray, most_rows: int | None = None) -> np.ndarray:
        """Return the legend of the classes in a mask, the largest first, as RGB ``(h, width, 3)``.

        Args:
            mask: uint8 ``(H, W)``.
            most_rows: draw just so many, and say how many classes are left out; None draws what is needed.
        """
        counts = np.bincount(mask.ravel(), minlength=len(self.classes))[: len(self.classes)]
        ids = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]
        rows = self.rows(ids)
        left_out = sum(map(len, rows[most_rows:])) if most_rows else 0

        picture = Image.new("RGB", (self.width, self.height(most_rows or len(rows))), _PAPER)
        pen = ImageDraw.Draw(picture)
        for i, row in enumerate(rows[:most_rows]):
            middle = self._pad + i * self._row + self._row // 2
            for k, x in row:
                box = (x, middle - self._swatch // 2, x + self._swatch, middle + self._swatch // 2)
                pen.rectangle(box, tuple(self.palette[k]), (128, 128, 128))
                pen.text((x + self._swatch + self._pad // 2, middle), self._name(k), _INK, self._font, anchor="lm")
        if left_out:
            note = f"+{left_out}"
            edge = self.width - self._pad
            pen.rectangle(
                (edge - self._wide(note) - self._pad, middle - self._row // 2, self.width, middle + self._row // 2),
                _PAPER,
            )
            pen.text((edge, middle), note, _SOFT, self._font, anchor="rm")
        return np.asarray(picture)

    def _name(self, k: int) -> str:
        """Return the name of a class, or its number where the font has no letters for it."""
        name = self.classes[k]
        # the font that comes with Pillow is Latin
        return name if all(ord(letter) < 0x250 for letter in name) else f"class {k}"

    def _wide(self, words: str) -> int:
        return round(self._font.getlength(words))
