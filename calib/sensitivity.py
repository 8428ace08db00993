"""Which blocks of a network suffer from quantisation, which calibrator suits it, and which blocks must stay high.

Leave one group out: all but one block is quantised, and the gain in mask agreement and mIoU is the cost of that block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..distill import console
from ..distill.run.records import Record
from .heldout import HeldOut, Outcome
from .low_precision import LowPrecisionWriter
from .onnx_graph import groups


@dataclass(frozen=True)
class GroupCost(Record):
    """The cost of quantising one group."""

    group: str
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
    #: groups left high, in the order of choice
    rescued: list[str]
    #: after each further group
    steps: list[Outcome]
    #: whether the limits hold on the held-out images
    holds: bool
    keys: list[str]


def compare(writer: LowPrecisionWriter, images: HeldOut) -> dict[str, Outcome]:
    """Make the file with every calibrator and print how each does on held-out images."""
    outcomes: dict[str, Outcome] = {}
    for name in console.progress(writer.form.calibrators(), label="comparing calibrators"):
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
) -> Sensitivity:
    """Measure every group, then leave the costliest ones that help high, one by one, until both limits hold.

    Args:
        writer: of the file.
        images: those that neither calibration nor gate use.
        agreement: least share of agreeing pixels.
        drop: largest loss of mIoU in points.
        calibrator: see ``ranges``.
        keep: nodes that always stay high.
    """
    everything = writer.score(images, calibrator=calibrator, keep=keep)
    blocks = {name: nodes for name, nodes in groups(writer.model.graph).items() if not set(nodes) <= set(keep)}

    # without each group in turn
    costs = []
    for name, nodes in console.progress(blocks.items(), total=len(blocks), label="leaving one group out"):
        without = writer.score(images, calibrator=calibrator, keep=[*keep, *nodes])
        points = 100 * (without.agreement - everything.agreement)
        gain = None if without.drop is None or everything.drop is None else everything.drop - without.drop
        nearer = everything.short_of(agreement, drop) - without.short_of(agreement, drop)
        within = not everything.short_of(agreement, drop)
        costs.append(GroupCost(name, len(nodes), without, points, gain, points + (gain or 0.0) if within else nearer))
    costs.sort(key=lambda each: -each.cost)

    # the costliest, until the limits hold
    rescued: list[str] = []
    steps, high, reached = [], list(keep), everything
    waiting, tried = [each.group for each in costs], 0
    # a group that does not help at its turn may help after another one: stop when a whole round does not help
    while reached.short_of(agreement, drop) and tried < len(waiting):
        group = waiting.pop(0)
        outcome = writer.score(images, calibrator=calibrator, keep=[*high, *blocks[group]])
        if outcome.short_of(agreement, drop) >= reached.short_of(agreement, drop):
            waiting.append(group)
            tried += 1
            continue
        tried, reached = 0, outcome
        high += blocks[group]
        rescued.append(group)
        steps.append(reached)
        console.say(f"{group} left in {writer.form.high}: {100 * reached.agreement:.3f} % of pixels agree")

    result = Sensitivity(everything, costs, rescued, steps, not reached.short_of(agreement, drop), images.keys)
    show_sensitivity(result, writer)
    return result


def show_sensitivity(result: Sensitivity, writer: LowPrecisionWriter, most: int = 12) -> None:
    """Print the costliest groups and which of them were left high."""
    rows = []
    for each in result.costs[:most]:
        miou = "-" if each.miou is None else f"{each.miou:+.3f}"
        state = f"left in {writer.form.high}" if each.group in result.rescued else writer.form.to
        rows.append([each.group, f"{each.agreement:+.3f}", miou, state])
    title = f"what leaving one group high wins back, in points ({len(result.costs)} groups, the costliest first)"
    console.table(title, ["group", "pixels that agree", "mIoU", ""], rows)
    last = result.steps[-1] if result.steps else result.everything
    console.say(
        f"held-out: {100 * result.everything.agreement:.3f} % of pixels agree with all quantised, "
        f"{100 * last.agreement:.3f} % with {len(result.rescued)} of {len(result.costs)} groups left high"
        + ("" if result.holds else "; THE LIMITS STILL DO NOT HOLD")
    )
