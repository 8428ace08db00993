"""Which blocks of a network suffer from quantisation, which calibrator suits it, and which blocks must stay high.

Leave one group out: all but one block is quantised, and the gain in mask agreement and mIoU is the cost of that block.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..distill import console
from ..distill.run.records import Record
from ..distill.units import duration, quantity
from .effort import BUDGET, Effort, Pace, effort, enough_minutes
from .heldout import HeldOut, Outcome
from .low_precision import LowPrecisionWriter
from .onnx_graph import groups


@dataclass(frozen=True)
class GroupCost(Record):
    """The cost of quantising one group."""

    group: str
    #: that are measured together
    blocks: list[str]
    nodes: int
    #: the network with all but this group quantised
    without: Outcome
    #: the gain of leaving it high: points of pixels that agree, and of mIoU (None on unlabelled images)
    agreement: float
    miou: float | None
    #: by how much leaving it high comes nearer to the limits; where they hold anyway, the gain in all
    cost: float


@dataclass(frozen=True)
class Sensitivity(Record):
    """All groups, the costliest first, and those that were left high in the end."""

    everything: Outcome
    costs: list[GroupCost]
    #: blocks left high, in the order of choice
    rescued: list[str]
    #: after each further group
    steps: list[Outcome]
    #: whether the limits hold on the held-out images
    holds: bool
    keys: list[str]
    effort: Effort


def compare(writer: LowPrecisionWriter, images: HeldOut) -> dict[str, Outcome]:
    """Make the file with every calibrator and print how each does on held-out images."""
    outcomes: dict[str, Outcome] = {}
    names = writer.form.calibrators()
    for name in console.progress(names, len(names), "comparing calibrators"):
        outcomes[name] = writer.score(images, calibrator=name)
    title = f"calibrators for {writer.form.precision} on {writer.form.target}, {len(images.keys)} held-out images"
    columns = ["calibrator", "pixels that agree %", "mIoU %", "mIoU drop"]
    console.table(title, columns, [[name, *each.cells] for name, each in outcomes.items()])
    return outcomes


def best(outcomes: dict[str, Outcome]) -> str:
    """Return the calibrator with the highest agreement."""
    return max(outcomes, key=lambda name: outcomes[name].agreement)


def rescue(
    writer: LowPrecisionWriter,
    images: HeldOut,
    *,
    agreement: float,
    drop: float | None,
    calibrator: str,
    keep: Sequence[str] = (),
    minutes: float = BUDGET,
) -> Sensitivity:
    """Measure every group, then leave the costliest ones that help high, one by one, until both limits hold.

    Args:
        writer: of the file.
        images: those that neither calibration nor gate use.
        agreement: least share of agreeing pixels.
        drop: largest loss of mIoU in points.
        calibrator: see ``ranges``.
        keep: nodes that always stay high.
        minutes: that there are; where they are too few, fewer images are used, then blocks are measured together.
    """
    blocks = {name: nodes for name, nodes in groups(writer.model.graph).items() if not set(nodes) <= set(keep)}

    def measured(high: Sequence[str], on: HeldOut) -> Outcome:
        return writer.score(on, calibrator=calibrator, keep=[*keep, *(n for block in high for n in blocks[block])])

    # how much there is time for
    pace = _pace(writer, lambda on: measured((), on), images)
    plan = effort(pace, len(blocks), len(images), minutes)
    _show_forecast(writer, plan, pace)

    images = images.some(plan.images)
    everything = measured((), images)

    # without each group in turn
    costs = []
    parts = [part.tolist() for part in np.array_split(list(blocks), plan.groups)] if blocks else []
    for part in console.progress(parts, len(parts), "leaving one group out"):
        nodes = sum(len(blocks[block]) for block in part)
        costs.append(_cost(part, nodes, measured(part, images), everything, agreement, drop))
    costs.sort(key=lambda each: -each.cost)

    # the costliest, until the limits hold
    rescued: list[str] = []
    steps, reached = [], everything
    waiting, tried, left = list(costs), 0, plan.passes - 1 - len(costs)
    # a group that does not help at its turn may help after another one: stop when a whole round does not help
    while reached.short_of(agreement, drop) and tried < len(waiting) and left > 0:
        left -= 1
        group = waiting.pop(0)
        outcome = measured([*rescued, *group.blocks], images)
        if outcome.short_of(agreement, drop) >= reached.short_of(agreement, drop):
            waiting.append(group)
            tried += 1
            continue
        tried, reached = 0, outcome
        rescued += group.blocks
        steps.append(reached)
        console.say(f"{group.group} left in {writer.form.high}: {100 * reached.agreement:.3f} % of pixels agree")
    if reached.short_of(agreement, drop) and tried < len(waiting):
        console.warn(f"the time is up before all groups were tried; more: --budget {2 * math.ceil(minutes)}")

    result = Sensitivity(everything, costs, rescued, steps, not reached.short_of(agreement, drop), images.keys, plan)
    show_sensitivity(result, writer)
    return result


def _pace(writer: LowPrecisionWriter, measure: Callable[[HeldOut], Outcome], images: HeldOut) -> Pace:
    """Time a pass over one image and one over three."""
    if writer.form.grid:
        measure(images.some(1))  # finds the ranges that all further passes share
    passes = []
    for part in (images.some(1), images.some(3)):
        started = console.clock()
        measure(part)
        passes.append((len(part), console.clock() - started))
    return Pace.of(*passes)


def _cost(
    part: list[str], nodes: int, without: Outcome, everything: Outcome, agreement: float, drop: float | None
) -> GroupCost:
    name = part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}"
    points = 100 * (without.agreement - everything.agreement)
    gain = None if without.drop is None or everything.drop is None else everything.drop - without.drop
    missed = everything.short_of(agreement, drop)
    cost = missed - without.short_of(agreement, drop) if missed else points + (gain or 0.0)
    return GroupCost(name, part, nodes, without, points, gain, cost)


def _show_forecast(writer: LowPrecisionWriter, plan: Effort, pace: Pace) -> None:
    """Say how long it takes, and what is left out where that is more than there is time for."""
    macs = sum(writer.work.values()) * plan.images_of * (1 + plan.blocks)
    whole = (1 + plan.blocks) * pace.seconds(plan.images_of)
    console.say(
        f"sensitivity: {console.plural(plan.blocks, 'block')}, each left high once on "
        f"{console.plural(plan.images_of, 'image')}, {quantity(macs, '')} multiply-adds: about {duration(whole)}, "
        f"and at most {duration(60 * plan.budget_minutes)} with what follows"
    )
    if not plan.whole:
        console.warn(
            f"that is too much for --budget {plan.budget_minutes:g}: measured on {plan.images} of {plan.images_of} "
            f"images, {plan.blocks} blocks in {console.plural(plan.groups, 'group')} of neighbours, about "
            f"{duration(plan.seconds)}; all of it takes --budget {enough_minutes(pace, plan.blocks, plan.images_of)}"
        )


def show_sensitivity(result: Sensitivity, writer: LowPrecisionWriter, most: int = 12) -> None:
    """Print the costliest groups and which of them were left high."""
    rows = []
    for each in result.costs[:most]:
        miou = "-" if each.miou is None else f"{each.miou:+.3f}"
        state = f"left in {writer.form.high}" if each.blocks[0] in result.rescued else writer.form.to
        rows.append([each.group, f"{each.agreement:+.3f}", miou, state])
    title = f"what leaving one group high wins back, in points ({len(result.costs)} groups, the costliest first)"
    console.table(title, ["group", "pixels that agree", "mIoU", ""], rows)
    last = result.steps[-1] if result.steps else result.everything
    console.say(
        f"held-out: {100 * result.everything.agreement:.3f} % of pixels agree with all quantised, "
        f"{100 * last.agreement:.3f} % with {len(result.rescued)} of {result.effort.blocks} blocks left high"
        + ("" if result.holds else "; THE LIMITS STILL DO NOT HOLD")
    )
