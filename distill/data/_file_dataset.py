"""A data set of image and mask files."""

import contextlib
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from . import BadSample, Dataset, Examined, Problem, content_of
from ._codes import Code, Colour
from ._files import Sample, read_image, read_mask
from ._unlabelled import why_unlabelled


def _print_of(path: Path) -> list[int]:
    """Tell a file's content without reading all of it: its length and a checksum of its two ends."""
    with path.open("rb") as file:
        length = file.seek(0, 2)
        file.seek(0)
        ends = file.read(4096)
        file.seek(max(length - 4096, 0))
        return [length, zlib.crc32(ends + file.read())]


class FileDataset(Dataset):
    """Pairs of image and mask files, all read with one ``Code``."""

    def __init__(
        self,
        name: str,
        split: str,
        samples: list[Sample],
        code: Code,
        classes: tuple[str, ...],
        palette: tuple[Colour, ...],
        *,
        source: str,
        options: dict[str, Any],
        notes: tuple[str, ...] = (),
        problems: tuple[Problem, ...] = (),
        bits: int | None = None,
    ) -> None:
        self.name, self.split, self.samples, self.code = name, split, samples, code
        self.classes, self.palette, self.ignored = classes, palette, code.ignored
        self.source, self.options, self.notes, self.problems = source, options, notes, problems
        self.bits = bits
        self.labelled = bool(samples) and all(sample.mask is not None for sample in samples)

    def __len__(self) -> int:
        return len(self.samples)

    def key(self, i: int) -> str:
        return self.samples[i].key

    def _label(self, i: int, shape: tuple[int, ...] | None) -> np.ndarray:
        sample = self.samples[i]
        assert sample.mask is not None
        mask = read_mask(sample.mask)
        if shape is not None and mask.shape[:2] != shape[:2]:
            (h, w), (mh, mw) = shape[:2], mask.shape[:2]
            hint = (
                "turned by 90 degrees: an EXIF orientation?" if (h, w) == (mw, mh) else "a mask needs its image's size"
            )
            raise BadSample(Problem(str(sample.mask), "size mismatch", f"mask {mh}x{mw}, image {h}x{w} (HxW)", hint))
        return self.code.classes(mask, sample.mask)

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        image = read_image(self.samples[i].image, self.bits)
        return image, self._label(i, image.shape) if self.labelled else None

    def examine(self, i: int) -> Examined:
        problems, image, label = [], None, None
        try:
            image = read_image(self.samples[i].image, self.bits)
        except BadSample as bad:
            problems.append(bad.problem)
        if self.samples[i].mask is not None:
            try:
                label = self._label(i, None if image is None else image.shape)
            except BadSample as bad:
                problems.append(bad.problem)
        return Examined(label, problems, content_of(image))

    def why_unlabelled(self) -> list[Problem]:
        root = Path(self.options.get("root", self.source))
        return why_unlabelled(root, [sample.image for sample in self.samples])

    def shape(self, i: int) -> tuple[int, int]:
        with contextlib.suppress(OSError, ValueError), Image.open(self.samples[i].image) as picture:  # its head alone
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return picture.size if turned else (picture.height, picture.width)
        return super().shape(i)  # says what is wrong with it

    def fingerprint(self) -> str:
        files = []
        for sample in self.samples:
            files.append([sample.key, *(_print_of(path) for path in (sample.image, sample.mask) if path is not None)])
        depth = [] if self.bits in (None, 16) else [self.bits]
        return self._hash([files, self.code.values, self.code.ignored, *depth])
