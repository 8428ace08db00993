"""Evaluation over a tiny data set: shards add up, unlabelled splits are refused, labels equal upsample + argmax."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdc.distill.errors import DataError
from kdc.distill.evaluation.argmax import labels_of
from kdc.distill.evaluation.evaluate import evaluate, model_predictor

K = 4


class Tiny:
    """Six labelled 12x20 images; the red channel is the label."""

    name, split, labelled = "tiny", "val", True
    classes = ("a", "b", "c", "d")

    def __len__(self) -> int:
        return 6

    def key(self, i: int) -> str:
        return f"image{i}"

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        label = np.random.default_rng(i).integers(0, K, (12, 20), dtype=np.uint8)
        image = np.repeat(label[..., None], 3, axis=2)
        label[0] = 255
        return image, label


def open_tiny(**changes: Any) -> Any:
    data = Tiny()
    for name, value in changes.items():
        setattr(data, name, value)
    return cast(Any, data)


def red(image: np.ndarray) -> np.ndarray:
    return image[..., 0]


def test_a_perfect_prediction_scores_one() -> None:
    scores = evaluate(red, open_tiny())
    assert (scores.miou, scores.boundary_miou, scores.pixel_accuracy, scores.images) == (1.0, 1.0, 1.0, 6)


def test_shards_add_up() -> None:
    def wrong(image: np.ndarray) -> np.ndarray:
        return np.where(image[..., 0] == 2, np.uint8(1), image[..., 0])

    whole = evaluate(wrong, open_tiny())
    parts = evaluate(wrong, open_tiny(), indices=[0, 2, 4]) + evaluate(wrong, open_tiny(), indices=[1, 3, 5])
    assert parts.to_dict() == whole.to_dict()
    assert whole.iou[2] == 0.0 and whole.iou[3] == 1.0


def test_a_split_without_labels_is_refused() -> None:
    with pytest.raises(DataError, match="split 'val' of tiny has no labels"):
        evaluate(red, open_tiny(labelled=False))


def test_an_error_names_the_image() -> None:
    with pytest.raises(DataError, match="image0: prediction is 6x20 but label is 12x20"):
        evaluate(lambda image: image[:6, :, 0], open_tiny())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_labels_equal_upsampling_and_argmax(dtype: torch.dtype, channels_last: bool) -> None:
    logits = torch.randn(2, 7, 5, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[:, 3] = logits[:, 1]  # ties
    if channels_last:
        logits = logits.contiguous(memory_format=torch.channels_last)
    wide = logits if dtype == torch.float64 else logits.float()
    expected = F.interpolate(wide, size=(33, 65), mode="bilinear", align_corners=True).argmax(1)
    got = labels_of(logits, (33, 65))
    assert got.dtype == torch.uint8
    torch.testing.assert_close(got.long(), expected, rtol=0, atol=0)


class Stripes(nn.Module):
    """Logits that single out the class of the red value, at a quarter of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.9)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> SimpleNamespace:
        self.seen.append(images)
        red = images[:, :1, ::4, ::4].float()
        return SimpleNamespace(logits=self.drop(-(red - torch.arange(K).view(1, K, 1, 1)).abs()))


def test_model_predictor_feeds_uint8_and_returns_the_mask() -> None:
    model = Stripes().train()
    image = np.zeros((16, 24, 3), np.uint8)
    image[:, 12:] = 2
    mask = model_predictor(model)(image)
    assert (mask.dtype, mask.shape) == (np.uint8, (16, 24))
    assert (mask[:, :8] == 0).all() and (mask[:, 16:] == 2).all()
    assert not model.training
    (seen,) = model.seen
    assert (seen.dtype, tuple(seen.shape)) == (torch.uint8, (1, 3, 16, 24))
    assert seen.is_contiguous(memory_format=torch.channels_last) and seen.is_inference()
    np.testing.assert_array_equal(seen[0, 0].numpy(), image[..., 0])


def test_both_memory_formats_predict_alike() -> None:
    model = Stripes()
    image = np.random.default_rng(0).integers(0, K, (16, 24, 3), dtype=np.uint8)
    np.testing.assert_array_equal(model_predictor(model)(image), model_predictor(model, channels_last=False)(image))
