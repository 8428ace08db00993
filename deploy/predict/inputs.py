"""The sources of ``kdc predict``: images, folders, globs, videos, cameras and streams, one frame after another."""

import contextlib
import glob
import math
import os
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ...distill import console
from ...distill.data import BadSample
from ...distill.data._files import IMAGE_TYPES, read_image
from ...distill.errors import DataError, UsageError, closest

#: files of a folder that are taken for videos; a file that is named may have any suffix
VIDEO_TYPES = {".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".gif"}
SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt")
#: frames per second where a video does not say
USUAL_RATE = 25.0


@dataclass(frozen=True)
class Frame:
    """One picture to be segmented: uint8 RGB ``(H, W, 3)``, where it is from, and what its outputs are called."""

    source: str
    name: str
    pixels: np.ndarray
    #: of the frame in its video, from 0; None for an image
    number: int | None = None
    #: frames per second of the videos that are written
    rate: float = USUAL_RATE
    #: whether it is from a camera or stream, which does not wait
    live: bool = False


class Picture:
    """An image file: one frame; ``bits`` is what its values have if it is of 16 bits, None for all of them."""

    live, total = False, 1

    def __init__(self, path: Path, name: str, bits: int | None = None) -> None:
        self.path, self.name, self.bits, self.problem = path, name, bits, ""

    def frames(self) -> Generator[Frame]:
        """Yield the image; where it cannot be read, ``problem`` says why."""
        try:
            pixels = read_image(self.path, self.bits)
        except BadSample as error:
            self.problem = str(error)
            return
        yield Frame(str(self.path), self.name, pixels)


class Video:
    """A video file, a camera or a stream.

    Attributes:
        total: how many frames will come; None where it is not known.
        live: whether it is a camera or stream, which does not wait for its frames to be taken.
        problem: why fewer frames came than the video says it has; empty where all is well.
    """

    def __init__(self, source: str, name: str, every: int = 1, limit: int | None = None) -> None:
        """Open it and read its length and rate.

        Raises:
            DataError: it cannot be opened.
        """
        self.camera = source.isdigit() and not Path(source).exists()
        self._from: str | int = int(source) if self.camera else source
        # a password in an address must not reach tables and file names
        self.label = f"camera {source}" if self.camera else re.sub(r"//[^/@]*@", "//", source)
        self.name, self.every, self.limit, self.problem = name, every, limit, ""

        capture = self._open()
        count, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
        self._count = int(count) if 0 < count < 1e9 and not self.camera else None
        self.live = self._count is None and (self.camera or "://" in source)
        if not 0 < rate <= 1000:
            console.note(f"{self.label} does not say its frames per second; {USUAL_RATE:g} is written into the video")
        self.rate = (rate if 0 < rate <= 1000 else USUAL_RATE) / every
        count = math.ceil(self._count / every) if self._count else None
        self.total = min((n for n in (count, limit) if n is not None), default=None)

        # a camera takes seconds to open; of a folder of videos only one should be open
        self._capture = capture if self.live else None
        if not self.live:
            capture.release()

    def _open(self) -> cv2.VideoCapture:
        with quiet():
            capture = cv2.VideoCapture(self._from)
        if capture.isOpened():
            return capture
        if self.camera:
            raise DataError(
                f"{self.label} cannot be opened: it is not connected, another program uses it, or access is denied"
            )
        if "://" in str(self._from):
            raise DataError(f"{self.label} cannot be opened: no answer, or not a video stream")
        images = ", ".join(sorted(IMAGE_TYPES))
        raise DataError(
            f"{self.label} is neither an image ({images}) nor a video that OpenCV can open: cut off, or of an unknown "
            "kind; try: ffmpeg -i FILE -c:v libx264 new.mp4"
        )

    def frames(self) -> Generator[Frame]:
        """Yield every ``every``-th frame, at most ``limit``."""
        capture = self._capture or self._open()
        seen = taken = 0
        try:
            while taken != self.limit and capture.grab():
                seen += 1
                if (seen - 1) % self.every:
                    continue
                complete, pixels = capture.retrieve()
                if not complete:
                    break
                taken += 1
                pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
                yield Frame(self.label, self.name, pixels, seen - 1, self.rate, self.live)
            if taken != self.limit:
                self._check_length(seen)
        finally:
            capture.release()

    def _check_length(self, seen: int) -> None:
        """Note a problem where fewer frames came than the video says."""
        if not seen:
            self.problem = f"{self.label} gives no frame"
        # what a file says is rounded from its length by some kinds
        elif self._count and seen < self._count - 1 - self._count // 50:
            self.problem = f"{self.label} breaks off after {seen} of {self._count} frames"
        elif self.camera:
            self.problem = f"{self.label} stopped after {seen} frames"


Source = Picture | Video


def open_sources(words: Sequence[str], every: int = 1, limit: int | None = None) -> list[Source]:
    """Find the images and videos that each word means, and open videos.

    Args:
        words: image and video files, folders, glob patterns, camera numbers, addresses of streams.
        every: take every so many-th image of a folder or pattern and frame of a video.
        limit: at most so many of each.

    Raises:
        DataError: no such file, a folder without images, or a video, camera or stream that does not open.
        UsageError: an address of an unknown kind.
    """
    taken: set[str] = set()

    def name(stem: str) -> str:
        stem, n = re.sub(r"[^\w.-]+", "_", stem).strip("_") or "stream", 2
        unique = stem
        while unique in taken:
            unique, n = f"{stem}_{n}", n + 1
        taken.add(unique)
        return unique

    sources: list[Source] = []
    for word in words:
        if "://" in word:
            scheme, _, rest = word.partition("://")
            if scheme.lower() not in SCHEMES:
                raise UsageError(f"{word}: {scheme}:// cannot be read; accepted: {', '.join(SCHEMES)}, or a file")
            sources.append(Video(word, name(rest.rpartition("@")[2].partition("?")[0]), every, limit))
        elif word.isdigit() and not Path(word).exists():
            sources.append(Video(word, f"camera{word}", every, limit))
        else:
            paths = _paths(word)
            pictures = [path for path in paths if path.suffix.lower() in IMAGE_TYPES][::every][:limit]
            sources += [Picture(path, name(path.stem)) for path in pictures]
            videos = [path for path in paths if path.suffix.lower() not in IMAGE_TYPES]
            sources += [Video(str(path), name(path.stem), every, limit) for path in videos]
    return sources


def is_source(word: str) -> bool:
    """Tell whether a word is an address, a camera's number, a pattern or an existing path."""
    return "://" in word or word.isdigit() or glob.has_magic(word) or Path(word).exists()


def _paths(word: str) -> list[Path]:
    path = Path(word).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        listed, lack = sorted(path.iterdir()), f"{word} holds no"
        cure = f"; for files in its subfolders: '{path / '**' / '*.png'}'"
    elif glob.has_magic(word):
        listed, lack = sorted(Path(p) for p in glob.glob(str(path), recursive=True)), f"no file fits {word}: no"
        cure = ""
    else:
        near = closest(path.name, os.listdir(path.parent)) if path.parent.is_dir() else ""
        raise DataError(f"there is no image, video or folder {word}{near}")

    known = IMAGE_TYPES | VIDEO_TYPES
    listed = [p for p in listed if p.is_file() and p.suffix.lower() in known and not p.name.startswith(".")]
    if not listed:
        raise DataError(f"{lack} image ({', '.join(sorted(IMAGE_TYPES))}) or video{cure}")
    return listed


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep OpenCV and FFmpeg from writing to the terminal: kdc reports what goes wrong in one line."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)
