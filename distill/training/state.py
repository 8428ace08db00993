"""What a run carries from step to step, its checkpoints and its logs, and the error that a signal ends it with."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.optim.optimizer import StateDict

from .. import console
from ..errors import NumbersError, WeightsError, one_line
from ..finite import first_bad
from ..methods import Composite, Critic
from ..models import SegmentationModel
from ..run.checkpoint import load_state, save_state
from ..run.folder import Run
from ..run.places import open_in_place
from .optimisers import Average, rng_state
from .signals import SignalledError


class Stopped(SignalledError):
    """A signal ended the run after a good checkpoint."""

    def __init__(self, number: int, run: Run, then: str = "") -> None:
        after = f" ({then})" if then else ""
        super().__init__(number, f"; resume with: kdc distill --resume {run.spec}{after}")
        self.number, self.run = number, run


@dataclass
class Stage:
    """One stretch of optimisation: a phase of the method, or ``main``."""

    name: str
    learner: Any
    optimiser: Any
    iters: int
    lr: float
    #: Fabric's precision plugin, which holds the loss scale of fp16
    precision: Any
    #: by name, the method's critics and their optimisers
    critics: dict[str, tuple[Critic, torch.optim.Optimizer]] = field(default_factory=dict)

    @property
    def phase(self) -> torch.nn.Module | None:
        """The module that a phase trains; None in the main stage."""
        return None if self.name == "main" else self.learner.module

    @property
    def scaler(self) -> Any:
        """The GradScaler of fp16, or None."""
        return getattr(self.precision, "scaler", None)


@dataclass(frozen=True)
class Best:
    """The best validation so far."""

    step: int
    miou: float


@dataclass(frozen=True)
class Checkpoint:
    """What the file of a checkpoint holds, in its order: plain values and state dicts."""

    stage: str
    step: int
    best: Best | None
    rng: dict[str, Tensor | None]
    student: dict[str, Tensor]
    method: dict[str, Tensor]
    average: dict[str, Tensor] | None
    #: of a phase
    module: dict[str, Tensor] | None
    critics: dict[str, StateDict]
    #: the loss scale of fp16
    precision: dict[str, Any]
    optimiser: StateDict
    #: bytes of each log
    offsets: dict[str, int]

    def save(self, folder: Path) -> None:
        """Write it in place of the one before."""
        save_state(folder, vars(self) | {"best": asdict(self.best) if self.best else {}}, self.step)

    @classmethod
    def load(cls, folder: Path) -> "Checkpoint":
        """Read what ``save`` wrote, on the CPU: AdamW's counters belong there.

        Raises:
            WeightsError: it is lost or broken.
        """
        values = load_state(folder)
        try:
            best = Best(**values["best"]) if values["best"] else None
            return cls(**{"precision": {}, **values, "best": best})
        except (KeyError, TypeError) as error:
            raise WeightsError(f"{folder} holds a checkpoint of another kdc ({one_line(error)})") from error


@dataclass
class State:
    """Everything that a resumed run continues from."""

    run: Run
    student: SegmentationModel
    method: Composite
    average: Average[SegmentationModel] | None
    stage: str = ""
    step: int = 0
    bad: int = 0
    best: Best | None = None
    logs: dict[str, BinaryIO] = field(default_factory=dict)

    @property
    def evaluated(self) -> SegmentationModel:
        """The network that is validated and kept: the moving average where there is one."""
        return self.average.model if self.average else self.student

    def check(self, stage: Stage) -> None:
        """Check that the weights and buffers of all that is kept are finite.

        Raises:
            NumbersError: they are not, though no loss has shown it yet.
        """
        parts = {"student": self.student, "method": self.method, stage.name: stage.phase}
        if self.average:
            parts["average"] = self.average.model
        tensors = {f"{part}.{k}": v for part, module in parts.items() if module for k, v in module.state_dict().items()}
        if bad := first_bad(tensors):
            raise NumbersError(
                f"{bad} is no longer finite at step {self.step}; the last good checkpoint of {self.run.path} is kept. "
                "Lower --lr, set train.clip, or use --precision 32"
            )

    def save(self, stage: Stage, write: bool = True) -> None:
        """Write a checkpoint, unless the numbers have gone bad since the last one; without ``write`` only check them.

        Raises:
            NumbersError: as ``check``.
        """
        if self.bad:
            return
        self.check(stage)
        if not write:
            return

        checkpoint = Checkpoint(
            stage=self.stage,
            step=self.step,
            best=self.best,
            rng=rng_state(),
            student=self.student.state_dict(),
            method=self.method.state_dict(),
            average=self.average.model.state_dict() if self.average else None,
            module=stage.phase.state_dict() if stage.phase else None,
            critics={name: tool.state_dict() for name, (_, tool) in stage.critics.items()},
            precision=stage.precision.state_dict(),
            optimiser=stage.optimiser.state_dict(),
            offsets={name: file.tell() for name, file in self.logs.items()},
        )
        for file in self.logs.values():
            file.flush()
        checkpoint.save(self.run.checkpoints)

    def restore(self, saved: Checkpoint) -> None:
        """Undo ``save``; the stage's own optimiser is restored when the stage begins.

        Raises:
            WeightsError: it is of other networks or another method.
        """
        try:
            self.student.load_state_dict(saved.student)
            self.method.load_state_dict(saved.method)
            if self.average and saved.average:
                self.average.model.load_state_dict(saved.average)
        except RuntimeError as error:
            raise WeightsError(
                f"the checkpoint of {self.run.path} does not fit its settings ({one_line(error)})"
            ) from error
        self.stage, self.step, self.best = saved.stage, saved.step, saved.best

    def continue_method(self, run: Run) -> None:
        """Load the method's own parts (adapters, critics, queues) as they were at the end of another run.

        Raises:
            WeightsError: that run has no checkpoint, or it is of another method.
        """
        try:
            self.method.load_state_dict(load_state(run.checkpoints)["method"])
        except RuntimeError as error:
            raise WeightsError(
                f"the method of {run.path.name} does not fit this one ({str(error).splitlines()[0]})"
            ) from error

    def enter(self, stage: Stage, saved: Checkpoint | None) -> None:
        """Begin a stage, or resume it from the checkpoint that was taken within it."""
        if saved is None:
            self.stage, self.step = stage.name, 0
            return
        stage.optimiser.load_state_dict(saved.optimiser)
        if saved.precision:
            stage.precision.load_state_dict(saved.precision)
        for name, (_, tool) in stage.critics.items():
            tool.load_state_dict(saved.critics[name])
        if saved.module is not None and stage.phase:
            stage.phase.load_state_dict(saved.module)

    def open_logs(self, offsets: dict[str, int] | None) -> None:
        """Open metrics.jsonl and timing.jsonl, cut to where the checkpoint was taken."""
        for name in ("metrics", "timing"):
            path = self.run.path / f"{name}.jsonl"
            file = open_in_place(path)
            end = offsets[name] if offsets else 0
            if path.stat().st_size < end:
                console.warn(f"{path} has lost lines that were in it at the checkpoint; what is left of them stays")
                end = file.read().rfind(b"\n") + 1
            file.truncate(end)
            file.seek(0, 2)
            self.logs[name] = file

    def log(self, name: str, **values: Any) -> None:
        """Append one object to a log."""
        self.logs[name].write(f"{console.to_json(values)}\n".encode())
