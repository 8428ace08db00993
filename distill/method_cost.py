"""What a method adds to a training step: parameters, multiply-adds, and the tensors it keeps for backward."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from . import methods, models
from .batch import Batch
from .methods import Composite, Sizes
from .models import SegmentationModel
from .output import Output


@dataclass(frozen=True)
class MethodCost:
    """What a method adds for one image of ``size`` (height, width)."""

    student: str
    teacher: str
    classes: int
    size: tuple[int, int]
    #: ``trained`` with the student, ``critics``, ``fixed``, and ``buffers``
    parameters: dict[str, int]
    #: multiply-adds: ``forward``, ``step`` (forward and backward) and ``critics`` (their own step)
    macs: dict[str, int]
    #: MiB that autograd holds between forward and backward
    kept_mib: float
    #: ``name`` and ``iters`` of each
    phases: list[dict[str, str | int]]


def method_cost(
    spec: str,
    *,
    student: str = "deeplabv3-r18",
    teacher: str = "deeplabv3-r101",
    classes: int = 19,
    size: tuple[int, int] = (512, 1024),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> MethodCost:
    """Count what a method adds to the two networks, for one image.

    Nothing is computed: networks, outputs and losses exist as shapes alone. Multiply-adds are those of convolutions and
    matrix products (half of what torch's counter calls FLOPs); element-wise work is not counted.

    Args:
        spec: a method, or several joined by ``+``.
        student: name of the student's network.
        teacher: name of the teacher's.
        classes: number of classes.
        size: height and width of the crop.
        settings: as of ``methods.compose``.
    """
    student, teacher = models.expand(student), models.expand(teacher)
    with torch.device("meta"):
        small, large = (models.build(name, classes) for name in (student, teacher))
        shapes = [_shapes(network, size) for network in (small, large)]

    trained = not methods.assisted(spec)
    sizes = Sizes(classes, small.taps, large.taps, iters=40000, seed=0, epoch=1000, teacher_trained=trained)
    kept: dict[int, int] = {}  # bytes by storage

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    composite = methods.compose(spec, sizes, settings)
    parameters = _parameters(composite)
    phases = [{"name": phase.name, "iters": phase.iters} for phase in composite.phases(large)]

    with FakeTensorMode():
        _forget_values(composite)
        batch = Batch(torch.empty(1, 3, *size, dtype=torch.uint8), torch.zeros(1, *size, dtype=torch.long))
        student_output, teacher_output = (_output(x).only(composite.taps) for x in shapes)
        leaves = _leaves(student_output)

        composite.remember(teacher_output, batch)
        with FlopCounterMode(display=False) as forward, torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            values = composite.losses(student_output, teacher_output, batch)
            total = torch.stack(list(values.values())).sum()
        for x in (*leaves, *_leaves(teacher_output), *composite.parameters()):
            kept.pop(x.untyped_storage()._cdata, None)

        with FlopCounterMode(display=False) as backward:
            torch.autograd.grad(total, [*leaves, *composite.joint_parameters()], allow_unused=True)
        with FlopCounterMode(display=False) as critics:
            losses = composite.critic_losses(student_output.detached(), teacher_output, batch)
            if losses:
                torch.stack(list(losses.values())).sum().backward()

    ahead, back, own = (counter.get_total_flops() // 2 for counter in (forward, backward, critics))
    macs = {"forward": ahead, "step": ahead + back, "critics": own}
    return MethodCost(student, teacher, classes, size, parameters, macs, sum(kept.values()) / 2**20, phases)


def _shapes(network: SegmentationModel, size: tuple[int, int]) -> Output:
    """Return the output of a network for one image, without values."""
    hint = [torch.empty(1, 1, *size)] if network.in_channels == 4 else []
    with torch.no_grad():
        return network(torch.empty(1, 3, *size), *hint)


def _forget_values(composite: Composite) -> None:
    """Replace every parameter and buffer by its shape."""
    for module in composite.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                shape = torch.empty(parameter.shape, dtype=parameter.dtype)
                module._parameters[name] = nn.Parameter(shape, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _output(shapes: Output) -> Output:
    """Return leaves of those shapes."""

    def leaf(x: Tensor) -> Tensor:
        return torch.empty(x.shape).requires_grad_()

    aux = None if shapes.aux is None else leaf(shapes.aux)
    return Output(leaf(shapes.logits), aux, {name: leaf(x) for name, x in shapes.features.items()})


def _leaves(output: Output) -> list[Tensor]:
    return [x for x in (output.logits, output.aux, *output.features.values()) if x is not None]


def _parameters(composite: Composite) -> dict[str, int]:
    joint = composite.joint_parameters()
    critics = [p for critic in composite.critics().values() for p in critic.module.parameters()]
    return {
        "trained": _count(joint),
        "critics": _count(critics),
        "fixed": _count(composite.parameters()) - _count(joint) - _count(critics),
        "buffers": sum(x.numel() for x in composite.buffers()),
    }


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)
