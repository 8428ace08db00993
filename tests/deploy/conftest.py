"""What the tests of measurements share: a small network to measure."""

from collections.abc import Callable
from pathlib import Path

import pytest

from .._made import chain


@pytest.fixture
def network() -> Callable[..., Path]:
    """Give a function that writes an ONNX file of ``repeat`` convolutions after each other."""
    return chain
