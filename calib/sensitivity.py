"""Which blocks of a network suffer from quantisation, which calibrator suits it, and what must stay high.

Leave one group out: all is quantised but one block, and what comes back of mask agreement and mIoU is what the block
costs.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..distill import console
from .heldout import HeldOut, Outcome
from .low_precision import Maker
from .onnx_graph import groups


@dataclass(frozen=True)
class GroupCost:
    """What one group costs."""

    group: str
    nodes: int
    #: the network with all but this group quantised
    without: Outcome
    #: what leaving it high wins back: points of pixels that agree, and of mIoU (None on unlabelled images)
    agreement: float
    miou: float | None
    #: by how much leaving it high comes nearer to the limits; where they hold anyway, what it wins back in all
    cost: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Sensitivity:
    """All groups, the costliest first, and which of them were left high in the end."""

    everything: Outcome
    costs: list[GroupCost]
    #: groups left high, in the order in which they were
    rescued: list[str]
    #: after each further group
    steps: list[Outcome]
    #: whether the limits hold on the held-out images
    holds: bool
    keys: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


def compare(maker: Maker, images: HeldOut) -> dict[str, Outcome]:
    """Make the file with every calibrator and print how each does on held-out images."""
    found: dict[str, Outcome] = {}
    for name in console.progress(maker.form.calibrators(), label="comparing calibrators"):
        found[name] = maker.score(images, calibrator=name)
    title = f"calibrators for {maker.form.precision} on {maker.form.target}, {len(images.keys)} held-out images"
    columns = ["calibrator", "pixels that agree %", "mIoU %", "mIoU drop"]
    console.table(title, columns, [[name, *each.cells] for name, each in found.items()])
    return found


def best(found: dict[str, Outcome]) -> str:
    """Return the calibrator of the highest agreement."""
    return max(found, key=lambda name: found[name].agreement)


def rescue(
    maker: Maker,
    images: HeldOut,
    *,
    agreement: float,
    drop: float | None,
    calibrator: str,
    keep: Sequence[str] = (),
) -> Sensitivity:
    """Measure every group, then leave the costliest that help high, one after another, until both limits hold.

    Args:
        maker: of the file.
        images: that neither calibration nor gate look at.
        agreement: least share of agreeing pixels.
        drop: largest loss of mIoU in points.
        calibrator: see ``ranges``.
        keep: nodes that stay high in any case.
    """
    everything = maker.score(images, calibrator=calibrator, keep=keep)
    blocks = {name: nodes for name, nodes in groups(maker.model.graph).items() if not set(nodes) <= set(keep)}
    costs = []
    for name, nodes in console.progress(blocks.items(), total=len(blocks), label="leaving one group out"):
        without = maker.score(images, calibrator=calibrator, keep=[*keep, *nodes])
        points = 100 * (without.agreement - everything.agreement)
        won = None if without.drop is None or everything.drop is None else everything.drop - without.drop
        nearer = everything.short_of(agreement, drop) - without.short_of(agreement, drop)
        within = not everything.short_of(agreement, drop)
        costs.append(GroupCost(name, len(nodes), without, points, won, points + (won or 0.0) if within else nearer))
    costs.sort(key=lambda each: -each.cost)
    rescued: list[str] = []
    steps, high, reached = [], list(keep), everything
    waiting, tried = [each.group for each in costs], 0
    # a group that brings nothing at its turn may do so after another: until a whole round brings nothing
    while reached.short_of(agreement, drop) and tried < len(waiting):
        group = waiting.pop(0)
        outcome = maker.score(images, calibrator=calibrator, keep=[*high, *blocks[group]])
        if outcome.short_of(agreement, drop) >= reached.short_of(agreement, drop):
            waiting.append(group)
            tried += 1
            continue
        tried, reached = 0, outcome
        high += blocks[group]
        rescued.append(group)
        steps.append(reached)
        console.say(f"{group} left in {maker.form.high}: {100 * reached.agreement:.3f} % of pixels agree")
    found = Sensitivity(everything, costs, rescued, steps, not reached.short_of(agreement, drop), images.keys)
    show(found, maker)
    return found


def show(found: Sensitivity, maker: Maker, most: int = 12) -> None:
    """Print the costliest groups and what was done about them."""
    rows = []
    for each in found.costs[:most]:
        miou = "-" if each.miou is None else f"{each.miou:+.3f}"
        state = f"left in {maker.form.high}" if each.group in found.rescued else maker.form.to
        rows.append([each.group, f"{each.agreement:+.3f}", miou, state])
    title = f"what leaving one group high wins back, in points ({len(found.costs)} groups, the costliest first)"
    console.table(title, ["group", "pixels that agree", "mIoU", ""], rows)
    last = found.steps[-1] if found.steps else found.everything
    console.say(
        f"held-out: {100 * found.everything.agreement:.3f} % of pixels agree with all quantised, "
        f"{100 * last.agreement:.3f} % with {len(found.rescued)} of {len(found.costs)} groups left high"
        + ("" if found.holds else "; THE LIMITS STILL DO NOT HOLD")
    )
