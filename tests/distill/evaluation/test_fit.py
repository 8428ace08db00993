"""Images of many sizes before a network of one, by each policy."""

import numpy as np
import pytest
from PIL import Image

from kdc.distill.evaluation.fit import SAMPLE, Fit, nearest, resized
from kdc.distill.evaluation.tiles import Tiling
from kdc.distill.preprocess import POLICIES

SIZE = (32, 64)
#: one pixel, narrow, a little smaller, its own, larger on one side, portrait, much larger
SIZES = [(1, 1), (1, 200), (31, 60), SIZE, (33, 64), (90, 20), (300, 500)]


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", SIZES)
def test_every_policy_takes_every_size(policy, size):
    fit, image = Fit(SIZE, policy), picture(size)
    label = image[..., 0] % 5
    views = fit.views(image, label)
    assert 1 <= len(views) <= (SAMPLE if fit.tiles(size) else 1)
    for view in views:
        assert view.image.shape[0] <= SIZE[0] and view.image.shape[1] <= SIZE[1] and min(view.image.shape) >= 1
        assert view.label is not None and view.label.shape == view.image.shape[:2]
        assert set(np.unique(view.label)) <= set(np.unique(label)), "no label is made up by resizing"
    assert fit.segment(image, lambda view: np.zeros(view.shape[:2], np.uint8)).shape == size


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("own", [SIZE, (25, 64), (32, 57), (17, 33)])
def test_data_of_one_size_are_the_same_to_every_policy(policy, own):
    """An image whose size was rounded up to a stride is padded, whatever stands in the file."""
    image = picture(own)
    fit = Fit((-(-own[0] // 8) * 8, -(-own[1] // 8) * 8) if own != (17, 33) else (32, 48), policy)
    (view,) = fit.views(image)
    assert view.image is image and not fit.describe(own)


def test_what_each_policy_does_with_other_images():
    small, wide, high = (8, 8), (64, 256), (128, 32)
    assert [Fit(SIZE, "pad").shape(size) for size in (small, wide, high)] == [(8, 8), (16, 64), (32, 8)]
    assert [Fit(SIZE, "resize").shape(size) for size in (small, wide, high)] == [SIZE, SIZE, SIZE]
    assert [Fit(SIZE, "tile").tiles(size) for size in (small, wide, high)] == [False, True, True]
    assert Fit(SIZE, "pad").describe(wide) == "an image of 64x256 is resized to 16x64, and its mask back"
    assert Fit(SIZE, "tile").describe(wide).startswith("tiles: 64x256 in 3x6 windows of 32x64")


def test_views_of_tiles_are_parts_of_the_image_with_their_labels():
    image = picture((100, 70))
    for view in Fit(SIZE, "tile").views(image, image[..., 1]):
        assert view.image.shape == (*SIZE, 3)
        np.testing.assert_array_equal(view.image[..., 1], view.label)


def test_tiles_are_blended_or_joined_as_evaluation_has_them():
    image = picture((70, 100))
    want = image[..., 0] // 100
    fit = Fit(SIZE, "tile", Tiling(SIZE, 0.5))
    np.testing.assert_array_equal(fit.segment(image, lambda view: view[..., 0] // 100), want)


@pytest.mark.parametrize("size", [(7, 5), (32, 64), (61, 9), (40, 200)])
def test_a_mask_comes_back_where_its_pixels_were(size):
    """Two halves stay two halves, and each new pixel has the value below its centre."""
    mask = np.zeros((32, 64), np.uint8)
    mask[:, 32:] = 1
    back = nearest(mask, size)
    centres = (np.arange(size[1]) + 0.5) * 64 / size[1]
    np.testing.assert_array_equal(back, np.broadcast_to(centres >= 32, size))


def test_shrinking_averages_all_that_a_pixel_covers():
    lines = np.zeros((64, 64, 3), np.uint8)
    lines[::2] = 200  # every second row: samples of single rows would show one or the other
    assert np.abs(resized(lines, (8, 8)).astype(int) - 100).max() < 10
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 3, 2)
    want = Image.fromarray(np.ascontiguousarray(ramp)).resize((16, 1), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized(ramp, (1, 16)), np.asarray(want))
