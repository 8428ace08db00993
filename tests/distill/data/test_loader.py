"""Training batches: the same for any number of workers and any restart, and no global generator is touched."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdc.distill.data import Dataset, open_data
from kdc.distill.data._loader import Order, TrainSamples, loader
from kdc.distill.errors import DataError, ResourceError, UsageError


def samples(**settings: Any) -> TrainSamples:
    return TrainSamples(open_data("builtin", "train", size=(32, 64), count=7), seed=5, crop=(32, 48), **settings)


def batches(workers: int = 0, start: int = 0, stop: int = 6, **settings: Any) -> list[dict[str, Any]]:
    return list(loader(samples(**settings), Order(7, 4, seed=5, start=start, stop=stop), workers))


def equal(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> bool:
    same = [
        torch.equal(x["image"], y["image"]) and torch.equal(x["label"], y["label"]) and x["key"] == y["key"]
        for x, y in zip(a, b, strict=True)
    ]
    return all(same)


def test_a_sample_depends_on_seed_epoch_and_index_alone() -> None:
    one = samples()
    first = one[2, 3]
    one[0, 1]
    assert torch.equal(first["image"], samples()[2, 3]["image"])
    assert not torch.equal(first["image"], one[3, 3]["image"])
    assert not torch.equal(first["image"], TrainSamples(one.dataset, seed=6, crop=(32, 48))[2, 3]["image"])


def test_workers_do_not_change_the_samples() -> None:
    alone, shared = batches(0, jitter=0.3), batches(2, jitter=0.3)
    assert len(alone) == 6 and equal(alone, shared)


def test_a_resumed_order_is_the_tail_of_the_unbroken_one() -> None:
    assert equal(batches(0)[4:], batches(0, start=4))


def test_batch_layout() -> None:
    batch = batches(0, stop=1)[0]
    assert batch["image"].shape == (4, 3, 32, 48) and batch["image"].dtype == torch.uint8
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["label"].shape == (4, 32, 48) and batch["label"].dtype == torch.uint8
    one = samples()[0, 0]["image"]
    assert one.shape == (3, 32, 48) and one.stride() == (1, 144, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_global_generators_are_untouched(workers: int) -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  (the global generator is what is watched)
    random.seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
    batches(workers, jitter=0.5)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert str(before[2]) == str(after[2])


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.integers(0, 30), st.integers(0, 99))
def test_order_laws(length: int, share: int, world: int, start: int, seed: int) -> None:
    batch, stop = share * world, start + 5
    whole = list(Order(length, batch, seed, 0, stop))
    # the tail
    assert list(Order(length, batch, seed, start, stop)) == whole[start:]
    # ranks partition the global batch in order
    ranks = [list(Order(length, batch, seed, 0, stop, rank, world)) for rank in range(world)]
    assert [[place for part in parts for place in part] for parts in zip(*ranks, strict=True)] == whole
    # each epoch is a permutation, and epochs follow each other
    chain = [place for places in whole for place in places]
    assert [epoch for epoch, _ in chain] == [i // length for i in range(len(chain))]
    for epoch in range(len(chain) // length):
        assert sorted(index for _, index in chain[epoch * length : (epoch + 1) * length]) == list(range(length))


def test_order_starts_late_at_no_cost() -> None:
    order = Order(3000, 16, 0, start=10**9, stop=10**9 + 2)
    assert len(order) == 2 and len(list(order)) == 2


def test_seeds_and_epochs_differ() -> None:
    a, b = (list(Order(50, 50, seed, 0, 2)) for seed in (0, 1))
    assert a[0] != b[0] and [i for _, i in a[0]] != [i for _, i in a[1]]


class Faulty(Dataset):
    name, split, labelled = "faulty", "train", True

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def __len__(self) -> int:
        return 4

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        if self.error is None:
            import os

            os._exit(1)
        raise self.error


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_arrives_as_one_line(workers: int) -> None:
    faulty = TrainSamples(Faulty(DataError("a.png: truncated")), 0, (8, 8))
    with pytest.raises(DataError) as caught:
        list(loader(faulty, Order(4, 2, 0, 0, 2), workers))
    assert str(caught.value) == "a.png: truncated"


def test_a_dead_worker_is_a_lack_of_resources() -> None:
    with pytest.raises(ResourceError, match="fewer --workers"):
        list(loader(TrainSamples(Faulty(None), 0, (8, 8)), Order(4, 2, 0, 0, 2), 1))


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="multiple of 3"):
        Order(10, 4, 0, world=3)
    data = open_data("builtin", "train", size=(32, 64))
    with pytest.raises(UsageError, match=r"train.crop"):
        TrainSamples(data, 0, (0, 8))
    with pytest.raises(UsageError, match=r"train.scale"):
        TrainSamples(data, 0, (8, 8), scale=(2.0, 1.0))
    data.labelled = False
    with pytest.raises(DataError, match="no labels"):
        TrainSamples(data, 0, (8, 8))


class Stuck(TrainSamples):
    """The worker that is to read stops itself, as ``kill -STOP`` would."""

    def __getitem__(self, place: tuple[int, int]) -> Any:
        os.kill(os.getpid(), signal.SIGSTOP)
        return super().__getitem__(place)


def test_a_stopped_worker_is_not_waited_for() -> None:
    stuck = Stuck(open_data("builtin", "train", size=(32, 64), count=7), seed=5, crop=(32, 48))
    with pytest.raises(ResourceError, match=r"within 1 s \(process \d+ is stopped\); .*train\.worker_timeout"):
        list(loader(stuck, Order(7, 4, seed=5, stop=1), workers=1, timeout=1))
    assert not [child for child in psutil.Process().children() if child.status() == psutil.STATUS_STOPPED]
