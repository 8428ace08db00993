"""The files of a prediction: masks, overlays as pictures and videos, and the table of classes."""

import csv
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ...distill import console
from ...distill.errors import ExportError
from ...distill.run.places import folder_beside, put, refuse_links
from ..pictures import colour_mask
from .inputs import Frame, quiet
from .legend import FILM_ROWS, Legend

Colour = tuple[int, int, int]
#: codecs from the most to the least widely played, and the container each goes into
CODECS = (("avc1", ".mp4", "H.264"), ("mp4v", ".mp4", "MPEG-4 part 2"), ("MJPG", ".avi", "motion JPEG"))

#: the folders of a prediction
KINDS = ("masks", "overlay", "colour")


class Drawings:
    """The files of one prediction, beneath ``folder``.

    ``masks/NAME.png`` holds class numbers with the classes' colours as its palette, ``overlay/NAME.jpg`` the picture
    under them with a legend below, ``colour/NAME.png`` the colours alone; of a video ``overlay/NAME.mp4``,
    ``colour/NAME.mp4`` and ``masks/NAME/000000.png``, numbered as its frames.
    """

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        palette: Sequence[Colour],
        *,
        masks: bool | None,
        overlay: bool,
        colour: bool,
        alpha: float,
        legend: bool = True,
    ) -> None:
        """Choose what is drawn.

        Args:
            folder: where; folders are made when the first file is.
            classes: the name of each class.
            palette: a colour for each class.
            masks: write them; None for those of images, but not of videos.
            overlay: draw it.
            colour: draw it.
            alpha: share of the class colour in the overlay.
            legend: name the classes below each overlay.
        """
        self.folder, self.classes, self.palette = folder, classes, palette
        self.masks, self.alpha = masks, alpha
        self.legend = legend
        self.kinds = [kind for kind, on in (("overlay", overlay), ("colour", colour)) if on]
        self.counts = {"masks": 0, **dict.fromkeys(self.kinds, 0)}
        self._films: dict[str, Film] = {}
        self._legends: dict[int, Legend] = {}
        self._source = ""
        self._made: set[Path] = set()
        self._open, self._scratch = ExitStack(), Path()

    def draw(self, frame: Frame, mask: np.ndarray) -> None:
        """Write the files of one frame."""
        if frame.source != self._source:
            self._finish_films()
            self._source = frame.source

        still = frame.number is None
        if self.masks if self.masks is not None else still:
            place = self.folder / "masks" / (f"{frame.name}.png" if still else f"{frame.name}/{frame.number:06d}.png")
            write_mask(self._new(place), mask, self.palette)
            put(self._new(place), place)
            self.counts["masks"] += 1

        for kind in self.kinds:
            picture = colour_mask(mask, self.palette)
            if kind == "overlay":
                picture = cv2.addWeighted(frame.pixels, 1 - self.alpha, picture, self.alpha, 0)
                if self.legend:
                    picture = np.vstack([picture, self._legend_of(mask, still=still)])
            picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
            place = self.folder / kind / frame.name

            if still:
                suffix = ".jpg" if kind == "overlay" else ".png"
                data = cv2.imencode(suffix, picture, [cv2.IMWRITE_JPEG_QUALITY, 92] if suffix == ".jpg" else [])[1]
                place = place.with_name(f"{frame.name}{suffix}")
                self._new(place).write_bytes(data.tobytes())
                put(self._new(place), place)
            else:
                if kind not in self._films:
                    self._films[kind] = Film(place, frame.rate, picture.shape[:2])
                self._films[kind].add(picture)
            self.counts[kind] += 1

    def _new(self, place: Path) -> Path:
        """Return where a file is written before it takes its place, whose folder is made."""
        if not self._made:
            self._scratch = self._open.enter_context(folder_beside(self.folder / "prediction"))
        if place.parent not in self._made:
            refuse_links(place)
            place.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(place.parent)
        return self._scratch / place.name

    def _legend_of(self, mask: np.ndarray, *, still: bool) -> np.ndarray:
        """Draw the legend of a mask; below the frames of a video, of one height for all of them."""
        width = mask.shape[1]
        if width not in self._legends:
            self._legends[width] = Legend(self.classes, self.palette, width)
        legend = self._legends[width]
        rows = len(legend.rows(range(len(self.classes))))
        return legend.draw(mask, None if still else min(rows, FILM_ROWS))

    def older_than(self, born: int) -> int:
        """Count the masks and pictures in the folder that were written before ``born``, by its clock in nanoseconds."""
        files = (path for kind in KINDS for path in (self.folder / kind).rglob("*") if path.is_file())
        return sum(path.stat().st_mtime_ns < born for path in files)

    def close(self) -> None:
        """Finish the videos, which cannot be played before."""
        self._finish_films()
        self._open.close()
        self._made.clear()

    def _finish_films(self) -> None:
        for film in self._films.values():
            film.close()
        self._films.clear()


class Film:
    """A video file, written by the first codec that this OpenCV has."""

    def __init__(self, place: Path, rate: float, size: tuple[int, ...]) -> None:
        """Open a video, which takes its place when it is closed.

        Args:
            place: the file without a suffix; that of the container is added.
            rate: frames per second.
            size: height and width of the first frame.

        Raises:
            ExportError: no codec works.
        """
        # common codecs halve the colours' resolution and need even sides: the last row or column is doubled
        self.size = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        self._open = ExitStack()
        folder = self._open.enter_context(folder_beside(place))
        for code, suffix, codec in CODECS:
            self.path = place.with_name(f"{place.name}{suffix}")
            self._new = folder / self.path.name
            with quiet():
                fourcc = cv2.VideoWriter.fourcc(*code)
                self._writer = cv2.VideoWriter(str(self._new), fourcc, rate, self.size[::-1])
            if self._writer.isOpened():
                if codec != CODECS[0][2]:
                    console.note(f"{self.path.name} is written as {codec}: this OpenCV has no {CODECS[0][2]} encoder")
                return
            self._new.unlink(missing_ok=True)

        self._open.close()
        tried = ", ".join(codec for _, _, codec in CODECS)
        raise ExportError(f"this OpenCV writes no video ({tried} were tried); --masks --no-overlay writes PNG files")

    def add(self, picture: np.ndarray) -> None:
        """Append a BGR frame; one of another size than the first is resized, since the file has one size."""
        height, width = picture.shape[:2]
        if (height + height % 2, width + width % 2) != self.size:
            picture = cv2.resize(picture, self.size[::-1])
        elif (height, width) != self.size:
            edges = (0, self.size[0] - height, 0, self.size[1] - width)
            picture = cv2.copyMakeBorder(picture, *edges, cv2.BORDER_REPLICATE)
        self._writer.write(picture)

    def close(self) -> None:
        """Write the index, and put the video in its place."""
        self._writer.release()
        put(self._new, self.path)
        self._open.close()


def write_mask(path: Path, mask: np.ndarray, palette: Sequence[Colour]) -> None:
    """Write a uint8 class mask ``(H, W)`` as an indexed PNG: class numbers, shown in the palette's colours."""
    picture = Image.fromarray(mask)
    picture.putpalette([channel for colour in palette for channel in colour])
    picture.save(path)


class ClassTable:
    """The share of pixels of each class, a line of ``classes.csv`` for each image or frame, and one for all."""

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        self.path, self.classes = path, classes
        self.pixels = np.zeros(len(classes), np.int64)
        self.present = np.zeros(len(classes), np.int64)
        #: of the first images or frames: what they are called and their shares
        self.first: list[tuple[str, np.ndarray]] = []
        refuse_links(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # it may be a link, or another name of a file elsewhere
        self._file = path.open("x", newline="", encoding="utf-8")
        #: when the prediction began, by the folder's own clock, which need not be this machine's
        self.born = path.stat().st_mtime_ns
        self._rows = csv.writer(self._file)
        self._rows.writerow(["source", "frame", "height", "width", *classes])

    def add(self, frame: Frame, mask: np.ndarray) -> None:
        """Count the pixels of a mask."""
        pixels = np.bincount(mask.ravel(), minlength=len(self.classes))
        self.pixels += pixels
        self.present += pixels > 0
        shares = pixels / mask.size
        number = "" if frame.number is None else frame.number
        self._write(frame.source, number, mask.shape[0], mask.shape[1], shares)
        if len(self.first) < 6:
            self.first.append((frame.name if frame.number is None else f"{frame.name} {number}", shares))

    @property
    def shares(self) -> np.ndarray:
        """Share of each class in all pixels."""
        return self.pixels / max(int(self.pixels.sum()), 1)

    def _write(self, source: str, number: Any, height: Any, width: Any, shares: np.ndarray) -> None:
        self._rows.writerow([source, number, height, width, *(f"{share:.6f}" for share in shares)])

    def close(self) -> None:
        """Write the line for all and close the file."""
        if not self._file.closed:
            self._write("total", "", "", "", self.shares)
            self._file.close()

    def show_shares(self, count: int) -> None:
        """Print the classes that occur: in total, in how many of ``count`` frames, and in each where these are few."""
        few = self.first if count <= len(self.first) else []
        rows = [
            [name, f"{100 * share:.2f}", present, *(f"{100 * shares[k]:.2f}" for _, shares in few)]
            for k, (name, share, present) in enumerate(zip(self.classes, self.shares, self.present, strict=True))
            if present
        ]
        console.table(
            "share of pixels in %" + ("" if few else f"; of each image in {self.path}"),
            ["class", "total", "seen in", *(name for name, _ in few)],
            rows,
        )
