"""The confusion matrix against the golden values, those of torchmetrics, a textbook form, and the laws it keeps."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kdc.distill.errors import DataError
from kdc.distill.evaluation.metrics import Scores, boundary_band, confusion, iou_of

GOLDEN = Path(__file__).parents[2] / "golden" / "metric_miou.npz"
K = 5

labels = arrays(np.uint8, (7, 9), elements=st.sampled_from([0, 1, 2, 3, 4, 255]))
predictions = arrays(np.uint8, (7, 9), elements=st.integers(0, K - 1))


def names(k: int) -> tuple[str, ...]:
    return tuple(f"c{i}" for i in range(k))


def textbook(pred: np.ndarray, label: np.ndarray, k: int) -> np.ndarray:
    matrix = np.zeros((k, k), np.int64)
    for p, t in zip(pred.ravel(), label.ravel(), strict=True):
        if t != 255:
            matrix[t, p] += 1
    return matrix


def test_golden_values_of_the_official_metric() -> None:
    golden = np.load(GOLDEN)
    pred = golden["in_logits"].argmax(1).astype(np.uint8)
    label = golden["in_labels"].copy()
    label[(label < 0) | (label >= K)] = 255
    scores = Scores.empty(names(K))
    for p, t in zip(pred, label.astype(np.uint8), strict=True):
        scores.add(p, t)
    np.testing.assert_array_equal(scores.confusion, golden["out_confusion"])
    np.testing.assert_allclose(scores.iou, golden["out_iou"], rtol=1e-6)
    assert scores.miou == pytest.approx(float(golden["out_miou_zero"]), rel=1e-6)
    assert scores.miou_present == pytest.approx(float(golden["out_miou_nan"]), rel=1e-6)
    assert scores.pixel_accuracy == pytest.approx(float(golden["out_pixacc"]), rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(predictions, labels)
def test_equals_the_textbook_form(pred: np.ndarray, label: np.ndarray) -> None:
    np.testing.assert_array_equal(confusion(pred, label, K), textbook(pred, label, K))


@pytest.mark.parametrize("k", [2, 19, 150, 255])
def test_every_number_of_classes(k: int) -> None:
    rng = np.random.default_rng(k)
    pred = rng.integers(0, k, (31, 37), dtype=np.uint8)
    label = rng.integers(0, k, (31, 37), dtype=np.uint8)
    label[:3] = 255
    pred[0, 0], label[5, 5], pred[5, 5] = 255, k - 1, k - 1
    matrix = confusion(pred, label, k)
    assert matrix.dtype == np.int64
    assert matrix.sum() == 28 * 37
    np.testing.assert_array_equal(matrix, textbook(pred, label, k))


def test_agrees_with_torchmetrics() -> None:
    """The expected values are those of torchmetrics 1.9.0 (torch 2.15.0, CPU) on the same labels.

    ``MulticlassJaccardIndex(K, average="none", ignore_index=255)(pred, label)``, both as int64 tensors.
    """
    rng = np.random.default_rng(0)
    pred = rng.integers(0, K, (4, 16, 24), dtype=np.uint8)
    label = rng.integers(0, K, (4, 16, 24), dtype=np.uint8)
    label[rng.random(label.shape) < 0.2] = 255
    scores = Scores.empty(names(K))
    for p, t in zip(pred, label, strict=True):
        scores.add(p, t)
    expected = [0.125827819108963, 0.12039311975240707, 0.11347517371177673, 0.09777777642011642, 0.09388646483421326]
    np.testing.assert_allclose(scores.iou, expected, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(predictions, labels), min_size=2, max_size=4))
def test_counts_add_up_over_images(images: list[tuple[np.ndarray, np.ndarray]]) -> None:
    whole, parts = Scores.empty(names(K)), Scores.empty(names(K))
    for pred, label in images:
        whole.add(pred, label)
        part = Scores.empty(names(K))
        part.add(pred, label)
        parts = parts + part
    assert parts.to_dict() == whole.to_dict()
    np.testing.assert_array_equal(parts.band_confusion, whole.band_confusion)
    rows = np.concatenate([p for p, _ in images]), np.concatenate([t for _, t in images])
    np.testing.assert_array_equal(whole.confusion, confusion(*rows, K))


@settings(max_examples=30, deadline=None)
@given(predictions, labels, st.integers(0, 255))
def test_predictions_on_ignored_pixels_do_not_matter(pred: np.ndarray, label: np.ndarray, value: int) -> None:
    other = np.where(label == 255, np.uint8(value), pred)
    a, b = Scores.empty(names(K)), Scores.empty(names(K))
    a.add(pred, label)
    b.add(other, label)
    assert a.to_dict() == b.to_dict()
    np.testing.assert_array_equal(a.band_confusion, b.band_confusion)


def test_beyond_the_exact_range_of_float_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    pred, label = (rng.integers(0, K, (20, 20), dtype=np.uint8) for _ in range(2))
    label[0] = 255
    fast = confusion(pred, label, K)
    monkeypatch.setattr("kdc.distill.evaluation.metrics._EXACT", 1)
    monkeypatch.setattr(cv2, "calcHist", None)
    np.testing.assert_array_equal(confusion(pred, label, K), fast)


@settings(max_examples=40, deadline=None)
@given(labels, st.integers(1, 4))
def test_band_is_the_pixels_with_another_class_nearby(label: np.ndarray, radius: int) -> None:
    expected = np.zeros(label.shape, bool)
    here = np.argwhere(label != 255)
    for y, x in here:
        near = [label[v, u] for v, u in here if (v - y) ** 2 + (u - x) ** 2 <= radius**2]
        expected[y, x] = any(value != label[y, x] for value in near)
    np.testing.assert_array_equal(boundary_band(label, radius), expected)


def test_boundary_score_sees_only_the_band() -> None:
    label = np.zeros((20, 20), np.uint8)
    label[:, 10:] = 1
    far, near = label.copy(), label.copy()
    far[:, 0] = 1  # wrong far from the boundary
    near[:, 9] = 1  # wrong beside it
    scores = []
    for pred in (far, near):
        s = Scores.empty(("a", "b"), radius=2)
        s.add(pred, label)
        scores.append(s)
    assert scores[0].boundary_miou == 1.0
    assert scores[0].miou < 1.0
    assert scores[1].boundary_miou < scores[1].miou


def test_nothing_labelled_scores_zero() -> None:
    scores = Scores.empty(names(K))
    scores.add(np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8))
    assert (scores.miou, scores.miou_present, scores.boundary_miou, scores.pixel_accuracy) == (0.0, 0.0, 0.0, 0.0)
    assert not iou_of(scores.confusion)[1].any()


def test_values_that_are_no_class_are_refused() -> None:
    zero = np.zeros((4, 4), np.uint8)
    with pytest.raises(DataError, match=r"label holds 7; accepted are 0 to 4 and 255"):
        confusion(zero, zero + 7, K)
    with pytest.raises(DataError, match="prediction holds class 9"):
        confusion(zero + 9, zero, K)
    with pytest.raises(DataError, match="prediction is 2x4 but label is 4x4"):
        confusion(zero[:2], zero, K)
