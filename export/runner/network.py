"""The network of a bundle: what its files say of it, and how an image becomes a mask."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from .images import read_pnm
from .sizes import enlarged, fade, fitted, nearest, owned, resized, starts

#: the folder that the bundle was unzipped to
HERE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class GoldenFacts:
    """The golden image: where it is from, what made its mask, and the share of pixels that must agree."""

    data: str
    key: str
    generated: bool
    reference: str
    needed: float


@dataclass(frozen=True)
class Answer:
    """How the output is read.

    Attributes:
        axes: N images, C classes, H rows, W columns; P is rows and columns in one.
        scores: "logits", "probs" or "labels".
        classes: how many of the channels count; of one channel two, told apart at logit 0 or probability 0.5.
        size: height and width of the output.
        threshold: of labels what is not 0 is class 1.
    """

    axes: str
    scores: str
    classes: int | None
    size: list[int] | None
    threshold: bool

    def read(self, out: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """Return the first image's scores ``(K, H, W)`` or uint8 labels ``(H, W)``, of a network's raw output."""
        axes = self.axes
        if "P" in axes:
            at, (h, w) = axes.index("P"), self.size or size
            out, axes = out.reshape(*out.shape[:at], h, w, *out.shape[at + 1 :]), axes.replace("P", "HW")
        if "N" in axes:
            out, axes = np.take(out, 0, axes.index("N")), axes.replace("N", "")
        out = np.moveaxis(out, axes.index("C"), 0) if "C" in axes else out[None]

        if self.scores == "labels":
            labels = out[0] != 0 if self.threshold or out.dtype == bool else np.rint(out[0])
            return nearest(labels.astype(np.uint8), size)
        scores = out[: self.classes].astype(np.float32)
        if len(scores) == 1:
            scores = np.concatenate([1 - scores if self.scores == "probs" else np.zeros_like(scores), scores])
        return enlarged(scores, size)


@dataclass(frozen=True)
class Facts:
    """What network.json holds: names and form of input and output, (height, width), a batch that may be free, ..."""

    input: str
    output: str
    answer: Answer
    dtype: str
    layout: str
    #: order of the colours that go in as bytes
    order: str
    head: str
    size: list[int]
    fit: str
    batch: int | None
    precision: str
    sha256: str
    golden: GoldenFacts
    versions: dict[str, str]


@dataclass(frozen=True)
class Check:
    """The mask of the golden image against the known one: shares of pixels that agree, without and with ties."""

    agreement: float
    with_ties: float
    passed: bool


class Network:
    """The network of this folder, on one provider of onnxruntime and no other."""

    def __init__(self, provider: str, threads: int) -> None:
        """Open model.onnx; ``threads`` 0 leaves their number to onnxruntime."""
        values = json.loads((HERE / "network.json").read_text())
        parts = {"golden": GoldenFacts(**values["golden"]), "answer": Answer(**values["answer"])}
        self.facts = Facts(**values | parts)
        file = HERE / "model.onnx"
        if hashlib.sha256(file.read_bytes()).hexdigest() != self.facts.sha256:
            raise SystemExit(
                "run.py: model.onnx is not the file that was bundled (its sha256 is another); unzip it again"
            )

        import onnxruntime

        self.preprocess = json.loads((HERE / "preprocess.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        if provider not in (available := onnxruntime.get_available_providers()):
            raise SystemExit(f"run.py: --provider {provider}: this onnxruntime has {', '.join(available)}")
        self.session = onnxruntime.InferenceSession(str(file), options, providers=[provider])
        ran = self.session.get_providers()[0]
        if ran != provider:
            raise SystemExit(f"run.py: {provider} was asked for, onnxruntime fell back to {ran}")
        self.ran_on = f"onnxruntime {onnxruntime.__version__} ({ran})"

    def mask(self, image: np.ndarray) -> np.ndarray:
        """Return the class numbers, uint8 ``(H, W)``, of an RGB image of any size, uint8 ``(H, W, 3)``."""
        size, own = image.shape[:2], self.facts.size
        if self.facts.fit == "tile" and np.any(np.greater(size, own)):
            return self.tiled(image)
        answer = self.answer(resized(image, fitted(size, own, self.facts.fit)))
        return nearest(answer if answer.ndim == 2 else answer.argmax(0).astype(np.uint8), size)

    def tiled(self, image: np.ndarray) -> np.ndarray:
        """Return the mask of a large image from overlapping windows: by their blended logits, or joined half way."""
        (height, width), (h, w) = image.shape[:2], np.minimum(image.shape[:2], self.facts.size).tolist()
        tops, lefts = starts(height, self.facts.size[0]), starts(width, self.facts.size[1])
        mask = np.empty((height, width), np.uint8)
        if self.facts.head == "argmax":
            for (top, y0, y1), (left, x0, x1) in product(owned(tops, h, height), owned(lefts, w, width)):
                part = self.answer(image[top : top + h, left : left + w])
                mask[y0:y1, x0:x1] = part[y0 - top : y1 - top, x0 - left : x1 - left]
            return mask

        weight = fade(h)[:, None] * fade(w)
        band = np.zeros((0, h, width), np.float32)  # one row of windows
        for top, following in zip(tops, [*tops[1:], height], strict=True):
            for left in lefts:
                logits = self.answer(image[top : top + h, left : left + w])
                if not len(band):
                    band = np.zeros((len(logits), h, width), np.float32)
                band[:, :, left : left + w] += logits * weight
            done = following - top
            mask[top:following] = band[:, :done].argmax(0)
            band = np.concatenate([band[:, done:], np.zeros_like(band[:, :done])], axis=1)
        return mask

    def answer(self, image: np.ndarray) -> np.ndarray:
        """Run an image that is not larger than the network's input: logits ``(K, H, W)`` or a uint8 mask ``(H, W)``."""
        facts = self.facts
        height, width = facts.size
        h, w = image.shape[:2]

        # padded with the mean colour, to the right and below
        mean, order = self.preprocess["mean"], self.preprocess["order"]
        x = np.empty((1, height, width, 3), np.uint8)
        x[:] = np.rint(mean if order == "rgb" else mean[::-1]).astype(np.uint8)
        x[0, :h, :w] = image

        # normalised, unless the network does it
        if facts.dtype == "uint8":
            x = x if facts.order == "rgb" else x[..., ::-1]
        else:
            values = x if order == "rgb" else x[..., ::-1]
            scale = 1.0 / np.asarray(self.preprocess["std"], np.float32)
            x = (values * scale - np.asarray(mean, np.float32) * scale).astype(facts.dtype)
        if facts.layout == "NCHW":
            x = x.transpose(0, 3, 1, 2)

        batch = np.repeat(np.ascontiguousarray(x), facts.batch or 1, axis=0)
        out = np.asarray(self.session.run([facts.output], {facts.input: batch})[0])
        return facts.answer.read(out, facts.size)[..., :h, :w]


def check_golden(network: Network) -> Check:
    """Compare the mask of the golden image with the known one."""
    expected, second = (read_pnm(HERE / name) for name in ("golden_mask.pgm", "golden_second.pgm"))
    mask = network.mask(read_pnm(HERE / "golden.ppm"))
    same = mask == expected
    share = float((same | (mask == second)).mean())
    return Check(float(same.mean()), share, share >= network.facts.golden.needed)
