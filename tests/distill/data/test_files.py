"""Files of images: what they are counts, not what they are called, and a header is believed before pixels are made."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from kdc.distill.data import BadSample
from kdc.distill.data._files import palette_of, read_image, read_mask

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) (w) file\nshowpage\n%%EOF\n"


def bomb(height: int, width: int) -> bytes:
    """Return a small PNG whose header says that it is large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_postscript_is_never_handed_to_a_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read) -> None:
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    file = tmp_path / "x.png"
    file.write_bytes(POSTSCRIPT)
    with pytest.raises(BadSample) as refused:
        read(file)
    assert refused.value.problem.kind == "unreadable"
    assert palette_of(file) == ()


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize("shape", [(30000, 30000), (1, 2**30), (2**20, 2**20)])
def test_a_bomb_is_refused_by_its_header(tmp_path: Path, read, shape: tuple[int, int]) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(bomb(*shape))
    with pytest.raises(BadSample) as refused:
        read(file)
    assert refused.value.problem.kind == "too large"


@pytest.mark.parametrize("length", [8, 20, 25, 26, 33])
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_a_header_that_is_cut_is_no_bug(tmp_path: Path, read, length: int) -> None:
    ending = b"\0\0\0\0IEND\xaeB`\x82"
    file = tmp_path / "x.png"
    file.write_bytes(bomb(8, 8)[:length] + ending)
    with pytest.raises(BadSample):
        read(file)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "ppm"])
def test_what_kdc_reads_is_still_read(tmp_path: Path, suffix: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    buffer, file = io.BytesIO(), tmp_path / f"x.{suffix}"
    Image.fromarray(image).save(buffer, {"tif": "TIFF", "ppm": "PPM"}.get(suffix, suffix.upper()), lossless=True)
    file.write_bytes(buffer.getvalue())
    assert np.array_equal(read_image(file), image)


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_a_git_lfs_pointer_is_named(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n")
    with pytest.raises(BadSample, match=r"a\.png: not fetched: it is a git-lfs pointer \(git lfs pull\)"):
        read(path)
