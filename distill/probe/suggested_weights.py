"""Weights that the gradients of a probe suggest: a heuristic, each with the reason in one line."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

#: by how a term's gradient lies to the task's: cosine from, share of the task's gradient aimed at, what is said
TARGETS = (
    (0.1, 1.0, "pulls with the task{}, so it may be as strong"),
    (-0.1, 0.5, "pulls across the task{}, so half as strong is aimed at"),
    (-math.inf, 0.2, "pulls against the task{}, so a fifth as strong is aimed at"),
)
#: a few batches tell no more than the order of magnitude: within this factor of the aim a weight is left alone
NEAR = 2.0


@dataclass(frozen=True)
class Felt:
    """What a term's gradient was, on average over the batches."""

    term: str
    #: at the first step
    weight: float
    #: False where the weight follows a schedule, of which only the beginning was seen
    constant: bool
    #: norm of the unweighted term's gradient over that of the task's, both over the parameters that the term reaches
    ratio: float
    cosine: float | None
    #: what the term depends on that is still to be trained, if anything
    untrained: str | None = None


@dataclass(frozen=True)
class Advice:
    """A weight to start from; ``suggested`` is None where nothing can be said."""

    term: str
    weight: float
    #: of the weighted term's gradient in the task's
    share: float
    suggested: float | None
    why: str
    #: what to type, where the suggestion is another weight than the present one
    setting: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


def advise(terms: Iterable[Felt]) -> list[Advice]:
    """Return an advice for every term, the weight that is furthest off first."""
    found = [_advice(felt) for felt in terms]
    return sorted(found, key=_distance, reverse=True)


def _advice(felt: Felt) -> Advice:
    share = felt.weight * felt.ratio
    if felt.cosine is None or felt.ratio == 0:
        return Advice(felt.term, felt.weight, share, None, "no gradient here, so nothing can be said", None)
    if felt.untrained:
        why = f"{felt.untrained} is still to be trained, so this gradient says nothing of later"
        return Advice(felt.term, felt.weight, share, None, why, None)
    _, aim, said = next(target for target in TARGETS if felt.cosine >= target[0])
    wanted, why = float(f"{aim / felt.ratio:.2g}"), said.format(f" (cosine {felt.cosine:+.2f})")
    against = felt.cosine < TARGETS[-2][0]
    if aim / NEAR <= share <= aim * NEAR or (against and share <= aim):  # never more of what pulls against the task
        return Advice(felt.term, felt.weight, share, felt.weight, f"{why}; near enough", None)
    if not felt.constant:
        factor = f"; scale the schedule by {wanted / felt.weight:.2g}" if felt.weight else "; it begins at 0"
        return Advice(felt.term, felt.weight, share, wanted, f"{why}{factor}", None)
    return Advice(felt.term, felt.weight, share, wanted, why, f"method.{felt.term}={wanted:g}")


def _distance(advice: Advice) -> float:
    if advice.suggested is None or not advice.weight:
        return 0.0
    return abs(math.log(advice.suggested / advice.weight))
