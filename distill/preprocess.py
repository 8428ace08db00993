"""The preparation of an image for a network; it travels with every checkpoint and exported file."""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from .typed import typed

if TYPE_CHECKING:
    import numpy as np

#: how images of other sizes meet a network that is made for one, see ``evaluation.fit``
Policy = Literal["pad", "resize", "tile"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
#: where nothing else is said
PAD: Policy = "pad"


@dataclass(frozen=True)
class Preprocess:
    """``(channel - mean) / std`` on the 0-255 scale, channels in ``order`` ("rgb" or "bgr").

    ``bits`` is the depth of the 16-bit images, if any, that the network learned from: the highest eight are the scale.
    """

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    order: str = "rgb"
    bits: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        values: dict[str, Any] = {"mean": list(self.mean), "std": list(self.std), "order": self.order}
        return values | ({"bits": self.bits} if self.bits else {})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocess":
        """Undo ``to_dict``.

        Raises:
            ValueError: a value is missing, of another type, or one with which no image can be prepared.
        """
        if lacks := [key for key in ("mean", "std", "order") if key not in values]:
            raise ValueError(f"it does not say {', '.join(lacks)}")
        if values["order"] not in ("rgb", "bgr"):
            raise ValueError(f"order is {values['order']!r}, accepted are rgb and bgr")
        mean, std = (typed(values[key], tuple[float, float, float], key) for key in ("mean", "std"))
        if not all(map(math.isfinite, (*mean, *std))) or min(map(abs, std)) == 0:
            raise ValueError(f"mean {mean} and std {std} must be finite, and no deviation 0")
        bits = typed(values.get("bits"), int | None, "bits")
        if bits is not None and not 8 <= bits <= 16:
            raise ValueError(f"bits is {bits}, where 8 to 16 are expected")
        (a, b, c), (d, e, f) = (map(float, each) for each in (mean, std))
        return cls((a, b, c), (d, e, f), values["order"], bits)

    @property
    def reversed(self) -> "Preprocess":
        """The same for channels in the other order."""
        (a, b, c), (d, e, f) = self.mean, self.std
        return Preprocess((c, b, a), (f, e, d), "rgb" if self.order == "bgr" else "bgr")

    def sha(self) -> str:
        """Return the sha256 of the values: two files with the same hash prepare images alike."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def apply(self, images: "np.ndarray") -> "np.ndarray":
        """Turn uint8 RGB ``(N, H, W, 3)`` into float32 ``(N, 3, H, W)``."""
        import numpy as np

        values = images[..., ::-1] if self.order == "bgr" else images
        # one fused multiply-add: float32 subtraction and division would be two passes over the image
        scale = 1.0 / np.asarray(self.std, np.float32)
        shift = -np.asarray(self.mean, np.float32) * scale
        return np.ascontiguousarray((values * scale + shift).astype(np.float32).transpose(0, 3, 1, 2))


#: ImageNet mean and standard deviation of RGB on the 0-255 scale.
IMAGENET = Preprocess()
#: Caffe-style BGR minus mean, as the CIRKD-family "v1s" backbones expect (winycg/CIRKD dataset/*.py).
BGR_MEAN = Preprocess((104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0), "bgr")
#: the names that ``model.preprocess`` accepts
NAMED = {"imagenet": IMAGENET, "bgr-mean": BGR_MEAN}
