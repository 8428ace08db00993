"""Images and masks in files: decoding them, finding their faults, turning mask values into classes."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import one_line
from ..lfs import is_pointer
from . import BadSample, Problem
from ._codes import Colour

IMAGE_TYPES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"}
# JPEG is among them so that such masks are refused by name, not overlooked
MASK_TYPES = {".png", ".bmp", ".tif", ".tiff", ".gif", ".pgm", ".ppm", ".jpg", ".jpeg"}
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
#: what a file may be, whatever its name says: for others Pillow may start a program, as Ghostscript for PostScript
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
#: pixels; a small file may claim to hold far more than memory does
LARGEST_IMAGE = 2**28


def _load(path: Path) -> bytes:
    """Return the file's bytes, once it is known to be complete.

    Decoders may silently fill the rest of a truncated file with grey, so its end mark is looked for.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadSample(Problem(str(path), "missing", error.strerror or str(error))) from error
    if is_pointer(data):
        raise BadSample(Problem(str(path), "not fetched", "it is a git-lfs pointer", "git lfs pull"))
    if data.startswith(_PNG):
        whole = data.rfind(b"IEND\xaeB`\x82") > 0
    elif data.startswith(_JPEG):
        whole = _whole_jpeg(data)
    else:
        whole = len(data) > 0
    if not whole:
        raise BadSample(Problem(str(path), "truncated", f"ends after {len(data)} bytes", "copy or download it again"))
    return data


def _opened(path: Path, data: bytes) -> Image.Image:
    """Read the header of an image.

    Raises:
        BadSample: it is of a format that kdc does not read, broken, or claims more than ``LARGEST_IMAGE`` pixels.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            picture = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise BadSample(Problem(str(path), "too large", str(error))) from error
    except UnidentifiedImageError as error:
        hint = f"accepted: {', '.join(_FORMATS)}"
        raise BadSample(Problem(str(path), "unreadable", f"{len(data)} bytes of no known format", hint)) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise BadSample(Problem(str(path), "unreadable", one_line(error))) from error

    width, height = picture.size
    if width * height > LARGEST_IMAGE:
        hint = f"at most {LARGEST_IMAGE} pixels; cut it into tiles"
        raise BadSample(Problem(str(path), "too large", f"its header says {height}x{width}", hint))
    return picture


def _whole_jpeg(data: bytes) -> bool:
    """Return whether an end mark follows the first scan (an embedded thumbnail, before it, has its own)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xDA:  # start of scan; inside the scans FF D9 cannot occur by chance
            return data.find(b"\xff\xd9", at) > 0
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])
    return False


def read_image(path: Path, bits: int | None = None) -> np.ndarray:
    """Decode an image to uint8 H,W,3 RGB (grey ones become three channels; an EXIF orientation is applied).

    Args:
        path: the file.
        bits: what a value of a 16-bit image has, of which the highest eight are kept; None for all 16.

    Raises:
        BadSample: missing, truncated or unreadable, or values that need more than ``bits``.
    """
    image = decode_image(path, cv2.IMREAD_COLOR if bits in (None, 16) else cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if bits is not None and image.dtype == np.uint16:
        if (most := int(image.max())) >> bits:
            hint = f"more bits: --set data.bits={most.bit_length()}, and in kdc predict --bits"
            raise BadSample(Problem(str(path), "too deep", f"values up to {most}, which {bits} bits do not hold", hint))
        image = (image >> (bits - 8)).astype(np.uint8)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def decode_image(path: Path, flags: int = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) -> np.ndarray:
    """Decode an image to H,W,3 BGR as OpenCV's ``flags`` say, by default at the depth of the file.

    Raises:
        BadSample: missing, truncated or unreadable.
    """
    data = _load(path)
    _opened(path, data)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise BadSample(Problem(str(path), "unreadable", f"{len(data)} bytes that do not decode as an image"))
    return image


def read_mask(path: Path) -> np.ndarray:
    """Decode a mask to its stored values: 2-D uint8 or uint16, or uint8 H,W,3 RGB where the channels differ.

    Palette indices stay indices (OpenCV would turn them into colours) and values below 8 bits stay small (OpenCV would
    stretch them to 255), so those go through Pillow.

    Raises:
        BadSample: missing, truncated or unreadable.
    """
    data = _load(path)
    picture = _opened(path, data)
    # byte 24 of a PNG is its bit depth, byte 25 its colour type: 0 grey, 2 RGB
    plain = data.startswith(_PNG) and ((data[25] == 0 and data[24] >= 8) or (data[25] == 2 and data[24] == 8))
    if plain:
        mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if mask is None:
            raise BadSample(Problem(str(path), "unreadable", f"{len(data)} bytes that do not decode as a mask"))
        if mask.ndim == 3:
            mask = cv2.cvtColor(mask, cv2.COLOR_BGR2RGB)
    else:
        mask = _pillow_mask(path, data, picture)
    if mask.ndim == 3 and np.array_equal(mask[..., 0], mask[..., 1]) and np.array_equal(mask[..., 0], mask[..., 2]):
        mask = np.ascontiguousarray(mask[..., 0])
    return mask


def _pillow_mask(path: Path, data: bytes, picture: Image.Image) -> np.ndarray:
    try:
        with picture:
            if picture.format == "JPEG":
                hint = "JPEG changes values; save masks as PNG"
                raise BadSample(Problem(str(path), "encoding", "a JPEG mask", hint))
            if picture.mode in ("RGBA", "CMYK", "YCbCr"):
                picture = picture.convert("RGB")
            elif picture.mode == "LA":
                picture = picture.convert("L")
            mask = np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise BadSample(Problem(str(path), "unreadable", str(error))) from error
    if data.startswith(_PNG) and data[25] == 0 and data[24] in (2, 4):
        mask = mask // (255 // (2 ** data[24] - 1))  # Pillow stretches 2 and 4 bits to 255
    if mask.dtype not in (np.bool_, np.uint8, np.uint16, np.int32):
        raise BadSample(Problem(str(path), "encoding", f"values of type {mask.dtype}", "save whole numbers as PNG"))
    if mask.dtype == np.int32:
        mask = mask.clip(0, 65535).astype(np.uint16)
    return mask.astype(np.uint8) if mask.dtype == np.bool_ else mask


def palette_of(path: Path) -> tuple[Colour, ...]:
    """Return the colours of a palette mask, in index order; empty when it has no palette or cannot be read."""
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            flat = picture.getpalette() if picture.mode == "P" else None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return ()
    flat = flat or []
    return tuple((flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat) - 2, 3))


@dataclass(frozen=True)
class Sample:
    """One image file, its mask file (None in an unlabelled split) and the name shown for both."""

    key: str
    image: Path
    mask: Path | None
