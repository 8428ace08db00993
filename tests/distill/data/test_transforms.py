"""Joint geometry: image and label stay together, sizes hold, padding is the mean colour and 255."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kdc.distill.data import IGNORE
from kdc.distill.data._transforms import FILL, draw_window, jitter, view

sides = st.integers(8, 60)
seeds = st.integers(0, 2**32 - 1)


def ramp(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose channels are its row and column, and a label of four quadrants."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows * 4, columns * 4, rows * 0], -1).astype(np.uint8)
    label = ((rows >= height // 2) * 2 + (columns >= width // 2)).astype(np.uint8)
    return image, label


@settings(max_examples=60, deadline=None)
@given(sides, sides, sides, sides, seeds)
def test_label_follows_image(height: int, width: int, crop_h: int, crop_w: int, seed: int) -> None:
    image, label = ramp(height, width)
    seen, classes = view(image, label, np.random.default_rng(seed), crop=(crop_h, crop_w))
    assert seen.shape == (crop_h, crop_w, 3) and classes.shape == (crop_h, crop_w)
    assert seen.dtype == classes.dtype == np.uint8 and seen.flags.c_contiguous and classes.flags.c_contiguous
    inside = classes != IGNORE
    assert (seen[~inside] == FILL).all()
    row, column = seen[..., 0] / 4, seen[..., 1] / 4
    wrong_row = inside & ((row >= height // 2) != classes >> 1 & 1)
    wrong_column = inside & ((column >= width // 2) != classes & 1)
    # nearest and bilinear may disagree within one source pixel of the border between two quadrants
    assert (np.abs(row[wrong_row] - (height // 2 - 0.5)) <= 1.0).all()
    assert (np.abs(column[wrong_column] - (width // 2 - 0.5)) <= 1.0).all()


@settings(max_examples=200, deadline=None)
@given(sides, sides, sides, sides, seeds)
def test_window_lies_in_the_source_and_keeps_the_scale(h: int, w: int, crop_h: int, crop_w: int, seed: int) -> None:
    (top, left, height, width), (out_h, out_w) = draw_window(
        np.random.default_rng(seed), (h, w), (crop_h, crop_w), (0.5, 2.0)
    )
    assert 0 <= top < top + height <= h and 0 <= left < left + width <= w
    assert 1 <= out_h <= crop_h and 1 <= out_w <= crop_w
    for shown, out in ((height, out_h), (width, out_w)):
        assert shown * 0.5 - 1.5 <= out <= shown * 2.0 + 1.5


def test_every_scale_and_both_sides_are_drawn() -> None:
    sizes = {draw_window(np.random.default_rng(i), (100, 100), (400, 400), (0.5, 2.0))[1][0] for i in range(400)}
    assert sizes == set(range(50, 201, 10))
    image, label = ramp(16, 16)
    flipped = [
        view(image, label, np.random.default_rng(i), crop=(16, 16), scale=(1.0, 1.0))[0][0, 0, 1] > 30
        for i in range(200)
    ]
    assert 70 < sum(flipped) < 130


def test_at_scale_one_without_flip_pixels_are_untouched() -> None:
    image, label = ramp(20, 30)
    seen, classes = view(image, label, np.random.default_rng(0), crop=(24, 40), scale=(1.0, 1.0), flip=False)
    assert np.array_equal(seen[:20, :30], image) and np.array_equal(classes[:20, :30], label)
    assert (classes[20:] == IGNORE).all() and (classes[:, 30:] == IGNORE).all()


def test_labels_are_never_blended() -> None:
    label = np.where(np.mgrid[:40, :40][0] % 2 == 0, 3, 9).astype(np.uint8)
    image = np.zeros((40, 40, 3), np.uint8)
    for seed in range(20):
        _, classes = view(image, label, np.random.default_rng(seed), crop=(48, 48))
        assert set(np.unique(classes)) <= {3, 9, IGNORE}


def test_jitter_is_seeded_and_off_at_zero() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    assert jitter(image, np.random.default_rng(1), 0.0) is image
    first, again, other = (jitter(image, np.random.default_rng(seed), 0.4) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, image) and not np.array_equal(first, other)
    assert first.shape == image.shape and first.dtype == np.uint8


def test_labels_are_sampled_at_pixel_centres_as_images_are() -> None:
    """OpenCV's plain nearest-neighbour would lag behind the bilinear image by a quarter of a pixel here."""
    columns = np.mgrid[:100, :100][1].astype(np.uint8)
    image = np.repeat(2 * columns[..., None], 3, axis=2)  # doubled, so that rounding weighs less
    for seed in range(5):
        seen, classes = view(image, columns, np.random.default_rng(seed), crop=(150, 150), scale=(1.7, 1.7), flip=False)
        assert abs(float((classes - seen[..., 0] / 2).mean())) < 0.1
