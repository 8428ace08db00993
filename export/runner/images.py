"""Reading images and writing masks."""

import struct
import zlib
from pathlib import Path

import numpy as np


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


def write_mask(path: Path, mask: np.ndarray, palette: list[list[int]]) -> None:
    """Write class numbers as .npy, .pgm or a .png in the colours of a palette; grey where it is empty."""
    height, width = mask.shape
    if path.suffix == ".npy":
        np.save(path, mask)
    elif path.suffix == ".pgm":
        path.write_bytes(b"P5 %d %d 255\n" % (width, height) + mask.tobytes())
    elif path.suffix == ".png":
        palette = palette or [[k, k, k] for k in range(256)]
        palette = palette + [[0, 0, 0]] * (int(mask.max()) + 1 - len(palette))
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
