"""Cross-image relational distillation (Yang et al., CVPR 2022; CIRKD losses/cirkd_mini_batch.py, cirkd_memory.py)."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..batch import IGNORE, Batch
from ..errors import UsageError
from ..losses import labels_at, pixel_kl, raised, unit
from . import Method, Sizes, choose
from ._adapters import conv1x1
from ._cross_image import memory_kl, mini_batch_kl
from ._queues import Queue, by_class
from ._ranks import gathered, rank_and_world
from .kd import temperature

if TYPE_CHECKING:
    from ..output import Output

_MIB = 2**20


class Cirkd(Method):
    """Cross-image relations: how positions resemble those of the other images, and remembered pixels and regions.

    kd = pixel_kl(z_s, z_t, T), as the method kd. The others on the tap `at`, f the unit feature of a position:
    mb = 1 / (B^2 N) * sum_{i,j,n} KL(p_t || p_s),  p = softmax over the positions m of image j of <f_in, f_jm> / tau,
         over all ordered pairs of images i, j. pool averages pool x pool positions before; gather=true takes the
         images of all GPUs as one batch.
    mp, mr = memory_T^2 * mean over the labelled positions of KL(p_t || p_s),
         p = softmax over the keys v of <f, v> / (tau memory_T), the student's f behind a trained projector
         1x1, BN, ReLU, 1x1 to the teacher's width. mp has pixels of the teacher as keys, mr regions: unit means of a
         class in an image. Both have the published weight 0.1, but 0.01 on VOC.
    Memory: a ring for each class of `pixels` and `regions` slots, random at first. Each step, before the loss: up to
    per_class random pixels and the region of each class and image of all GPUs are written. Then draws_pixel // K + 1
    and draws_region // K + 1 random slots, the same of every class, are the keys. cap_mib limits the pixels' ring.
    enqueue=official takes a class's pixels from the image's first positions, as the published code does.
    """

    taps = ("logits", "dec")
    weights: ClassVar[dict[str, float]] = {"kd": 1.0, "mb": 1.0, "mp": 0.1, "mr": 0.1}
    paper = "Yang et al., Cross-Image Relational Knowledge Distillation for Semantic Segmentation (CVPR 2022)"
    differences = (
        "The published code looks a class's pixels up as if they were the first ones of the image, so that its pixel "
        "memory holds other classes' pixels; kdc takes the class's own (enqueue=official for the published ones).",
        "The published code has the gathering of images across GPUs commented out; kdc compares within each GPU too "
        "(gather=true compares across, with the gradient of every pair).",
        "The mini-batch term is not multiplied by tau^2, as published; kd and the memory terms carry their T^2.",
        "The published code has a 2x2 average pool before the mini-batch term commented out (pool=2 turns it on).",
        "The published ranks draw pixels and slots differently, and DDP copies the memory of one to all at every step; "
        "in kdc all ranks draw the same and keep equal memories by themselves.",
        "The published pixel memory takes 3.07 GB for ADE20K; kdc has fewer slots where it would exceed cap_mib=512.",
    )

    def __init__(
        self,
        sizes: Sizes,
        *,
        terms: Collection[str] | None = None,
        T: float | str = 1.0,
        at: str = "dec",
        tau: float | str = 0.1,
        memory_T: float | str = 1.0,
        gather: bool = False,
        pool: int = 1,
        pixels: int = 20000,
        regions: int = 2000,
        draws_pixel: int = 4096,
        draws_region: int = 1024,
        per_class: int = 16,
        cap_mib: float = 512.0,
        enqueue: str = "corrected",
    ) -> None:
        super().__init__(sizes, terms=terms)
        on, classes = set(self.terms), sizes.num_classes
        self.relational = bool(on - {"kd"})
        read = [tap for tap, needed in (("logits", "kd" in on), (at, self.relational)) if needed]
        self.need(*dict.fromkeys(read))

        self.at, self.gather = at, gather
        self.T, self.tau, self.memory_T = temperature(T), temperature(tau, "tau"), temperature(memory_T, "memory_T")
        self.official = choose("cirkd.enqueue", enqueue, ("corrected", "official")) == "official"
        self.pool = _whole("pool", pool)
        self.per_class = _whole("per_class", per_class)
        self.pixels = _whole("pixels", pixels, self.per_class)
        regions = _whole("regions", regions)
        self.draws = {
            "mp": _whole("draws_pixel", draws_pixel, 0) // classes + 1,
            "mr": _whole("draws_region", draws_region, 0) // classes + 1,
        }

        self.projector = self.pixel_queue = self.region_queue = None
        if not on & {"mp", "mr"}:
            return

        width = sizes.teacher[at].channels
        self.projector = Projector(sizes.student[at].channels, width, self.rng("projector"))
        if "mp" in on:
            slots = min(self.pixels, int(cap_mib * _MIB) // (4 * classes * width))
            if slots < self.per_class:
                raise UsageError(
                    f"cirkd.cap_mib={cap_mib}: it leaves {slots} slots a class; at least per_class={self.per_class} "
                    f"are needed, which take {4 * classes * width * self.per_class / _MIB:.3g} MiB"
                )
            self.pixel_queue = Queue(classes, slots, width, self.rng("pixels"))
        if "mr" in on:
            self.region_queue = Queue(classes, regions, width, self.rng("regions"))

    def _queues(self) -> dict[str, Queue]:
        """Return the existing queues, by term."""
        both = {"mp": self.pixel_queue, "mr": self.region_queue}
        return {term: queue for term, queue in both.items() if queue is not None}

    def notes(self) -> list[str]:
        notes = []
        if self.pixel_queue is not None and (slots := self.pixel_queue.slots.shape[1]) < self.pixels:
            notes.append(f"pixel queue: {slots} slots a class instead of {self.pixels}; cap_mib decides")
        if size := sum(queue.slots.nbytes for queue in self._queues().values()):
            notes.append(f"queues: {size / _MIB:.0f} MiB in memory and in every checkpoint")
        return notes

    def local_buffers(self) -> list[str]:
        queues = [name for name, module in self.named_children() if isinstance(module, Queue)]
        return [f"{name}.{buffer}" for name in queues for buffer in ("slots", "pointer")]

    def remember(self, teacher: "Output", batch: Batch) -> None:
        if not self._queues():
            return

        t = raised(teacher.tap(self.at))
        labels, features = labels_at(batch.labels, t.shape[-2:]).flatten(1), unit(t, 1).flatten(2)
        (rank, world), (images, positions) = rank_and_world(), labels.shape

        rng = self.rng("enqueue", step=batch.step)
        # every rank draws for all images of the step, so that all queues are equal however the images are spread
        orders = torch.stack([torch.randperm(positions, generator=rng) for _ in range(world * images)])
        order = orders.chunk(world)[rank].to(labels.device, non_blocking=True)
        entries = [
            by_class(*image, self.sizes.num_classes, self.per_class, official=self.official)
            for image in zip(features, labels, order)
        ]
        # the entries go over the wire, not the feature maps
        pixels, counts, regions = (gathered(torch.stack(part)) for part in zip(*entries))

        for image in range(world * images):
            if self.pixel_queue is not None:
                self.pixel_queue.push(pixels[image], counts[image])
            if self.region_queue is not None:
                self.region_queue.push(regions[image].unsqueeze(1), counts[image].clamp(max=1))

    def keys(self, step: int) -> dict[str, Tensor]:
        """Draw the keys of a step, by term: ``(K * draws, C_t)``, the same slots of every class and on every rank."""
        drawn = {}
        for term, queue in self._queues().items():
            index = queue.index(self.draws[term], self.rng(f"{term} keys", step))
            drawn[term] = queue.take(index.to(queue.slots.device, non_blocking=True))
        return drawn

    def losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        values = {}
        if "kd" in self.terms:
            values["kd"] = pixel_kl(*self.pair(student, teacher, "logits"), self.T(batch.step))
        if not self.relational:
            return values
        s, t = self.pair(student, teacher, self.at)
        if "mb" in self.terms:
            values["mb"] = self._mini_batch(s, t, batch.step)
        if self.projector is not None:
            values |= self.against(self.keys(batch.step), s, t, batch)
        return values

    def _mini_batch(self, s: Tensor, t: Tensor, step: int) -> Tensor:
        if self.pool > 1:
            s, t = (F.avg_pool2d(x, self.pool, ceil_mode=True) for x in (s, t))
        s, t = (unit(x, 1).flatten(2) for x in (s, t))
        if not self.gather:
            return mini_batch_kl(s, t, self.tau(step))
        rank = rank_and_world()[0]
        return mini_batch_kl(gathered(s), gathered(t), self.tau(step), range(rank * len(s), (rank + 1) * len(s)))

    def against(self, keys: Mapping[str, Tensor], s: Tensor, t: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Compare student ``(B, C_s, H, W)`` and teacher ``(B, C_t, H, W)`` with each term's ``keys`` ``(M, C_t)``.

        Positions whose label is ignored weigh nothing.
        """
        assert self.projector is not None
        weight = (labels_at(batch.labels, t.shape[-2:]) != IGNORE).flatten(1).to(s.dtype)
        s, t = (unit(x, 1).flatten(2) for x in (self.projector(s), t))
        tau, T = self.tau(batch.step), self.memory_T(batch.step)
        return {term: memory_kl(s, t, vectors.to(s.dtype), tau, T, weight) for term, vectors in keys.items()}


class Projector(nn.Sequential):
    """1x1 convolution, batch norm, ReLU, 1x1 convolution: from the student's channels to the teacher's."""

    def __init__(self, c_in: int, c_out: int, rng: torch.Generator) -> None:
        super().__init__(
            conv1x1(c_in, c_out, rng, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
            conv1x1(c_out, c_out, rng, bias=False),
        )
        self.shape = f"{c_in} -> {c_out} -> {c_out} (1x1)"


def _whole(option: str, value: int, least: int = 1) -> int:
    if isinstance(value, str) or value != int(value) or value < least:
        raise UsageError(f"cirkd.{option}={value!r}: a whole number, {least} or more, is needed")
    return int(value)
