"""Pictures of the report: colours and the choice of images are right."""

import base64
from collections.abc import Callable

import cv2
import numpy as np

from kdc.deploy.pictures import ERROR_COLOURS, colour_mask, data_uri, error_map
from kdc.deploy.report.strips import choose, strips
from kdc.distill.data import open_data


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
    assert decoded(data_uri(np.zeros((50, 1000, 3), np.uint8))).shape == (48, 960, 3)


def test_choice_of_images() -> None:
    drops = {i: {"after": 0.1 * i, "before": 0.1 * i + (0.2 if i == 4 else -0.3 if i == 6 else 0.0)} for i in range(8)}
    assert choose(drops) == [(0, "the hardest"), (4, "typical and lost most"), (6, "gained most")]
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


def test_a_palette_for_every_byte_leaves_255_grey() -> None:
    mask = np.array([[0, 254, 255]], np.uint8)
    painted = colour_mask(mask, [(1, 2, 3)] * 256)
    assert painted[0].tolist() == [[1, 2, 3], [1, 2, 3], list(ERROR_COLOURS["ignored"])]
