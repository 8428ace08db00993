"""What a run carries from step to step: what a checkpoint holds, the logs, and how it says that a signal ended it."""

import signal
from dataclasses import dataclass, field
from typing import Any

import torch

from .. import console
from ..errors import KdcError, NumbersError, WeightsError
from ..methods import Composite, Critic
from ..models import SegmentationModel
from ..run.checkpoint import load_state, save_state
from ..run.folder import Run
from .optimisers import Average, rng_state


class Stopped(KdcError):
    """A signal ended the run after a good checkpoint."""

    def __init__(self, number: int, run: Run, then: str = "") -> None:
        after = f" ({then})" if then else ""
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name}; go on with: kdc distill --resume {run.spec}{after}")
        self.number, self.run, self.exit_code = number, run, 128 + number


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
    def scaler(self) -> Any:
        """The GradScaler of fp16, or None."""
        return getattr(self.precision, "scaler", None)


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
    best: dict[str, Any] = field(default_factory=dict)

    @property
    def judged(self) -> SegmentationModel:
        """The network that is validated and kept: the moving average where there is one."""
        return self.average.model if self.average else self.student

    def save(self, stage: Stage) -> None:
        """Write a checkpoint, unless the numbers have gone bad since the last one."""
        if self.bad:
            return
        trained = [*self.student.parameters(), *self.method.parameters(), *stage.learner.parameters()]
        if not all(bool(torch.isfinite(p).all()) for p in trained):
            raise NumbersError(
                f"weights are no longer finite at step {self.step}; the last good checkpoint of {self.run.path} is kept"
            )
        values = {"stage": self.stage, "step": self.step, "best": self.best, "rng": rng_state()}
        values |= {"student": self.student.state_dict(), "method": self.method.state_dict()}
        values |= {"average": self.average.model.state_dict() if self.average else None}
        values |= {"module": stage.learner.module.state_dict() if stage.name != "main" else None}
        values |= {"critics": {name: tool.state_dict() for name, (_, tool) in stage.critics.items()}}
        values |= {"precision": stage.precision.state_dict()}
        values |= {"optimiser": stage.optimiser.state_dict(), "offsets": {k: f.tell() for k, f in self.logs.items()}}
        for file in self.logs.values():
            file.flush()
        save_state(self.run.checkpoints, values, self.step)

    def restore(self, values: dict[str, Any]) -> None:
        """Undo ``save``; the stage's own optimiser is restored when the stage begins."""
        self.student.load_state_dict(values["student"])
        self.method.load_state_dict(values["method"])
        if self.average:
            self.average.model.load_state_dict(values["average"])
        self.stage, self.step, self.best = values["stage"], values["step"], values["best"]

    def continue_method(self, run: Run) -> None:
        """Give the method's own parts (adapters, critics, queues) what they had at the end of another run.

        Raises:
            WeightsError: that run has no checkpoint, or it is of another method.
        """
        try:
            self.method.load_state_dict(load_state(run.checkpoints)["method"])
        except RuntimeError as error:
            raise WeightsError(
                f"the method of {run.path.name} does not fit this one ({str(error).splitlines()[0]})"
            ) from error

    def enter(self, stage: Stage, values: dict[str, Any] | None) -> None:
        """Begin a stage, or go on within the one that ``values`` was saved in."""
        if values is None or values["stage"] != stage.name:
            self.stage, self.step = stage.name, 0
            return
        stage.optimiser.load_state_dict(values["optimiser"])
        if values.get("precision"):
            stage.precision.load_state_dict(values["precision"])
        for name, (_, tool) in stage.critics.items():
            tool.load_state_dict(values["critics"][name])
        if values["module"] is not None:
            stage.learner.module.load_state_dict(values["module"])

    def open_logs(self, offsets: dict[str, int] | None) -> None:
        """Open metrics.jsonl and timing.jsonl, cut to where the checkpoint was taken."""
        self.logs = {}
        for name in ("metrics", "timing"):
            path = self.run.path / f"{name}.jsonl"
            path.touch()
            file = path.open("r+")
            file.truncate(offsets[name] if offsets else 0)
            file.seek(0, 2)
            self.logs[name] = file

    def log(self, name: str, **values: Any) -> None:
        """Append one object to a log."""
        self.logs[name].write(console.to_json(values) + "\n")
