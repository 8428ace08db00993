"""CIRKD's queues against a literal loop over images and classes, and two processes against one."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kdc.distill.batch import Batch
from kdc.distill.losses import labels_at, unit
from kdc.distill.methods import Sizes, compose
from kdc.distill.methods._queues import Queue, by_class

K, WIDTH = 5, 6


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def features_of(images, height, width, seed=0):
    return torch.randn(images, WIDTH, height, width, generator=rng(seed), dtype=torch.float64)


def labels_of(images, height, width, seed=0, absent=(1,), ignored=0.2):
    labels = torch.randint(0, K, (images, height, width), generator=rng(seed))
    for k in absent:
        labels[labels == k] = 0
    labels[torch.rand(labels.shape, generator=rng(seed + 100)) < ignored] = 255
    return labels


def cirkd(**settings) -> Any:
    """Return the composite and its method; stand-ins for what the models say spare a process their import."""
    sides: Any = [{"dec": SimpleNamespace(channels=c)} for c in (4, WIDTH)]
    composite = compose("cirkd", Sizes(K, *sides, iters=40, seed=3), {"cirkd": {"kd": 0, **settings}}).double()
    return composite, composite.methods["cirkd"]


def shown(feature) -> Any:
    return SimpleNamespace(tap=lambda name: {"dec": feature}[name])


def batch_of(labels, step):
    return Batch(torch.zeros(0), labels, step)


class Literal:
    """The rule as the book says it: image by image, the classes that are there ascending, one ring after the other."""

    def __init__(self, method):
        self.pixel, self.region = (q.slots.clone().numpy() for q in (method.pixel_queue, method.region_queue))
        self.pixel_at, self.region_at = np.zeros(K, int), np.zeros(K, int)
        self.wraps = 0

    def write(self, ring, at, k, vectors):
        n = len(vectors)
        if at[k] + n >= ring.shape[1]:
            ring[k, -n:] = vectors
            at[k] = 0
            self.wraps += 1
        else:
            ring[k, at[k] : at[k] + n] = vectors
            at[k] += n

    def enqueue(self, feature, labels, order, official, count=16):
        for image, label, numbers in zip(feature.numpy(), labels.numpy(), order.numpy()):
            vectors = image.reshape(WIDTH, -1).T
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            label = label.reshape(-1)
            for k in sorted(set(label.tolist()) - {255}):
                own = np.flatnonzero(label == k)
                mean = vectors[own].mean(0)
                self.write(self.region, self.region_at, k, (mean / np.linalg.norm(mean))[None])
                pool = np.arange(len(own)) if official else own
                taken = sorted(pool, key=lambda position: numbers[position])[: min(len(own), count)]
                self.write(self.pixel, self.pixel_at, k, vectors[taken])


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize(("slots", "regions"), [(16, 1), (40, 3), (1000, 100)])
def test_enqueue_equals_the_literal_loop(official, slots, regions):
    """Eight steps of three images; the small rings are wrapped around several times."""
    enqueue = "official" if official else "corrected"
    _, method = cirkd(pixels=slots, regions=regions, enqueue=enqueue)
    literal = Literal(method)
    for step in range(8):
        feature = features_of(3, 9, 11, seed=step)
        labels = labels_of(3, 27, 33, seed=step, absent=(1, step % K))
        method.remember(shown(feature), batch_of(labels, step))
        generator = method.rng("enqueue", step=step)
        order = torch.stack([torch.randperm(99, generator=generator) for _ in range(3)])
        literal.enqueue(feature, labels_at(labels, (9, 11)), order, official)
    for queue, ring, at in (
        (method.pixel_queue, literal.pixel, literal.pixel_at),
        (method.region_queue, literal.region, literal.region_at),
    ):
        np.testing.assert_allclose(queue.slots.numpy(), ring, rtol=0, atol=1e-14)
        assert queue.pointer.tolist() == at.tolist()
    assert (literal.wraps > 0) == (slots < 1000)
    assert literal.pixel_at[1] == 0  # a class that is never there keeps its random slots


def test_official_takes_other_pixels():
    rings = []
    for enqueue in ("corrected", "official"):
        _, method = cirkd(enqueue=enqueue)
        method.remember(shown(features_of(1, 9, 11)), batch_of(labels_of(1, 27, 33), 0))
        rings.append(method.pixel_queue)
    assert torch.equal(rings[0].pointer, rings[1].pointer) and not torch.equal(rings[0].slots, rings[1].slots)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_gpu_remembers_the_same_and_never_waits():
    (_, here), (there_all, there) = cirkd(pixels=40, regions=3), cirkd(pixels=40, regions=3)
    there_all.cuda()
    feature, labels = features_of(3, 9, 11), labels_of(3, 27, 33)
    far, given = shown(feature.cuda()), batch_of(labels.cuda(), 0)
    here.remember(shown(feature), batch_of(labels, 0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        there.remember(far, given)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for mine, its in ((here.pixel_queue, there.pixel_queue), (here.region_queue, there.region_queue)):
        assert torch.equal(mine.pointer, its.pointer.cpu())
        torch.testing.assert_close(mine.slots, its.slots.cpu(), rtol=0, atol=1e-13)


class TestByClass:
    def test_takes_only_the_class(self):
        labels = labels_of(1, 9, 11)[0].flatten()
        marks = torch.zeros(2, 99, dtype=torch.float64)
        marks[0], marks[1] = labels, torch.arange(99)
        pixels, counts, _ = by_class(marks, labels, torch.randperm(99, generator=rng()), K, 16)
        for k in range(K):
            taken = pixels[k, : counts[k]]
            assert (taken[:, 0] == k).all() and len(set(taken[:, 1].tolist())) == counts[k]
            assert counts[k] == min(16, int((labels == k).sum()))

    def test_fewer_positions_than_pixels_of_a_class(self):
        labels = torch.tensor([0, 0, 1, 255])
        feature = unit(features_of(1, 1, 4)[0, :, 0], 0)
        pixels, counts, means = by_class(feature, labels, torch.tensor([3, 0, 1, 2]), K, 16)
        assert pixels.shape == (K, 4, WIDTH) and counts.tolist() == [2, 1, 0, 0, 0]
        torch.testing.assert_close(pixels[0, :2], feature[:, [1, 0]].t())
        torch.testing.assert_close(means[1], feature[:, 2])
        assert means.isfinite().all()

    def test_any_pixel_may_be_taken(self):
        labels, feature = torch.zeros(40, dtype=torch.long), torch.arange(40.0)[None]
        taken = torch.cat(
            [by_class(feature, labels, torch.randperm(40, generator=rng(i)), 1, 4)[0].flatten() for i in range(200)]
        )
        counts = torch.bincount(taken.long(), minlength=40)
        assert counts.min() > 5 and counts.max() < 45  # 20 on average


class TestQueue:
    def test_starts_random_of_length_one_and_the_same_for_a_seed(self):
        first, second, other = (Queue(3, 7, 8, rng(seed)) for seed in (0, 0, 1))
        torch.testing.assert_close(first.slots.norm(dim=2), torch.ones(3, 7))
        assert torch.equal(first.slots, second.slots) and not torch.equal(first.slots, other.slots)

    def test_takes_the_same_slots_of_every_class(self):
        queue = Queue(3, 7, 8, rng())
        index = queue.index(4, rng(1))
        assert len(set(index.tolist())) == 4 and len(queue.index(99, rng(1))) == 7
        torch.testing.assert_close(queue.take(index), torch.cat([queue.slots[k, index] for k in range(3)]))


def run_steps(images: slice, **settings) -> dict[str, Any]:
    """Remember three steps' images and return the queues, and the mini-batch term with its gradient."""
    composite, method = cirkd(pixels=40, regions=5, **settings)
    for step in range(3):
        feature, labels = features_of(4, 5, 7, seed=step), labels_of(4, 15, 21, seed=step)
        method.remember(shown(feature[images]), batch_of(labels[images], step))
    student = torch.randn(4, 4, 5, 7, generator=rng(9), dtype=torch.float64)[images].clone().requires_grad_()
    values = composite.losses(
        shown(student), shown(features_of(4, 5, 7)[images]), batch_of(labels_of(4, 15, 21)[images], 3)
    )
    (grad,) = torch.autograd.grad(values["cirkd.mb"], student)
    return {"state": composite.state_dict(), "mb": values["cirkd.mb"].detach(), "grad": grad}


@pytest.mark.process
def test_two_processes_remember_and_compare_the_whole_batch(tmp_path: Path):
    """Both hold the one process's queues; the mean of their gathered mini-batch terms, and gradients, is its own."""
    command = [sys.executable, __file__, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in (0, 1)]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    whole = run_steps(slice(0, 4))
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for part in parts:
        for name in ("pixel_queue.slots", "pixel_queue.pointer", "region_queue.slots", "region_queue.pointer"):
            key = f"methods.cirkd.{name}"
            torch.testing.assert_close(part["state"][key], whole["state"][key], rtol=0, atol=1e-14)
    assert all(torch.equal(parts[0]["state"][key], parts[1]["state"][key]) for key in whole["state"] if "queue" in key)
    torch.testing.assert_close((parts[0]["mb"] + parts[1]["mb"]) / 2, whole["mb"], rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat([part["grad"] for part in parts]) / 2, whole["grad"], rtol=1e-10, atol=1e-14)


def _process(folder: Path, rank: int) -> None:
    store = f"file://{folder / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.save(run_steps(slice(2 * rank, 2 * rank + 2), gather=True), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _process(Path(sys.argv[1]), int(sys.argv[2]))
