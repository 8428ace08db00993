"""From a file in memory to a mask, stage by stage: where the time of a whole query goes."""

import time
from collections.abc import Callable

import cv2
import numpy as np

from ...distill.errors import UsageError
from ..runtimes.base import Runtime, enlarged, labels

#: kinds of files, and their settings in OpenCV
CODECS = {"jpg": [cv2.IMWRITE_JPEG_QUALITY, 90], "png": [cv2.IMWRITE_PNG_COMPRESSION, 3]}


def encoded(images: np.ndarray, codec: str) -> list[list[bytes]]:
    """Compress uint8 images ``(M, N, H, W, 3)`` as ``M`` queries of ``N`` files.

    The images are smoothed down to a little noise, so that decoding costs about what it costs for a photograph.

    Raises:
        UsageError: another codec.
    """
    if codec not in CODECS:
        raise UsageError(f"codec '{codec}' is not known; accepted: {', '.join(CODECS)}")
    height, width = images.shape[2:4]
    queries = []
    for query in images:
        files = []
        for noise in query:
            coarse = np.ascontiguousarray(noise[:: max(1, height // 16), :: max(1, width // 16)])
            smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
            photo = cv2.addWeighted(smooth, 0.96, noise, 0.04, 0)
            files.append(cv2.imencode(f".{codec}", photo, CODECS[codec])[1].tobytes())
        queries.append(files)
    return queries


def whole(runtime: Runtime, files: list[bytes]) -> Callable[[], dict[str, float]]:
    """Return a function that turns compressed files into masks once and says what each stage took, in milliseconds.

    The stages are decode, preprocess, network, resize (of logits that are smaller than the input) and argmax; the last
    two take near nothing where the network does them itself. ``total`` is their sum. A runtime that turns images into
    masks on its device has one stage, ``mask``, for all but decoding.
    """
    on_device = type(runtime).masks is not Runtime.masks

    def step() -> dict[str, float]:
        marks = [time.perf_counter_ns()]

        def mark() -> None:
            marks.append(time.perf_counter_ns())

        images = np.stack([cv2.cvtColor(_decode(file), cv2.COLOR_BGR2RGB) for file in files])
        mark()
        if on_device:
            runtime.masks(images)
            mark()
            return _between(("decode", "mask"), marks)

        x = runtime.prepare(images)
        mark()
        out = runtime.infer(x)
        mark()
        if runtime.spec.head == "logits":
            out = enlarged(out, runtime.spec.size)
        mark()
        if runtime.spec.head == "logits":
            out = labels(out, runtime.spec.size)
        mark()
        return _between(("decode", "preprocess", "network", "resize", "argmax"), marks)

    return step


def _decode(file: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None  # written by ``encoded``
    return image


def _between(names: tuple[str, ...], marks: list[int]) -> dict[str, float]:
    parts = {name: (end - start) / 1e6 for name, start, end in zip(names, marks[:-1], marks[1:], strict=True)}
    return parts | {"total": (marks[-1] - marks[0]) / 1e6}
