"""What is known of a file from outside of it: what the user's flags say, and what the data say."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...distill.errors import UsageError
from ...distill.preprocess import Preprocess
from ...distill.run.records import Record

if TYPE_CHECKING:
    from ...distill.data import Dataset

LAYOUTS = ("nchw", "nhwc")
SCORES = ("logits", "probs", "labels")


@dataclass(frozen=True)
class Said(Record):
    """What is known of a file from outside of it; None is not said.

    Attributes:
        output: name of the output that holds the answer.
        layout: "nchw" or "nhwc", of the answer, and of an image whose layout the file leaves open.
        scores: "logits", "probs" or "labels".
        preprocess: how images are prepared.
        order: "rgb" or "bgr": of the colours, where ``preprocess`` is not said.
        classes: how many the data have.
        void: the data ignore the number after their last class.
    """

    output: str | None = None
    layout: str | None = None
    scores: str | None = None
    preprocess: Preprocess | None = None
    order: str | None = None
    classes: int | None = None
    void: bool = False

    @property
    def flags(self) -> list[str]:
        """The flags that were given."""
        values = (("output-name", self.output), ("layout", self.layout), ("scores", self.scores))
        given = [f"--{name}" for name, value in values if value is not None]
        colours = ["--mean, --std or --scale"] if self.preprocess else [f"--{self.order}"] if self.order else []
        return [*given, *colours]

    def for_data(self, dataset: "Dataset") -> "Said":
        """Return the same with what the data say of a network: how many classes it has."""
        return replace(self, classes=dataset.num_classes, void=dataset.num_classes in dataset.ignored)


NOTHING = Said()


def preprocess_of(mean: str | None, std: str | None, scale: str | None, order: str) -> Preprocess | None:
    """Read how images are prepared, ``(byte * scale - mean) / std``; None where none of it is said.

    Args:
        mean: one number or three, in the order of the colours that the network takes.
        std: likewise.
        scale: one number, or a fraction such as ``1/255``.
        order: "rgb" or "bgr".

    Raises:
        UsageError: no such numbers, or numbers of another scale.
    """
    if mean is None and std is None and scale is None:
        return None
    factor = _numbers("--scale", scale or "1", 1)[0]
    shift, spread = _numbers("--mean", mean or "0", 3), _numbers("--std", std or "1", 3)
    if not 0 < factor <= 1:
        raise UsageError(
            f"--scale {scale}: bytes are multiplied by it, so above 0 and up to 1; for 0 to 1: --scale 1/255"
        )
    if min(spread) <= 0:
        raise UsageError(f"--std {std}: every number must be above 0")
    if factor == 1 and max(*shift, *spread) <= 1 and (mean, std) != (None, None) and (any(shift) or std is not None):
        words = " ".join(f"--{name} {value}" for name, value in (("mean", mean), ("std", std)) if value is not None)
        raise UsageError(f"{words} is for colours from 0 to 1, and bytes go to 255: add --scale 1/255")
    first, second, third = (value / factor for value in shift)
    a, b, c = (value / factor for value in spread)
    return Preprocess((first, second, third), (a, b, c), order)


def _numbers(flag: str, text: str, count: int) -> list[float]:
    """Read one number, or ``count`` with commas between them."""
    try:
        parts = [part.partition("/") for part in text.split(",")]
        values = [float(above) / float(below or 1) for above, _, below in parts]
        if len(values) not in (1, count) or not all(math.isfinite(value) for value in values):
            raise ValueError
    except (ValueError, ZeroDivisionError) as error:
        wanted = "a number, such as 1/255" if count == 1 else "one number or three, such as 123.7,116.3,103.5"
        raise UsageError(f"{flag} {text}: accepted is {wanted}") from error
    return values * (count // len(values)) if len(values) == 1 else values
