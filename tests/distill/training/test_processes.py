"""What the processes of a run agree on before each step."""

import signal
from typing import Any

import pytest
import torch

from kdc.distill.batch import IGNORE, Batch
from kdc.distill.training.processes import agree


class Ranks:
    """Fabric of one rank among others whose values are known."""

    device = torch.device("cpu")

    def __init__(self, others: dict[str, list[list[int]]]) -> None:
        self.others, self.world_size = others, 1 + len(others["max"])

    def all_reduce(self, value: torch.Tensor, reduce_op: str) -> torch.Tensor:
        every = torch.stack([value, *(torch.tensor(other).view_as(value) for other in self.others[reduce_op])])
        return every.amax(0) if reduce_op == "max" else every.sum(0)


@pytest.mark.parametrize(
    ("mine", "theirs", "agreed"),
    [
        (0, [0], 0),
        (0, [signal.SIGINT], signal.SIGINT),
        (signal.SIGTERM, [0], signal.SIGTERM),
        (signal.SIGINT, [signal.SIGINT] * 14, signal.SIGINT),  # 15 x SIGINT is not 2 x SIGTERM
        (signal.SIGINT, [signal.SIGTERM], signal.SIGTERM),
    ],
)
def test_a_signal_that_any_rank_got_stops_all(mine: int, theirs: list[int], agreed: int) -> None:
    labels = torch.tensor([[[0, 1], [IGNORE, 2]]])
    fabric: Any = Ranks({"max": [[number, 0] for number in theirs], "sum": [[5] for _ in theirs]})
    valid, stop = agree(fabric, [Batch(torch.zeros(1, 3, 2, 2), labels)], mine, None)
    assert stop == agreed and int(valid) == 3 + 5 * len(theirs) and not valid.is_floating_point()
