"""What holds for all tests: nothing of the user's is read or written, nothing stays switched on, no GPU is no fault."""

import os
from collections.abc import Iterator

import pytest

from kdc.distill import console


@pytest.fixture(scope="session", autouse=True)
def state_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the tests remember verdicts of ONNX files among themselves, all workers and their children in one folder."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "state"))
        yield


@pytest.fixture(autouse=True)
def for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what a command with ``--json`` sets for its process; no test has heard what another was told."""
    monkeypatch.setattr(console, "json_mode", False)
    monkeypatch.setattr(console, "_said", set())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA GPU on this machine"))
