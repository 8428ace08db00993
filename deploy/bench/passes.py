"""How often a file that takes images in tiles runs for one image."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..runtimes.file_info import FileInfo


def passes(info: "FileInfo | None", size: tuple[int, int], image: tuple[int, int]) -> str:
    """Say how often a file of ``size`` runs for an ``image`` (height, width); nothing where once is enough."""
    if info is None or info.fit != "tile":
        return ""
    from ...distill.evaluation.tiles import Tiling  # needs torch

    count = math.prod(map(len, Tiling(size).starts(image)))
    at, whole = (f"{height}x{width}" for height, width in (size, image))
    return f"takes an image of {whole} in {count} passes (tile); one is of {at}" if count > 1 else ""
