"""Segment an image with the network beside this file; numpy and onnxruntime are all it needs.

    python run.py IMAGE --out mask.png     class numbers of every pixel: .png (coloured), .pgm or .npy
    python run.py --check                  segment the golden image and compare with its known mask

Images: .npy (uint8, height x width x 3, RGB) and .ppm are read by numpy, others by cv2 or PIL if one is installed.
"""

import argparse
import hashlib
import json
import struct
import sys
import zlib
from dataclasses import dataclass
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
    """What network.json holds: names and form of input and output, (height, width), and a batch that may be free."""

    input: str
    output: str
    dtype: str
    layout: str
    head: str
    size: list[int]
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
        """Return the class numbers, uint8 ``(H, W)``, of an RGB image, uint8 ``(H, W, 3)``."""
        facts = self.facts
        height, width = facts.size
        h, w = image.shape[:2]
        if h > height or w > width:
            raise SystemExit(
                f"run.py: the image is {h}x{w}, this network takes up to {height}x{width}: make it smaller"
            )

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
            out = out.argmax(0)
        return np.ascontiguousarray(out.reshape(height, width)[:h, :w].astype(np.uint8))


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
    return np.asarray(Image.open(path).convert("RGB"))


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
