"""Training steps measured without taking one: the value of each term, its gradient, and the time that it takes."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ..batch import Batch
from ..data._loader import SampleBatch
from ..errors import NumbersError
from ..losses import task_loss
from ..methods import Composite, Phase
from ..models import SegmentationModel
from ..output import Output
from ..settings.config import Config
from ..training.learner import Learner
from ..training.optimisers import rng_state, set_rng_state
from .records import PhaseState, TapShape


@dataclass
class Pull:
    """One term on one batch; the gradients are those of the unweighted term."""

    value: float
    #: of the term's gradient, over all parameters of the student
    norm: float
    #: of the task's gradient, over the parameters that the term reaches
    task_norm: float
    #: between the two over those parameters; None where one of them is 0
    cosine: float | None


@dataclass
class Rehearsal:
    """The measurements on a few batches; lists hold one entry a batch."""

    task: list[float] = field(default_factory=list)
    #: norm of the task's gradient over all parameters of the student
    task_norm: list[float] = field(default_factory=list)
    terms: dict[str, list[Pull]] = field(default_factory=dict)
    #: by method, as `Composite.magnitudes` gives them
    magnitudes: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    shapes: list[TapShape] = field(default_factory=list)
    #: the terms that depend on a critic
    with_critic: set[str] = field(default_factory=set)
    phases: list[PhaseState] = field(default_factory=list)
    #: largest memory of one step on a GPU, without the optimiser's state
    peak_mib: float | None = None


class _Clock:
    """Adds up the seconds of each part; on a GPU it waits for the part to end."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.last = time.perf_counter()

    def __call__(self, part: str) -> None:
        last = self.last
        self.restart()
        self.seconds[part] = self.seconds.get(part, 0.0) + self.last - last


def rehearse(
    config: Config,
    fabric: Fabric,
    student: SegmentationModel,
    method: Composite,
    teacher: SegmentationModel,
    stream: Iterator[SampleBatch],
    batches: int,
    ready: Callable[[Phase], bool] = lambda phase: False,
) -> Rehearsal:
    """Go through ``batches`` batches of ``stream`` as training would, on copies of student and method.

    Nothing is changed: neither network, nor the method, nor torch's generators; dropout draws from ``train.seed``.
    ``ready`` loads the result of a phase, where there is one; else the phase's module is untrained.

    Raises:
        NumbersError: a term or its gradient is not finite.
    """
    device, rehearsal = fabric.device, Rehearsal()
    state = rng_state()
    torch.default_generator.manual_seed(config.train.seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(config.train.seed)

    try:
        learner = Learner(
            copy.deepcopy(student), copy.deepcopy(method), config.task, config.train.freeze_bn, config.train.seed
        ).to(device)
        teacher.to(device)
        if config.train.channels_last:
            learner.to(memory_format=torch.channels_last)
        for phase in learner.method.phases(teacher):
            rehearsal.phases.append(PhaseState(phase.name, phase.iters, ready(phase)))
            phase.module.requires_grad_(False).eval()

        learner.train()
        for step in range(batches):
            clock = _Clock(device)
            sample = next(stream)
            images, labels = sample["image"].to(device), sample["label"].to(device).long()
            clock("reading")
            batch = Batch(images, labels, step)
            if step == 0:  # the first pass through a network is slower than those of a long run
                rehearsal.peak_mib = _peak(device, lambda batch=batch: _Pass(learner, teacher, batch, fabric).total())

            one = _Pass(learner, teacher, batch, fabric, clock)
            _measure(rehearsal, one)
            if step == batches - 1:
                rehearsal.with_critic = one.with_critic()
            del one  # its graph would stay in memory through the next batch
    finally:
        set_rng_state(state)
    return rehearsal


class _Pass:
    """One batch through teacher, student and losses; the losses' graph is cut off from the student's.

    So the gradient of a term goes to the student's outputs first, and from there to its parameters, and the time of
    the losses is measured apart from the network's.
    """

    def __init__(
        self,
        learner: Learner,
        teacher: SegmentationModel,
        batch: Batch,
        fabric: Fabric,
        clock: _Clock | None = None,
    ) -> None:
        method, self.learner, self.batch = learner.method, learner, batch
        self.clock = clock or _Clock(fabric.device)
        self.clock.restart()
        self.parameters = [p for p in learner.student.parameters() if p.requires_grad]
        # fp16 loses small gradients, so they are scaled as in training
        self.scale = 2.0**16 if fabric.strategy.precision.precision == "16-mixed" else 1.0

        with fabric.autocast():
            self.shown = method.teach(teacher, batch).only(method.taps).raised()
            self.clock("teacher")
            whole = learner.student(batch.images).only(method.taps).raised()
            self.clock("student forward")

        self.output = whole.detached()
        self.outputs, self.leaves = _tensors(whole), [x.requires_grad_() for x in _tensors(self.output)]
        method.remember(self.shown, batch)
        task = task_loss(self.output, batch.labels, learner.task.aux_weight)
        images = len(batch.images) if learner.task.divide_by_batch else 1
        self.task = torch.stack(list(task.values())).sum() / images
        self.terms = method.losses(self.output, self.shown, batch)
        self.clock("losses")

    def total(self) -> list[Tensor | None]:
        """Return the gradient of the whole loss, as a training step forms it."""
        method, total = self.learner.method, self.task
        for name, raw in self.terms.items():
            total = total + method.weight(name, self.batch.step) * raw
        inputs = [*self.leaves, *method.joint_parameters()]
        at_outputs = torch.autograd.grad(total, inputs, retain_graph=True, allow_unused=True)[: len(self.leaves)]
        self.clock("losses")
        grads = self._back(at_outputs)
        self.clock("student backward")
        return grads

    def gradient(self, value: Tensor) -> list[Tensor | None]:
        """Return the gradient of a part of the loss at each of the student's parameters; None where it has none."""
        if not value.requires_grad:
            return [None] * len(self.parameters)
        return self._back(torch.autograd.grad(value, self.leaves, retain_graph=True, allow_unused=True))

    @torch.no_grad()
    def with_critic(self) -> set[str]:
        """Return the terms that change with the critics, whose weights are overwritten."""
        method = self.learner.method
        parameters = [p for critic in method.critics().values() for p in critic.module.parameters()]
        if not parameters:
            return set()
        for p in parameters:
            p.add_(torch.linspace(-1, 1, p.numel(), device=p.device, dtype=p.dtype).view_as(p))
        changed = method.losses(self.output, self.shown, self.batch)
        return {name for name, value in self.terms.items() if not torch.equal(value, changed[name])}

    def _back(self, at_outputs: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Carry gradients from the student's outputs to its parameters, with a smaller scale where it overflows."""
        outputs = [x for x, g in zip(self.outputs, at_outputs, strict=True) if g is not None]
        while True:
            seeds = [g * self.scale for g in at_outputs if g is not None]
            grads = torch.autograd.grad(outputs, self.parameters, seeds, retain_graph=True, allow_unused=True)
            if self.scale == 1 or all(bool(g.isfinite().all()) for g in grads if g is not None):
                return [None if g is None else g / self.scale for g in grads]
            self.scale /= 16


def _tensors(output: Output) -> list[Tensor]:
    return [x for x in (output.logits, output.aux, *output.features.values()) if x is not None]


def _measure(rehearsal: Rehearsal, one: _Pass) -> None:
    """Add the measurements of one batch."""
    one.total()
    for part, seconds in one.clock.seconds.items():
        rehearsal.seconds.setdefault(part, []).append(seconds)

    task, step = one.gradient(one.task), one.batch.step
    rehearsal.task.append(_finite("the task loss", step, float(one.task.detach())))
    rehearsal.task_norm.append(_finite("the task loss's gradient", step, math.sqrt(_dot(task, task))))

    for name, raw in one.terms.items():
        value = _finite(name, step, float(raw.detach()))
        grads = one.gradient(raw)
        norm = _finite(f"the gradient of {name}", step, math.sqrt(_dot(grads, grads)))
        shared = [None if g is None else t for g, t in zip(grads, task, strict=True)]
        task_norm = math.sqrt(_dot(shared, shared))
        cosine = _dot(grads, shared) / (norm * task_norm) if norm and task_norm else None
        rehearsal.terms.setdefault(name, []).append(Pull(value, norm, task_norm, cosine))

    method = one.learner.method
    for name, values in method.magnitudes(one.output.detached(), one.shown).items():
        rehearsal.magnitudes.setdefault(name, []).append(values)
    shapes = [(tap, list(one.output.tap(tap).shape[1:]), list(one.shown.tap(tap).shape[1:])) for tap in method.taps]
    rehearsal.shapes = [TapShape(tap, own, its, own[1:] != its[1:]) for tap, own, its in shapes]


def _dot(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> float:
    """Return the inner product of two gradients; where either is None, nothing is added."""
    products = [(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return float(torch.stack(products).sum()) if products else 0.0


def _finite(what: str, step: int, value: float) -> float:
    if not math.isfinite(value):
        raise NumbersError(
            f"{what} is {value} on batch {step + 1} at the student's start: training would stop there. Use "
            "--precision 32, or switch that term off with its weight 0"
        )
    return value


def _peak(device: torch.device, work: Callable[[], Any]) -> float | None:
    """Do the work and return its peak of GPU memory in MiB; None on a CPU."""
    if device.type != "cuda":
        work()
        return None
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device) / 2**20
