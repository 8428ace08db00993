"""Whole-image evaluation: one function scores a checkpoint, an ONNX file and every other runtime."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from .. import console
from ..errors import DataError
from ..label_hint import channel, fixed_codes
from ..losses import upsample
from .argmax import labels_of
from .metrics import Scores

if TYPE_CHECKING:
    from ..data import Dataset
    from .tiles import Tiling

#: uint8 RGB ``(H, W, 3)`` -> uint8 class mask ``(H, W)``
Predict = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Privileged:
    """A ``Predict`` that is shown the label with the image, as a label-assisted teacher is."""

    predict: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def __call__(self, image: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Return the mask of an image."""
        return self.predict(image, truth)


def evaluate(
    predict: Predict, dataset: "Dataset", *, indices: Sequence[int] | None = None, label: str = "", radius: int = 3
) -> Scores:
    """Score ``predict`` on a labelled split, one whole image at a time.

    Args:
        predict: turns a uint8 RGB image ``(H, W, 3)`` into a uint8 class mask ``(H, W)``.
        dataset: the split.
        indices: the images of this shard (default: all); scores of disjoint shards add up to the whole.
        label: of the progress bar.
        radius: half width of the boundary band in pixels.

    Raises:
        DataError: the split has no labels, or an image's prediction and label do not fit.
    """
    if not dataset.labelled:
        raise DataError(f"split '{dataset.split}' of {dataset.name} has no labels: it can be predicted, not evaluated")

    images = range(len(dataset)) if indices is None else indices
    scores = Scores.empty(dataset.classes, radius)
    for i in console.progress(images, len(images), label):
        image, truth = dataset.read(i)
        if truth is None:
            raise DataError(f"{dataset.key(i)} has no label: it can be predicted, not evaluated")
        try:
            scores.add(ask(predict, image, truth), truth)
        except DataError as error:
            raise DataError(f"{dataset.key(i)}: {error}") from error
    return scores


def ask(predict: Predict, image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the mask of an image; a privileged ``predict`` is shown the label with it."""
    return predict(image, truth) if isinstance(predict, Privileged) else predict(image)


def model_predictor(
    model: nn.Module,
    device: str | torch.device = "cpu",
    *,
    channels_last: bool = True,
    tiling: "Tiling | None" = None,
) -> Predict:
    """Return a ``predict`` that runs ``model`` on single images: inference mode, logits upsampled to the image, argmax.

    The model is moved to ``device`` and set to eval mode when the predictor is made; a training loop that
    validates sets train mode again itself.

    Args:
        model: takes uint8 ``(1, 3, H, W)`` RGB and returns an ``Output``. One with a fourth input channel is shown the
            label by its fixed codes, without noise.
        device: where it runs.
        channels_last: memory format of the input, faster on most devices.
        tiling: the windows that a larger image is taken in (default: every image whole).
    """
    model.to(device).eval()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    privileged = getattr(model, "in_channels", 3) == 4

    def logits_of(image: np.ndarray, truth: np.ndarray | None = None) -> Tensor:
        # H,W,3 viewed as 1,3,H,W is channels-last in memory already
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        inputs = [pixels.to(device).contiguous(memory_format=layout)]
        if privileged:
            assert truth is not None and isinstance(model.num_classes, int)
            labels = torch.from_numpy(truth)[None].to(device).long()
            inputs.append(channel(labels, fixed_codes(model.num_classes).to(device), 0.0, cast(Any, model)))
        logits = model(*inputs).logits
        if getattr(model, "align_corners", True):
            return logits
        return upsample(logits, pixels.shape[-2:], align_corners=False)

    @torch.inference_mode()
    def predict(image: np.ndarray, truth: np.ndarray | None = None) -> np.ndarray:
        arrays = [image] if truth is None else [image, truth]
        size = (image.shape[0], image.shape[1])
        if tiling is None or tiling.covers(size):
            return labels_of(logits_of(*arrays), size)[0].cpu().numpy()
        return tiling.segment(lambda *window: logits_of(*window)[0], *arrays)

    return Privileged(predict) if privileged else predict
