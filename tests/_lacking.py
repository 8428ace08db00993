"""What a test does where something is not to be had: it is skipped, and fails where everything must be there."""

import os
from typing import NoReturn

import pytest


def lacking(why: str) -> NoReturn:
    """Skip the test; fail it where KDC_CI is set, so that a green run has run it."""
    if os.environ.get("KDC_CI"):
        pytest.fail(why)
    pytest.skip(why)
