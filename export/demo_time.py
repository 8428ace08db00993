"""How long the demo takes on this machine, from one timed training step of each of its networks."""

import time
from collections.abc import Callable

import torch

from ..distill import models
from ..distill.data import open_data
from ..distill.losses import task_loss
from ..distill.settings.config import Config
from ..distill.training.batches import Batches
from ..distill.training.devices import launch
from ..distill.training.optimisers import optimiser

#: validation, export, calibration, bench and report, against the bare steps (measured: docs/experiments.md, 2026-12-01)
REST = 0.6
#: what the teacher's forward pass and kt's losses add to a step of the student, against a training step of the teacher
SHOWING = 0.25


def expected_seconds(
    teacher: Config, student: Config, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float]:
    """Return the seconds that the whole demo takes here, and those of one training step of the teacher.

    Nothing is drawn from the global generators: the seeded runs that follow are what they are without it.

    Args:
        teacher: the teacher's fit.
        student: the fit of the student, which is done twice: alone, and shown the teacher.
        clock: gives the time in seconds.
    """
    teacher_step, student_step = step_seconds(teacher, clock), step_seconds(student, clock)
    fit = teacher.train.iters * teacher_step
    alone = student.train.iters * student_step
    distilled = student.train.iters * (student_step + SHOWING * teacher_step)
    return (1 + REST) * (fit + alone + distilled), teacher_step


def step_seconds(config: Config, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of one training step, reading the images included: the second one, for the first warms up."""
    fabric = launch(config)
    data = open_data(config.data.source, "train")
    batches = Batches(data, config, fabric).stream("main", 0, 2)
    seconds = 0.0

    with torch.random.fork_rng(devices=[]):  # dropout draws from it
        network = models.build(
            config.model.student, data.num_classes, output_stride=config.model.output_stride, seed=config.train.seed
        )
        network.to(fabric.device).to(memory_format=torch.channels_last).train()
        tool = optimiser(network.parameters(), config.train)
        for _ in range(2):
            started = clock()
            batch = next(batches)
            output = network(batch["image"].to(fabric.device))
            losses = task_loss(output, batch["label"].to(fabric.device).long(), config.task.aux_weight)
            torch.stack(list(losses.values())).sum().backward()
            tool.step()
            float(next(network.parameters()).detach().sum())  # waits for a GPU
            seconds = clock() - started
            tool.zero_grad()
    return seconds
