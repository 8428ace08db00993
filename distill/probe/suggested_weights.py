"""Weights that the gradients of a probe suggest: a heuristic, each with the reason in one line."""

import math
from collections.abc import Iterable

from .records import Advice, Term

#: by the angle between a term's gradient and the task's: lowest cosine, share of the task's gradient aimed at, reason
TARGETS = (
    (0.1, 1.0, "pulls with the task{}, so it may be as strong"),
    (-0.1, 0.5, "pulls across the task{}, so half as strong is aimed at"),
    (-math.inf, 0.2, "pulls against the task{}, so a fifth as strong is aimed at"),
)
#: a few batches show no more than the order of magnitude: within this factor of the aim a weight is left alone
NEAR = 2.0


def advise(terms: Iterable[Term]) -> list[Advice]:
    """Return an advice for every term, the weight that is furthest off first."""
    return sorted(map(_advice, terms), key=_distance, reverse=True)


def _advice(term: Term) -> Advice:
    name, weight, share = term.term, term.weight, term.share
    if term.cosine is None or term.ratio == 0:
        return Advice(name, weight, share, None, "no gradient here, so nothing can be said", None)
    if term.untrained:
        why = f"{term.untrained} is still to be trained, so this gradient says nothing of later"
        return Advice(name, weight, share, None, why, None)

    _, aim, reason = next(target for target in TARGETS if term.cosine >= target[0])
    suggested, why = float(f"{aim / term.ratio:.2g}"), reason.format(f" (cosine {term.cosine:+.2f})")
    against = term.cosine < TARGETS[-2][0]
    if aim / NEAR <= share <= aim * NEAR or (against and share <= aim):  # never more of what pulls against the task
        return Advice(name, weight, share, weight, f"{why}; near enough", None)
    if not term.constant:
        factor = f"; scale the schedule by {suggested / weight:.2g}" if weight else "; it begins at 0"
        return Advice(name, weight, share, suggested, f"{why}{factor}", None)
    return Advice(name, weight, share, suggested, why, f"method.{name}={suggested:g}")


def _distance(advice: Advice) -> float:
    if advice.suggested is None or not advice.weight:
        return 0.0
    return abs(math.log(advice.suggested / advice.weight))
