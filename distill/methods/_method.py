"""The base class of all methods, what it receives, and what it may ask for."""

import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..errors import UsageError
from ..losses import raised, upsample

if TYPE_CHECKING:
    from ..output import Output, Tap


@dataclass(frozen=True)
class Sizes:
    """The facts that a method is built from."""

    num_classes: int
    #: channels and stride of every tap
    student: "dict[str, Tap]"
    teacher: "dict[str, Tap]"
    #: optimiser steps of the run; where it goes on from another, of that one
    iters: int
    seed: int
    #: optimiser steps that see every training image once
    epoch: int = 1
    #: False where the teacher is trained by a phase of the method
    teacher_trained: bool = True


@dataclass
class Phase:
    """Training to be done before the student's, by the same loop with SGD; its result is kept and reused."""

    name: str
    module: nn.Module
    #: runs the module on a batch, under autocast
    run: Callable[[nn.Module, Batch], Any]
    #: from what ``run`` returned, raised to at least float32, to each part of the loss, already weighted
    loss: Callable[[Any, Batch], dict[str, Tensor]]
    lr: float
    momentum: float
    weight_decay: float
    iters: int
    #: plain values on which the result depends besides the teacher, the data and the recipe
    key: dict[str, Any] = field(default_factory=dict)


@dataclass
class Critic:
    """A network that trains against the student; the loop steps it after the student, with an optimiser of its own."""

    module: nn.Module
    lr: float
    optimizer: str = "adam"
    #: of Adam; SGD takes the first as its momentum
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    #: decay the rate with the student's
    decay: bool = False


class Method(nn.Module):
    """Extra terms of the student's loss; only `losses` is mandatory.

    Parameters that require grad train with the student, buffers and fixed parameters travel in the checkpoint. A
    subclass takes ``sizes``, ``terms`` (the terms that are on; None = all) and its hyper-parameters as keywords.
    """

    #: taps read on both sides; a constructor may replace it by what its options and terms need
    taps: tuple[str, ...] = ("logits",)
    #: default weight of each term
    weights: ClassVar[dict[str, float]] = {}
    #: where the method was published
    paper: ClassVar[str] = ""
    #: the teacher sees the label as a fourth channel, and a phase trains it unless it comes trained
    assisted: ClassVar[bool] = False
    #: where paper, published code and kdc differ, a sentence each, with the option that switches it where there is one
    differences: ClassVar[tuple[str, ...]] = ()

    def __init__(self, sizes: Sizes, *, terms: Collection[str] | None = None) -> None:
        super().__init__()
        self.sizes = sizes
        self.terms = tuple(term for term in self.weights if terms is None or term in terms)

    def phases(self, teacher: nn.Module) -> list[Phase]:
        """Return the training to be done first, in order."""
        return []

    def teach(self, teacher: Callable[[Tensor], "Output"], batch: Batch) -> "Output":
        """Return what the teacher shows of the batch."""
        with torch.no_grad():
            return teacher(batch.images)

    def remember(self, teacher: "Output", batch: Batch) -> None:
        """Store in buffers what later steps need of the teacher's output; called once before `losses`."""

    def losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        """Return the raw value of each term that is on: scalars in at least float32."""
        raise NotImplementedError

    def compared(self, student: "Output", teacher: "Output") -> tuple[Tensor, Tensor] | None:
        """Return the two features ``(B, C, H, W)`` that are compared, the student's behind its adapter, if any are."""
        return None

    def forward(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        """Return `losses`, computed outside autocast."""
        with torch.autocast(batch.labels.device.type, enabled=False):
            return self.losses(student, teacher, batch)

    def critics(self) -> dict[str, Critic]:
        """Return the networks that train against the student; they are sub-modules of the method."""
        return {}

    def critic_losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        """Return each critic's loss, by the critic's name; the student is detached."""
        return {}

    def idle_parameters(self, step: int) -> list[nn.Parameter]:
        """Return trained parameters that have no part in the losses of ``step``: no weight decay acts on them there."""
        return []

    def phase_at(self, step: int) -> str | None:
        """Return the name of the phase that the losses of ``step`` are in, where they change; it goes into the log."""
        return None

    def joint_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that train with the student: all that require grad but the critics'."""
        apart = {id(p) for critic in self.critics().values() for p in critic.module.parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in apart]

    def local_buffers(self) -> list[str]:
        """Return the buffers that every rank keeps equal by itself: they are too large to be broadcast at each step."""
        return []

    def notes(self) -> list[str]:
        """Return lines to print before training starts."""
        return []

    def warnings(self) -> list[str]:
        """Return what is legal but hardly meant, to be printed as warnings before training starts."""
        return []

    # for subclasses

    def need(self, *taps: str) -> None:
        """Check that both networks have the taps, and the same classes where scores are compared.

        Raises:
            UsageError: one lacks a tap, or the class counts differ.
        """
        name = name_of(type(self))
        for tap in taps:
            for role, own in (("student", self.sizes.student), ("teacher", self.sizes.teacher)):
                if tap not in own:
                    raise UsageError(
                        f"method {name} reads the tap '{tap}'; the {role} has only {', '.join(sorted(own))}"
                    )
            mine, its = self.sizes.student[tap].channels, self.sizes.teacher[tap].channels
            if tap in ("logits", "aux") and mine != its:
                raise UsageError(
                    f"method {name} compares '{tap}': the student has {mine} classes and the teacher {its}; "
                    "both must be trained for the same classes"
                )
        self.taps = taps

    def rng(self, tag: str, step: int | None = None, part: int = 0) -> torch.Generator:
        """Return a CPU generator of its own for ``tag`` (and a step), the same on every rank and after a resume."""
        return generator(self.sizes.seed, name_of(type(self)), tag, *(() if step is None else (step, part)))

    def draw(self, tag: str, batch: Batch) -> torch.Generator:
        """Return a generator for draws from a batch: another for each step, micro-batch and rank."""
        return self.rng(tag, batch.step, batch.part)

    def pair(self, student: "Output", teacher: "Output", tap: str) -> tuple[Tensor, Tensor]:
        """Return a tap of both in at least float32: the student's at the teacher's size, the teacher's detached."""
        target = raised(teacher.tap(tap)).detach()
        return upsample(raised(student.tap(tap)), target.shape[-2:]), target


def generator(*words: object) -> torch.Generator:
    """Return a CPU generator whose seed is drawn from ``words``."""
    return torch.Generator().manual_seed(zlib.crc32("/".join(map(str, words)).encode()))


def hyphen(name: str) -> str:
    """Return a method's name as it is written on the command line."""
    return name.strip().replace("_", "-")


def name_of(cls: type[Method]) -> str:
    """Return the name of a method: its file's."""
    return hyphen(cls.__module__.rpartition(".")[2])
