"""How the output of a network is read: which one, what its axes are, and what its values mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from ...distill.errors import WeightsError
from ...distill.preprocess import Preprocess
from ...distill.run.records import Record
from .said import SCORES

#: masks are bytes, and 255 is what counts nowhere
MOST_CLASSES = 255


@dataclass(frozen=True)
class Port:
    """An input or output of a file; None in ``shape`` stands for a free dimension."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Answer(Record):
    """How the output of a network is read.

    Attributes:
        name: of the output.
        axes: what its axes are: N images, C classes, H rows, W columns; P is rows and columns in one.
        scores: "logits", "probs" or "labels".
        channels: how many the output has; None for labels.
        classes: how many classes they stand for: two for one channel; None for labels of unknown number.
        size: height and width of the output.
        threshold: labels that come from a comparison: what is not 0 is class 1.
        how: what settled each of these, in words.
    """

    OPTIONAL: ClassVar = ("channels", "classes", "size")

    name: str = ""
    axes: str = "NCHW"
    scores: str = "logits"
    channels: int | None = None
    classes: int | None = None
    size: tuple[int, int] | None = None
    threshold: bool = False
    how: dict[str, str] = field(default_factory=dict)

    def read(self, out: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return what ``Runtime.infer`` promises of the raw output of a network whose input has ``size``.

        Raises:
            WeightsError: a label that no mask holds.
        """
        batched = self._batched(out)
        if self.scores != "labels":
            return self._two_or_more(batched)
        return self._labels(batched, size)

    def _batched(self, out: np.ndarray) -> np.ndarray:
        """Return ``(N, C, h, w)``, or ``(N, h, w)`` of labels."""
        axes = self.axes
        if "P" in axes:
            at, (h, w) = axes.index("P"), self.size or (1, out.shape[axes.index("P")])
            out, axes = out.reshape(*out.shape[:at], h, w, *out.shape[at + 1 :]), axes.replace("P", "HW")
        missing = [letter for letter in "NC" if letter not in axes]
        out = out.reshape(*(1 for _ in missing), *out.shape)
        out = out.transpose([("".join(missing) + axes).index(letter) for letter in "NCHW"])
        return out[:, 0] if self.scores == "labels" else out

    def _two_or_more(self, out: np.ndarray) -> np.ndarray:
        if out.shape[1] > 1:
            return out[:, : self.classes]
        # a second channel, so that the larger of the two is class 1 where the logit is above 0, the probability above
        # a half
        out = out.astype(np.float32, copy=False)
        return np.concatenate([1 - out if self.scores == "probs" else np.zeros_like(out), out], axis=1)

    def _labels(self, out: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        if self.threshold or out.dtype == bool:
            out = out != 0
        elif out.dtype != np.uint8:
            out = np.rint(out) if out.dtype.kind == "f" else out
            least, most = (out.min(), out.max()) if out.size else (0, 0)
            if least < 0 or most > MOST_CLASSES:
                strange = int(least if least < 0 else most)
                raise WeightsError(f"output '{self.name}' gives label {strange}; accepted are 0 to {MOST_CLASSES}")
        out = out.astype(np.uint8, copy=False)
        if out.shape[1:] == size:
            return out
        return np.asarray([cv2.resize(each, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT) for each in out])

    def line(self) -> str:
        """Say it in one line."""
        what = {"logits": "logits", "probs": "probabilities", "labels": "labels"}[self.scores]
        if self.channels == 1:
            what = "one channel, so two classes: 1 where it is above " + ("0" if self.scores == "logits" else "0.5")
        elif self.scores == "labels":
            what += "" if self.classes is None else f" of {self.classes} classes"
        else:
            what += f" of {self.classes} classes"
            if self.channels != self.classes:
                what += f" of {self.channels} (the last is what the data ignore)"
        place = "" if self.size is None else f" at {self.size[0]}x{self.size[1]}"
        return f"output '{self.name}' holds {what}, {self.axes}{place} ({'; '.join(dict.fromkeys(self.how.values()))})"


#: of a checkpoint
LOGITS = Answer()


@dataclass(frozen=True)
class Contract(Record):
    """What a file takes and gives, as it was settled, for records."""

    shape: list[int | None]
    dtype: str
    layout: str
    preprocess: Preprocess
    answer: Answer


def written(metadata: Mapping[str, Any], outputs: Sequence[Port], path: Path) -> Answer | None:
    """Return the answer that kdc has written into a file; None where it has not.

    Raises:
        WeightsError: it cannot be read, or names an output that the file does not have.
    """
    values = metadata.get("kdc.answer")
    if values is None:
        return None
    try:
        answer = Answer.from_dict(values)
        ranks = {port.name: len(port.shape) for port in outputs}
        if answer.name not in ranks or answer.scores not in SCORES:
            raise ValueError(f"output '{answer.name}', {answer.scores}")
        if not set(answer.axes) <= set("NCHWP") or not len(set(answer.axes)) == len(answer.axes) == ranks[answer.name]:
            raise ValueError(f"axes {answer.axes} of {ranks[answer.name]} dimensions")
    except (TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path}: its kdc.answer metadata cannot be read ({error}); make the file again") from error
    return answer
