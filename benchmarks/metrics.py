"""Time what evaluation does after the network: logits to labels, labels to counts (``--help`` lists the options)."""

import argparse
import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from kdc.distill import console
from kdc.distill.evaluate import labels_of
from kdc.distill.metrics import boundary_band, confusion


def counting_forms(pred: np.ndarray, label: np.ndarray, k: int) -> dict[str, Callable[[], object]]:
    """Return ways to count the same matrix."""
    tensors = torch.from_numpy(pred).long(), torch.from_numpy(label).long()

    def textbook() -> np.ndarray:
        keep = label != 255
        return np.bincount(k * label[keep].astype(np.int64) + pred[keep], minlength=k * k).reshape(k, k)

    def unmasked() -> np.ndarray:
        return np.bincount((label.astype(np.int64) * k + pred).ravel(), minlength=k * k)[: k * k].reshape(k, k)

    def torchmetrics(validate: bool) -> Callable[[], object]:
        library = importlib.import_module("torchmetrics.classification")
        metric = library.MulticlassConfusionMatrix(k, ignore_index=255, validate_args=validate)
        return lambda: metric(*tensors)

    forms: dict[str, Callable[[], object]] = {
        "kdc confusion (calcHist, values checked)": lambda: confusion(pred, label, k),
        "numpy bincount, no mask": unmasked,
        "numpy bincount, masked (textbook)": textbook,
    }
    if importlib.util.find_spec("torchmetrics"):  # no dependency: lightning-fabric imports it
        forms |= {"torchmetrics": torchmetrics(True), "torchmetrics, validation off": torchmetrics(False)}
    return forms


def labelling_forms(logits: torch.Tensor, size: tuple[int, int]) -> dict[str, Callable[[], object]]:
    """Return ways to turn the same logits into labels."""

    def plain(z: torch.Tensor) -> torch.Tensor:
        return F.interpolate(z, size=size, mode="bilinear", align_corners=True).argmax(1)

    channels_last = logits.contiguous(memory_format=torch.channels_last)
    return {
        "kdc labels_of (running maximum)": lambda: labels_of(logits, size),
        "upsample + argmax": lambda: plain(logits),
        "upsample + argmax, channels_last": lambda: plain(channels_last),
    }


def race(forms: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each form, measured in interleaved rounds after one warm-up."""
    samples: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(rounds + 1):
        for name, form in forms.items():
            start = time.perf_counter()
            form()
            if turn:
                samples[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(times) for name, times in samples.items()}


def main() -> None:
    """Measure, check that all forms agree, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--size",
        default="1024x2048",
        help="HxW (default: %(default)s, a Cityscapes image)",
    )
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)

    logits = torch.randn(
        1,
        options.classes,
        height // 8,
        width // 8,
        generator=torch.Generator().manual_seed(0),
    )
    pred = labels_of(logits, (height, width))[0].numpy()
    label = np.roll(pred, 5, axis=1)
    label[: height // 10] = 255

    counting = counting_forms(pred, label, options.classes)
    matrices = [np.asarray(form()) for form in counting.values()]
    assert all((m == matrices[0]).all() for m in matrices), "the forms count differently"
    result = {
        "counting": race(counting, options.rounds),
        "labelling": race(labelling_forms(logits, (height, width)), options.rounds),
        "band": race({"boundary_band, radius 3": lambda: boundary_band(label, 3)}, options.rounds),
    }
    for title, times in result.items():
        first = next(iter(times.values()))
        rows = [(name, f"{ms:.2f}", f"{ms / first:.1f}x") for name, ms in times.items()]
        console.table(
            f"{title}, one {options.size} image, {options.classes} classes",
            ("form", "ms", "against kdc"),
            rows,
        )
    console.emit(
        {
            "benchmark": "metrics",
            "size": [height, width],
            "classes": options.classes,
            "threads": options.threads,
            "ms": result,
        }
    )


if __name__ == "__main__":
    main()
