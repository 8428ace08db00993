"""What holds for all tests: those for a GPU are skipped where there is none, and none leaves ``--json`` switched on."""

import pytest

from kdc.distill import console


@pytest.fixture(autouse=True)
def for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what a command with ``--json`` sets for its process."""
    monkeypatch.setattr(console, "json_mode", False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA GPU on this machine"))
