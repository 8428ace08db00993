"""Optimisers, the learning-rate schedule and the moving average of weights."""

import copy
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from ..methods import Critic, Phase
from ..schedule import poly
from ..settings.config import Train

Network = TypeVar("Network", bound=nn.Module)


def optimiser(
    parameters: Iterable[nn.Parameter], train: Train, heads: Iterable[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """Make SGD or AdamW over the trainable parameters; weight decay acts on all, as in the published recipes.

    Where ``train.head_lr`` is set, ``heads`` are a group of their own with that rate.
    """
    trainable = [p for p in parameters if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": trainable}]
    if train.head_lr is not None:
        apart = {id(p) for p in heads}
        own = [p for p in trainable if id(p) in apart]
        groups = [
            {"params": [p for p in trainable if id(p) not in apart]},
            {"params": own, "lr": train.head_lr, "base": train.head_lr},
        ]
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=train.lr, weight_decay=train.weight_decay)
    return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay)


def phase_optimiser(phase: Phase) -> torch.optim.Optimizer:
    """Make the SGD of a phase, whatever the student is trained with."""
    return torch.optim.SGD(
        phase.module.parameters(), lr=phase.lr, momentum=phase.momentum, weight_decay=phase.weight_decay
    )


def gradient_norm(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """Return the norm of all gradients that a step would take."""
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return torch.nn.utils.get_total_norm(grads)


def critic_optimiser(critic: Critic) -> torch.optim.Optimizer:
    """Make the optimiser that a critic asks for."""
    trainable = [p for p in critic.module.parameters() if p.requires_grad]
    if critic.optimizer == "sgd":
        return torch.optim.SGD(trainable, lr=critic.lr, momentum=critic.betas[0], weight_decay=critic.weight_decay)
    return torch.optim.Adam(trainable, lr=critic.lr, betas=critic.betas, weight_decay=critic.weight_decay)


def set_lr(optimizer: torch.optim.Optimizer, base: float, step: int, iters: int, power: float, warmup: int) -> float:
    """Set and return the learning rate of ``step`` (from 0): poly decay after a linear warm-up.

    A group with a ``base`` of its own decays alike from there.
    """
    for group in optimizer.param_groups:
        group["lr"] = poly(group.get("base", base), step, iters, power, warmup)
    return poly(base, step, iters, power, warmup)


class Average(Generic[Network]):
    """An exponential moving average of a network's weights; buffers are copied."""

    def __init__(self, model: Network, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards the network's present weights."""
        for mine, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs, 1 - self.decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)


class Statistics:
    """The running statistics of a network's batch norms, restored where a step is not taken."""

    def __init__(self, model: nn.Module) -> None:
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.live = [x for norm in norms for x in (norm.running_mean, norm.running_var) if x is not None]
        self.kept = [x.clone() for x in self.live]

    @torch.no_grad()
    def keep(self) -> None:
        """Remember them as they are now."""
        if self.live:
            torch._foreach_copy_(self.kept, self.live)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def put_back(self) -> None:
        """Undo what happened to them since ``keep``."""
        if self.live:
            torch._foreach_copy_(self.live, self.kept)  # pyright: ignore[reportPrivateImportUsage]


def rng_state() -> dict[str, torch.Tensor | None]:
    """Return the state of the global torch generators, which only the student's dropout draws from."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, torch.Tensor | None]) -> None:
    """Undo ``rng_state``."""
    cpu, cuda = state["cpu"], state["cuda"]
    assert cpu is not None
    torch.set_rng_state(cpu.cpu())
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda.cpu())
