"""Input pipeline: images a second of resize-then-crop against cut-window-then-resize, from PNG, JPEG and memory.

The images are generated at Cityscapes' size; run it with ``python benchmarks/input.py``.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from kdc.distill.console import table
from kdc.distill.data import IGNORE, open_data
from kdc.distill.data._files import read_image, read_mask
from kdc.distill.data._transforms import FILL, view

Pair = tuple[np.ndarray, np.ndarray]


def resize_then_crop(image: np.ndarray, label: np.ndarray, rng: np.random.Generator, crop: tuple[int, int]) -> Pair:
    """Do what the papers' code does, in uint8: resize everything, pad, then crop and flip."""
    factor = 0.5 + 0.1 * int(rng.integers(16))
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    below, right = max(crop[0] - image.shape[0], 0), max(crop[1] - image.shape[1], 0)
    image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=FILL)
    label = cv2.copyMakeBorder(label, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(IGNORE,))
    top = int(rng.integers(image.shape[0] - crop[0] + 1))
    left = int(rng.integers(image.shape[1] - crop[1] + 1))
    image, label = image[top : top + crop[0], left : left + crop[1]], label[top : top + crop[0], left : left + crop[1]]
    if rng.random() < 0.5:
        image, label = image[:, ::-1], label[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(label)


def window_then_resize(image: np.ndarray, label: np.ndarray, rng: np.random.Generator, crop: tuple[int, int]) -> Pair:
    """Do what kdc does."""
    return view(image, label, rng, crop=crop)


def rounds(todo: list[Callable[[np.random.Generator], Pair]], count: int) -> list[float]:
    """Time the variants in interleaved rounds over the same draws; return median milliseconds."""
    times: list[list[float]] = [[] for _ in todo]
    for i in range(count + 2):
        for variant, spent in zip(todo, times, strict=True):
            rng = np.random.default_rng(i)
            start = time.perf_counter()
            variant(rng)
            spent.append(1e3 * (time.perf_counter() - start))
    return [float(np.median(spent[2:])) for spent in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="1024x2048", help="HxW of the source images")
    parser.add_argument("--crop", default="512x1024", help="HxW of the training crop")
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    (height, width), (crop_h, crop_w) = (map(int, text.split("x")) for text in (arguments.size, arguments.crop))
    cv2.setNumThreads(1)  # as in a loader process: the figures are for one core
    image, label = open_data("builtin", "train", size=(height, width)).read(0)
    assert label is not None
    with tempfile.TemporaryDirectory() as folder:
        png, jpeg, mask = (Path(folder, name) for name in ("image.png", "image.jpg", "label.png"))
        cv2.imwrite(str(png), image[..., ::-1])
        cv2.imwrite(str(jpeg), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        cv2.imwrite(str(mask), label)
        sources: dict[str, Callable[[], Pair]] = {
            "PNG": lambda: (read_image(png), read_mask(mask)),
            "JPEG q95": lambda: (read_image(jpeg), read_mask(mask)),
            "memory": lambda: (image, label),
        }
        geometries = (resize_then_crop, window_then_resize)
        names = [(source, geometry.__name__) for source in sources for geometry in geometries]
        todo = [
            lambda rng, read=read, geometry=geometry: geometry(*read(), rng, (crop_h, crop_w))
            for read in sources.values()
            for geometry in geometries
        ]
        spent = rounds(todo, arguments.rounds)
    rows = [
        {"source": source, "geometry": geometry, "ms": round(ms, 2), "images_per_s": round(1e3 / ms, 1)}
        for (source, geometry), ms in zip(names, spent, strict=True)
    ]
    title = f"generated image {arguments.size}, crop {arguments.crop}, scale 0.5-2, one core, uint8 out"
    table(title, ("source", "geometry", "ms", "img/s"), [tuple(row.values()) for row in rows])
    print(json.dumps({"benchmark": "input", "size": arguments.size, "crop": arguments.crop, "rows": rows}))


if __name__ == "__main__":
    main()
