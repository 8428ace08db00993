"""Segment an image with the network beside this file; numpy and onnxruntime are all it needs.

    python run.py IMAGE --out mask.png     class numbers of every pixel: .png (coloured), .pgm or .npy
    python run.py --check                  segment the golden image and compare with its known mask

Images: .npy (uint8, height x width x 3, RGB) and .ppm are read by numpy, others by cv2 or PIL if one is installed.
"""

import argparse
import hashlib
import json
import math
import struct
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class GoldenFacts:
    """The golden image: where it is from, what made its mask, and the share of pixels that must agree."""

    data: str
    key: str
    generated: bool
    reference: str
    needed: float


@dataclass(frozen=True)
class Facts:
    """What network.json holds: names and form of input and output, (height, width), a batch that may be free, ..."""

    input: str
    output: str
    dtype: str
    layout: str
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
        self.facts = Facts(**values | {"golden": GoldenFacts(**values["golden"])})
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
        if facts.dtype == "float32":
            values = x if order == "rgb" else x[..., ::-1]
            scale = 1.0 / np.asarray(self.preprocess["std"], np.float32)
            x = (values * scale - np.asarray(mean, np.float32) * scale).astype(np.float32)
        if facts.layout == "NCHW":
            x = x.transpose(0, 3, 1, 2)

        batch = np.repeat(np.ascontiguousarray(x), facts.batch or 1, axis=0)
        out = np.asarray(self.session.run([facts.output], {facts.input: batch})[0])[0]
        if facts.head == "logits":
            return out[:, :h, :w]
        return out.reshape(height, width)[:h, :w].astype(np.uint8)


def fitted(size: Sequence[int], own: Sequence[int], fit: str) -> tuple[int, int]:
    """Return the size that an image is resized to before the rest of the network's ``own`` is padded."""
    (h, w), (height, width) = size, own
    # an image whose size was rounded up to a stride is padded
    rounded = any((-(-h // n) * n, -(-w // n) * n) == (height, width) for n in (1, 8, 16, 32))
    if h <= height and w <= width and (fit != "resize" or rounded):
        return h, w
    share = min(height / h, width / w)
    if fit == "resize":
        return height, width
    return max(1, min(height, round(h * share))), max(1, min(width, round(w * share)))


def resized(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resize uint8 ``(H, W, 3)`` bilinearly; where it shrinks, over all pixels that a new one covers."""
    for axis in (1, 0):
        old, new = image.shape[axis], size[axis]
        reach = max(1.0, old / new)  # where nothing changes, each new pixel is the old one
        apart = np.abs((np.arange(new)[:, None] + 0.5) * old / new - (np.arange(old) + 0.5))
        weights = np.maximum(0, 1 - apart / reach)
        weights = np.floor(2**22 * weights / weights.sum(1, keepdims=True) + 0.5)  # whole numbers, as Pillow has them
        values = np.tensordot(weights, image.astype(np.float64), axes=(1, axis))
        image = np.floor(np.moveaxis(values, 0, axis) / 2**22 + 0.5).clip(0, 255).astype(np.uint8)
    return image


def nearest(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resize a mask by taking the pixel below the centre of each new one."""
    rows, columns = ((2 * np.arange(n) + 1) * old // (2 * n) for n, old in zip(size, mask.shape, strict=True))
    return np.ascontiguousarray(mask[np.ix_(rows, columns)])


def step(length: int) -> int:
    """Return how far the next window is: two thirds of one, a third is covered again."""
    return max(1, math.ceil(length * (1 - 1 / 3) - 1e-9))


def starts(whole: int, part: int) -> list[int]:
    """Return where windows begin along a side; the last is moved back to the edge."""
    last, by = max(0, whole - part), step(part)
    return [min(first, last) for first in range(0, last + (by if last else 1), by)]


def fade(length: int) -> np.ndarray:
    """Return a window's weights along one side: 1, with a rise and a fall over what others cover again."""
    place = np.arange(length) + 0.5
    rise = np.sin(np.pi / 2 * np.minimum(place / max(length - step(length), 1), 1)) ** 2
    return (rise * rise[::-1]).astype(np.float32) if length > step(length) else np.ones(length, np.float32)


def owned(firsts: list[int], length: int, whole: int) -> list[tuple[int, int, int]]:
    """Return each window's first pixel and its share of ``whole``, cut half way between neighbours."""
    cuts = [0, *((a + b + length) // 2 for a, b in pairwise(firsts)), whole]
    return list(zip(firsts, cuts[:-1], cuts[1:], strict=True))


def read_image(path: Path, bits: int = 16) -> np.ndarray:
    """Return an image as uint8 RGB ``(H, W, 3)``; of 16-bit values that use ``bits``, the highest eight."""
    if not path.is_file():
        raise SystemExit(f"run.py: {path} does not exist")
    if path.suffix == ".npy":
        image = np.load(path, allow_pickle=False)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise SystemExit(f"run.py: {path} holds {image.dtype} {image.shape}; uint8 (height, width, 3) is needed")
        return image
    if path.suffix in (".ppm", ".pgm"):
        image = read_pnm(path)
        return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)

    try:
        import cv2

        picture = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        if picture is None:
            raise SystemExit(f"run.py: {path} cannot be read as an image")
        if picture.dtype == np.uint16:
            picture = np.minimum(np.asarray(picture) // 2 ** (bits - 8), 255).astype(np.uint8)
        return np.ascontiguousarray(picture[..., ::-1])
    except ImportError:
        pass

    try:
        from PIL import Image
    except ImportError:
        raise SystemExit(
            f"run.py: {path.suffix or 'this'} files need opencv-python or pillow; without them give .npy or .ppm"
        ) from None
    if bits < 16:
        raise SystemExit(
            f"run.py: this network learned from images of {bits} bits; to read them it needs opencv-python"
        )
    return np.asarray(Image.open(path, formats=("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")).convert("RGB"))


def read_pnm(path: Path) -> np.ndarray:
    """Return a binary .ppm as ``(H, W, 3)`` or .pgm as ``(H, W)``, uint8."""
    data = path.read_bytes()

    # the four words of the header
    words: list[bytes] = []
    at = 0
    while len(words) < 4 and at < len(data):
        end = at
        while end < len(data) and not data[end : end + 1].isspace():
            end += 1
        if data[at : at + 1] == b"#":  # a comment runs to the end of its line
            at = data.index(b"\n", at) + 1
            continue
        if end > at:
            words.append(data[at:end])
        at = end + 1

    channels = {b"P6": 3, b"P5": 1}.get(words[0] if words else b"", 0)
    if not channels or len(words) < 4 or words[3] != b"255":
        raise SystemExit(f"run.py: {path} is no binary .ppm or .pgm of 8 bits")

    width, height = int(words[1]), int(words[2])
    if len(data) - at < height * width * channels:
        raise SystemExit(f"run.py: {path} is cut off")
    pixels = np.frombuffer(data, np.uint8, height * width * channels, at)
    return pixels.reshape((height, width, 3) if channels == 3 else (height, width))


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write class numbers as .npy, .pgm or a .png in the colours of palette.json."""
    height, width = mask.shape
    if path.suffix == ".npy":
        np.save(path, mask)
    elif path.suffix == ".pgm":
        path.write_bytes(b"P5 %d %d 255\n" % (width, height) + mask.tobytes())
    elif path.suffix == ".png":
        palette = json.loads((HERE / "palette.json").read_text()) or [[k, k, k] for k in range(256)]
        palette += [[0, 0, 0]] * (int(mask.max()) + 1 - len(palette))
        rows = np.concatenate([np.zeros((height, 1), np.uint8), mask], axis=1)  # each row opens with its filter: none
        chunks = [
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            (b"PLTE", bytes(value for colour in palette for value in colour)),
            (b"IDAT", zlib.compress(rows.tobytes())),
            (b"IEND", b""),
        ]

        with path.open("wb") as file:
            file.write(b"\x89PNG\r\n\x1a\n")
            for kind, content in chunks:
                file.write(struct.pack(">I", len(content)) + kind + content)
                file.write(struct.pack(">I", zlib.crc32(kind + content)))
    else:
        raise SystemExit(f"run.py: --out {path}: .png, .pgm and .npy can be written")


def check_golden(network: Network) -> Check:
    """Compare the mask of the golden image with the known one."""
    expected, second = (read_pnm(HERE / name) for name in ("golden_mask.pgm", "golden_second.pgm"))
    mask = network.mask(read_pnm(HERE / "golden.ppm"))
    same = mask == expected
    share = float((same | (mask == second)).mean())
    return Check(float(same.mean()), share, share >= network.facts.golden.needed)


def main() -> None:
    """Run the command line; report any error in one line."""
    try:
        run()
    except Exception as error:  # onnxruntime's errors share no base class
        message = " ".join(str(error).split())[:300]
        raise SystemExit(f"run.py: {type(error).__name__}: {message}") from error


def run() -> None:
    """Read the command line, then check or segment."""
    parser = argparse.ArgumentParser(description="Segment an image with the network in this folder.")
    parser.add_argument("image", nargs="?", type=Path, help=".npy or .ppm; others need opencv-python or pillow")
    parser.add_argument("--out", type=Path, default=Path("mask.png"), help="mask file: .png, .pgm or .npy")
    parser.add_argument("--check", action="store_true", help="check the network on its golden image")
    parser.add_argument("--provider", default="CPUExecutionProvider", help="of onnxruntime")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves it to onnxruntime")
    arguments = parser.parse_args()
    if arguments.image is None and not arguments.check:
        parser.error("an image or --check is needed")
    network = Network(arguments.provider, arguments.threads)

    if arguments.check:
        result, needed = check_golden(network), network.facts.golden.needed
        verdict = "passed" if result.passed else "FAILED"
        sys.stdout.write(
            f"golden image: {verdict}, {100 * result.agreement:.3f} % of pixels agree "
            f"({100 * result.with_ties:.3f} % with ties; {100 * needed:.2f} % needed) by {network.ran_on}\n"
        )
        if not result.passed:
            sys.exit(6)

    if arguments.image is not None:
        mask = network.mask(read_image(arguments.image, network.preprocess.get("bits", 16)))
        write_mask(arguments.out, mask)
        labels = (HERE / "labels.txt").read_text().splitlines()
        shares = np.bincount(mask.ravel(), minlength=len(labels)) / mask.size
        most = ", ".join(f"{labels[k]} {100 * shares[k]:.1f} %" for k in shares.argsort()[::-1][:3] if shares[k])
        sys.stdout.write(f"{arguments.out}: {mask.shape[0]}x{mask.shape[1]}, {most}\n")


if __name__ == "__main__":
    main()
