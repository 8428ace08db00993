"""A network made of numpy, images that it labels rightly, and the gate between two of them."""

from pathlib import Path
from typing import Any

import numpy as np

from kdc.deploy.parity.gate import GateResult, Tolerances, gate
from kdc.deploy.runtimes.base import Runtime, Spec
from kdc.distill.data import Dataset
from kdc.distill.preprocess import IMAGENET

SIZE, K = (8, 16), 3


class Made(Runtime):
    """Logits that follow the image, plus what ``wrong`` adds to them."""

    name, provider, precision, device, source = "made", "numpy", "fp32", "cpu", Path("made")

    def __init__(self, wrong: Any = 0.0, head: str = "logits", batch: int | None = 1) -> None:
        self.spec = Spec((batch, *SIZE, 3), "uint8", "NHWC", head, IMAGENET, ("a", "b", "c"))
        self.wrong, self.seen = wrong, []

    def _infer(self, x: np.ndarray) -> np.ndarray:
        self.seen.append(len(x))
        logits = x.transpose(0, 3, 1, 2).astype(np.float32) / 16 + self.wrong
        return logits if self.spec.head == "logits" else logits.argmax(1).astype(np.uint8)


class Images(Dataset):
    """Images smaller than the network's input, labelled by the right answer."""

    name, split, classes = "noise", "val", ("a", "b", "c")

    def __init__(self, count: int = 7, labelled: bool = True, size: tuple[int, int] = (8, 12)) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
        self.labelled = labelled

    def __len__(self) -> int:
        return len(self.images)

    def key(self, i: int) -> str:
        return f"image{i}"

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        return self.images[i], self.images[i].argmax(2).astype(np.uint8) if self.labelled else None


def judged(wrong: Any = 0.0, tolerances: Tolerances | None = None, data: Any = None, **runtime: Any) -> GateResult:
    tolerances = tolerances or Tolerances(1e-4, 0.9999, 0.5)
    return gate(Made(), Made(wrong, **runtime), Images() if data is None else data, tolerances, images=None)
