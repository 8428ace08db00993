"""Windows over large images: how many, where, that they blend as the plain sum does, and what they leave as it was."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdc.distill import models
from kdc.distill.errors import UsageError
from kdc.distill.evaluation.evaluate import evaluate, model_predictor
from kdc.distill.evaluation.tiles import BLENDS, Tiling, _fade

K = 5


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("window", "overlap", "windows", "macs"),
    [
        ((512, 1024), 1 / 3, 9, 2.25),
        ((512, 512), 1 / 3, 18, 2.25),
        ((769, 769), 1 / 3, 8, 2.26),
        ((512, 512), 1 / 2, 21, 2.62),
        ((512, 512), 0.0, 8, 1.0),
        ((1024, 2048), 1 / 3, 1, 1.0),
    ],
)
def test_cityscapes_is_cut_as_the_published_evaluations_do(window, overlap, windows, macs):
    tiling = Tiling(window, overlap)
    tops, lefts = tiling.starts((1024, 2048))
    assert len(tops) * len(lefts) == windows
    assert tiling.macs((1024, 2048)) == pytest.approx(macs, abs=0.01)
    assert f"{macs:.2f}x" in tiling.describe((1024, 2048))


@pytest.mark.parametrize("seed", range(20))
def test_windows_lie_within_the_image_and_cover_it(seed):
    draw = np.random.default_rng(seed)
    tiling = Tiling(tuple(draw.integers(1, 40, 2).tolist()), float(draw.choice([0, 0.25, 1 / 3, 0.5, 0.9])))
    size = tuple(draw.integers(1, 120, 2).tolist())
    for starts, part, whole in zip(tiling.starts(size), tiling.window(size), size, strict=True):
        assert starts[0] == 0 and starts[-1] + part == whole
        assert all(0 < b - a <= part for a, b in itertools.pairwise(starts))


def score(window: np.ndarray) -> torch.Tensor:
    """Logits that depend on the place in the window, at a fourth of its size, as a network's do."""
    h, w = window.shape[:2]
    means = F.interpolate(torch.from_numpy(window).permute(2, 0, 1)[None].float(), size=(-(-h // 4), -(-w // 4)))[0]
    ramp = torch.linspace(0, 60, means.shape[2]).expand(means.shape[1:])
    return torch.stack([means[0], means[1], means[2], ramp + 90, means.mean(0) + 20])


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("overlap", [0.0, 1 / 3, 0.5, 0.8])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (33, 96), (20, 50), (71, 24)])
def test_the_mask_is_that_of_the_weighted_sum_over_the_whole_image(blend, overlap, height, width):
    tiling, image = Tiling((24, 32), overlap, blend), picture(height, width)
    (tops, lefts), (h, w) = tiling.starts((height, width)), tiling.window((height, width))
    total = np.zeros((K, height, width))
    weight = np.ones((h, w))
    if blend == "smooth":
        rows, columns = (_fade(n, n - tiling._step(n)).double().numpy() for n in (h, w))
        weight = rows[:, None] * columns
    for top in tops:
        for left in lefts:
            z = score(image[top : top + h, left : left + w])
            z = F.interpolate(z[None].double(), size=(h, w), mode="bilinear", align_corners=True)[0].numpy()
            total[:, top : top + h, left : left + w] += weight * z
    got = tiling.segment(score, image)
    # where two classes are equal to float32's digits either is right
    best = np.sort(total, axis=0)
    clear = best[-1] - best[-2] > 1e-5 * best[-1]
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(got[clear], total.argmax(0)[clear])


def test_neighbours_fade_into_each_other_and_nothing_weighs_nothing():
    fade = _fade(30, 10)
    assert torch.all(fade > 0) and torch.all(fade[10:20] == 1)
    torch.testing.assert_close(fade[20:] + fade[:10], torch.ones(10))
    assert torch.all(_fade(30, 0) == 1)


def test_a_network_sees_a_small_image_whole_and_a_large_one_in_windows():
    model = models.build("pspnet-mv2_035", K, seed=0)
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, x: seen.append(tuple(x[0].shape[2:])))
    small, large = picture(32, 64), picture(64, 96)
    tiled = model_predictor(model, tiling=Tiling((32, 64)))
    np.testing.assert_array_equal(tiled(small), model_predictor(model)(small))
    seen.clear()
    mask = tiled(large)
    assert mask.shape == (64, 96) and mask.dtype == np.uint8
    assert seen == [(32, 64)] * 6  # 3 rows (0, 22, 32) of 2


def test_one_window_of_many_alone_decides_where_no_other_lies():
    model = models.build("pspnet-mv2_035", K, seed=0)
    image = picture(32, 128)
    for blend in BLENDS:
        mask = model_predictor(model, tiling=Tiling((32, 64), 0.25, blend))(image)
        np.testing.assert_array_equal(mask[:, :40], model_predictor(model)(image[:, :64])[:, :40])


def test_a_network_that_is_shown_the_label_is_shown_its_windows():
    model = models.build("pspnet-mv2_035", K, seed=0, in_channels=4)
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    predict, truth = model_predictor(model, tiling=Tiling((32, 32), 0.0)), np.zeros((32, 64), np.uint8)
    truth[:, 32:] = 3
    predict(picture(32, 64), truth)
    left, right = (x[0, 3] for x in seen)
    assert len(left.unique()) == len(right.unique()) == 1 and right.mean() > left.mean()


def test_masks_are_joined_half_way():
    tiling, given = Tiling((4, 10), 0.2), iter(range(9))
    mask = tiling.join(lambda window: np.full(window.shape[:2], next(given), np.uint8), picture(4, 22))
    assert mask[0].tolist() == [0] * 9 + [1] * 6 + [2] * 7  # windows at 0, 8 and 12


def test_evaluation_takes_tiles_through_the_same_interface():
    class Four:
        name, split, labelled, classes = "four", "val", True, tuple("abcde")

        def __len__(self):
            return 1

        def key(self, i):
            return "one"

        def read(self, i):
            return picture(40, 80), truth

    model = models.build("pspnet-mv2_035", K, seed=0)
    predict = model_predictor(model, tiling=Tiling((32, 64)))
    truth = predict(picture(40, 80))
    assert evaluate(predict, Four()).pixel_accuracy == 1  # pyright: ignore[reportArgumentType]


def test_refusals():
    with pytest.raises(UsageError, match="accepted: 0 to"):
        Tiling((8, 8), 1.0)
    with pytest.raises(UsageError, match="accepted: smooth, uniform"):
        Tiling((8, 8), 0.5, "hann")


@pytest.mark.gpu
@pytest.mark.parametrize("blend", BLENDS)
def test_a_gpu_says_the_same(blend):
    model, image = models.build("pspnet-mv2_035", K, seed=0), picture(100, 150)
    tiling = Tiling((64, 64), blend=blend)
    on_cpu = model_predictor(model, tiling=tiling)(image)
    assert (model_predictor(model, "cuda", tiling=tiling)(image) == on_cpu).mean() > 0.99
