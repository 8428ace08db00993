"""The built-in scenes: equal for equal settings, all classes there, labelled as generated."""

import numpy as np
import pytest

from kdc.distill.data import IGNORE, names, open_data, recipe, splits
from kdc.distill.errors import DataError, UsageError


def test_a_scene_depends_on_seed_split_and_index_alone() -> None:
    train = open_data("builtin", "train", size=(48, 96))
    image, label = train.read(3)
    train.read(7)
    again, same = open_data("builtin", "train", size=(48, 96)).read(3)
    assert label is not None and same is not None
    assert np.array_equal(image, again) and np.array_equal(label, same)
    others = [train.read(4), open_data("builtin", "val", size=(48, 96)).read(3)]
    others.append(open_data("builtin", "train", size=(48, 96), seed=1).read(3))
    assert not any(np.array_equal(image, other[0]) for other in others)


def test_shapes_types_and_ignored_region() -> None:
    data = open_data("builtin", "val")
    image, label = data.read(0)
    assert label is not None
    assert image.shape == (64, 128, 3) and image.dtype == np.uint8
    assert label.shape == (64, 128) and label.dtype == np.uint8
    assert data.size() == (64, 128) and len(data) == 60 and data.labelled
    ignored = (label == IGNORE).mean()
    assert 0.02 < ignored < 0.15
    assert label[label != IGNORE].max() < data.num_classes == len(data.palette) == 11


def test_every_class_is_common_enough_to_be_learned_and_measured() -> None:
    data = open_data("builtin", "val")
    labels = [label for label in (data.read(i)[1] for i in range(20)) if label is not None]
    pixels = np.bincount(np.concatenate([label.ravel() for label in labels]), minlength=256)[: data.num_classes]
    assert (pixels / pixels.sum() > 0.003).all(), dict(zip(data.classes, pixels, strict=True))


def test_colour_alone_does_not_give_the_class() -> None:
    """A nearest-mean-colour classifier fitted on the scenes themselves stays poor: context and texture are needed."""
    data = open_data("builtin", "val")
    pairs = [data.read(i) for i in range(12)]
    pixels = np.concatenate([image.reshape(-1, 3) for image, _ in pairs]).astype(np.float32)
    truth = np.concatenate([label.ravel() for _, label in pairs if label is not None])
    pixels, truth = pixels[truth != IGNORE], truth[truth != IGNORE]
    means = np.stack([pixels[truth == k].mean(0) for k in range(data.num_classes)])
    guess = ((pixels[:, None] - means) ** 2).sum(-1).argmin(1)
    iou = [((guess == k) & (truth == k)).sum() / ((guess == k) | (truth == k)).sum() for k in range(data.num_classes)]
    assert np.mean(iou) < 0.25


def test_it_says_that_it_is_generated() -> None:
    data = open_data("builtin", "train")
    assert any("generated" in note for note in data.notes)
    assert "generated" in data.key(0)


def test_reopened_from_its_own_source_and_options_it_is_the_same() -> None:
    data = open_data("builtin", "val", size=(32, 64), count=5, seed=3)
    again = open_data(data.source, "val", **data.options)
    assert data.fingerprint() == again.fingerprint() != open_data("builtin", "val", size=(32, 64)).fingerprint()
    assert np.array_equal(data.read(1)[0], again.read(1)[0])


def test_mistakes_are_named() -> None:
    with pytest.raises(DataError, match="accepted: train, val, test"):
        open_data("builtin", "trian")
    with pytest.raises(DataError, match="did you mean 'builtin'"):
        open_data("bultin", "train")
    with pytest.raises(UsageError, match=r"data.sise.*did you mean 'size'"):
        open_data("builtin", "train", sise=(32, 64))
    with pytest.raises(UsageError, match="at least 32"):
        open_data("builtin", "train", size=(8, 64))
    with pytest.raises(IndexError):
        open_data("builtin", "val").read(60)


def test_registry_is_the_folder() -> None:
    assert names() == ["builtin", "camvid", "folder"]
    assert splits("builtin") == ["train", "val", "test"]
    assert recipe("builtin")["train.crop"] == (64, 128) and recipe("camvid")["train.iters"] == 40000
