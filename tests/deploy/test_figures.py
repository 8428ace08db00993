"""Pictures and charts of the report: points, ticks, colours and the choice of images are right."""

import base64
import re
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from kdc.deploy.pictures import ERROR_COLOURS, Series, _ticks, colour_mask, data_uri, error_map, line_chart, short
from kdc.deploy.report.strips import choose, strips
from kdc.distill.data import open_data


def test_chart_puts_points_where_they_belong() -> None:
    svg = line_chart(
        "Validation",
        [Series("a", [(0, 0.0), (100, 0.5)], "after"), Series("b", [(0, 0.5), (100, float("nan"))], "before")],
        percent=True,
    )
    lines = re.findall(r'<polyline class="line (\w+)" points="([^"]+)"', svg)
    points = {role: [tuple(map(float, p.split(","))) for p in text.split()] for role, text in lines}
    (x0, y0), (x1, y1) = points["after"]
    assert x0 < x1 and y0 > y1
    assert points["before"] == [(x0, y1)]
    assert 'aria-label="Validation: a ends at 50 %, b ends at 50 %"' in svg
    labels = sorted(float(y) for y in re.findall(r'class="name \w+" x="[\d.]+" y="([\d.]+)"', svg))
    assert labels[1] - labels[0] >= 14
    assert line_chart("empty", [Series("a", [], "after")]) == ""


def test_long_curves_are_averaged_and_wide_ranges_logarithmic() -> None:
    svg = line_chart("Loss", [Series("a", [(i, 1000.0 / i) for i in range(1, 5001)], "after")])
    (text,) = re.findall(r'points="([^"]+)"', svg)
    assert len(text.split()) <= 240 and "log scale" in svg


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.13, 0.47), (3, 3000), (-2, 5), (0.0, 0.3)])
def test_ticks_cover_the_range_with_round_values(low: float, high: float) -> None:
    ticks = _ticks(low, high)
    assert ticks[0] <= low + 1e-9 < ticks[1] and ticks[-2] < high - 1e-9 <= ticks[-1] and 3 <= len(ticks) <= 8
    assert all(len(short(t)) <= 5 for t in ticks)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.25, "0.25"), (40000, "40k"), (2e-5, "2e-05"), (1234, "1.234k"), (150, "150")]
)
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text


def test_error_map_tells_what_changed() -> None:
    truth = np.array([[0, 0, 0, 0, 255]], np.uint8)
    before = np.array([[0, 1, 1, 0, 1]], np.uint8)
    after = np.array([[0, 1, 0, 1, 1]], np.uint8)
    image = np.zeros((1, 5, 3), np.uint8)
    pixels = [tuple(int(v) for v in p) for p in error_map(image, truth, after, before)[0]]
    assert pixels[1:] == [ERROR_COLOURS[k] for k in ("wrong", "mended", "spoilt", "ignored")]
    assert len(set(pixels[0])) == 1  # right: the faded picture
    alone = [tuple(int(v) for v in p) for p in error_map(image, truth, after, None)[0]]
    assert alone[1] == alone[3] == ERROR_COLOURS["wrong"] and alone[2] == alone[0]


def decoded(uri: str) -> np.ndarray:
    """Return the RGB image in a data URI."""
    image = cv2.imdecode(np.frombuffer(base64.b64decode(uri.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def test_pictures_survive_the_encoding() -> None:
    painted = colour_mask(np.array([[0, 1], [255, 1]], np.uint8), [(10, 20, 30), (200, 100, 0)])
    np.testing.assert_array_equal(decoded(data_uri(painted)), painted)
    assert painted[0, 1].tolist() == [200, 100, 0] and len(set(painted[1, 0].tolist())) == 1
    assert decoded(data_uri(np.zeros((50, 1000, 3), np.uint8))).shape == (24, 480, 3)


def test_choice_of_images() -> None:
    judged = {i: {"after": 0.1 * i, "before": 0.1 * i + (0.2 if i == 4 else -0.3 if i == 6 else 0.0)} for i in range(8)}
    assert choose(judged) == [(0, "the hardest"), (4, "typical and lost most"), (6, "gained most")]
    assert choose({i: {"after": float(i)} for i in range(3)}) == [
        (0, "the hardest"),
        (1, "typical"),
        (2, "the easiest"),
    ]
    assert choose({}) == []


def test_strips_look_at_the_whole_split() -> None:
    data = open_data("builtin", "val", size=(48, 96), val_count=5)
    asked: list[bytes] = []

    def predict_with(shift: int) -> Callable[[np.ndarray], np.ndarray]:
        def predict(image: np.ndarray) -> np.ndarray:
            asked.append(image.tobytes())
            return np.full(image.shape[:2], shift, np.uint8)

        return predict

    drawn = strips(data, {"after": predict_with(2)}, {"after": "network"})
    assert len(set(asked)) == 5
    assert [p.name for p in drawn[0].panels] == ["image", "truth", "network", "errors"]
