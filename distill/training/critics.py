"""The step of the networks that train against the student."""

import torch
from lightning_fabric import Fabric
from torch import Tensor

from .. import console
from ..batch import Batch
from ..methods import Composite
from ..output import Output
from .optimisers import gradient_norm
from .processes import reduced
from .state import Stage


def step_critics(
    fabric: Fabric, stage: Stage, method: Composite, shown: list[tuple[Output, Output, Batch]], decay: float
) -> None:
    """Train the critics on the outputs of student and teacher for every micro-batch, by the mean of their losses.

    The gradients of the student's own pass are cleared first.
    """
    for _, tool in stage.critics.values():
        tool.zero_grad(set_to_none=True)
    values: dict[str, Tensor] = {}
    for seen in shown:
        for name, loss in method.critic_losses(*seen).items():
            part = loss / len(shown)
            part.backward()
            values[name] = values[name] + part.detach() if name in values else part.detach()

    for name, loss in values.items():
        critic, tool = stage.critics[name]
        if not bool(torch.isfinite(reduced(fabric, loss + gradient_norm(tool)))):
            console.warn(f"critic {name}: its loss or gradient is not finite, its step is not taken")
            continue
        for group in tool.param_groups:
            group["lr"] = critic.lr * (decay if critic.decay else 1.0)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad = reduced(fabric, parameter.grad)
        tool.step()
