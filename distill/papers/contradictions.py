"""Tables that print different numbers for one quantity, and possible explanations."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from .tables import Claim
from .verdicts import Verdict

KINDS = {
    "contradiction": "the same quantity, printed differently",
    "label": "one row is another network than its label says",
    "convention": "each is right by its own way of counting",
    "recipe": "the same network and method, trained by another recipe",
}


@dataclass(frozen=True)
class Print:
    """A number as it is printed, and what tells it from the others: its papers, recipe or convention."""

    printed: str
    of: str


@dataclass(frozen=True)
class Contradiction:
    """Claims of one quantity that cannot all be true; ``kind`` is a key of ``KINDS``."""

    kind: str
    verdicts: list[Verdict]

    @property
    def quantity(self) -> str:
        """The claimed quantity, in words."""
        claim = self.verdicts[0].claim
        if claim.metric != "miou":
            return f"{claim.model} {'parameters' if claim.metric == 'params' else 'FLOPs'}"
        return f"{claim.model} {claim.dataset} {claim.split} mIoU, {name_method(claim.method)}"

    @property
    def why(self) -> str:
        """The explanation, in words; empty where the numbers that are listed with it show it."""
        if self.kind in ("recipe", "convention"):
            return ""
        if self.kind == "label":
            rows = {v.claim.printed: f"({v.claim.paper}) is {v.row_is}" for v in self.verdicts if v.row_is}
            return "; ".join(f"the row of {printed} {text}" for printed, text in rows.items())
        if self.verdicts[0].claim.metric == "miou":
            return f"recipe {self.verdicts[0].claim.recipe} in all of them"
        return "; ".join(
            dict.fromkeys(
                f"{v.claim.printed} ({v.claim.paper}, {v.claim.dataset}): "
                + ("no convention gives it" if v.status == "unexplained" else f"only {v.how}")
                for v in self.verdicts
                if v.failed
            )
        )

    def prints(self) -> list[Print]:
        """Return the numbers that differ, each as it is printed most coarsely."""
        groups: list[list[Verdict]] = []
        for verdict in sorted(self.verdicts, key=lambda v: -v.claim.tolerance):
            for group in groups:
                if _agree(group[0].claim, verdict.claim) and self._of(group[0]) == self._of(verdict):
                    group.append(verdict)
                    break
            else:
                groups.append([verdict])
        return [Print(group[0].claim.printed, self._label(group)) for group in groups]

    def _of(self, verdict: Verdict) -> str:
        """Return the convention, recipe or dataset that tells equal numbers apart."""
        if self.kind == "convention":
            return verdict.how
        return verdict.claim.recipe if verdict.claim.metric == "miou" else verdict.claim.dataset

    def _label(self, group: list[Verdict]) -> str:
        if self.kind == "recipe":
            return f"recipe {self._of(group[0])}"
        papers = ", ".join(dict.fromkeys(v.claim.paper for v in group))
        spread = len({v.claim.dataset for v in self.verdicts}) > 1
        return f"{papers}: {self._of(group[0])}" if self.kind == "convention" or spread else papers

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        keys = ("paper", "table", "row", "dataset", "recipe", "printed", "value")
        claims = [{key: getattr(v.claim, key) for key in keys} for v in self.verdicts]
        return {
            "quantity": self.quantity,
            "kind": self.kind,
            "why": self.why,
            "prints": [asdict(each) for each in self.prints()],
            "claims": claims,
        }


def name_method(method: str) -> str:
    """Return a method's name for people."""
    return "baseline" if method == "none" else method


def contradictions(verdicts: Sequence[Verdict]) -> list[Contradiction]:
    """Compare all claims of one quantity with each other, and mark those that a like one contradicts."""
    quantities: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        quantities.setdefault((verdict.claim.metric, verdict.claim.model), []).append(verdict)

    clashes: dict[tuple[str, ...], dict[int, Verdict]] = {}
    for group in quantities.values():
        for a, b in combinations(group, 2):
            if kind := _kind(a, b):
                mine = a.claim
                place = (mine.dataset, mine.split, mine.method) if mine.metric == "miou" else ()
                parties = clashes.setdefault((kind, mine.metric, mine.model, *place), {})
                parties |= {id(a): a, id(b): b}
                if kind == "contradiction" and mine.metric == "miou":
                    a.contradicted = b.contradicted = True

    items = [Contradiction(key[0], list(parties.values())) for key, parties in clashes.items()]
    order = list(KINDS)
    return sorted(items, key=lambda item: order.index(item.kind))


def _agree(a: Claim, b: Claim) -> bool:
    return abs(a.value - b.value) <= (a.tolerance + b.tolerance) * (1 + 1e-9)


def _kind(a: Verdict, b: Verdict) -> str:
    """Return the kind of contradiction between two claims of one metric and model, or "" where they agree."""
    one, other = a.claim, b.claim
    if (one.paper, one.table) == (other.paper, other.table) or _agree(one, other):
        return ""
    same_data = one.dataset == other.dataset
    if one.metric == "miou" and not (same_data and one.split == other.split and one.method == other.method):
        return ""
    same_recipe = one.metric != "miou" or one.recipe == other.recipe
    if a.row_is != b.row_is:
        return "label" if same_data and same_recipe else ""
    if one.metric == "miou":
        return "contradiction" if same_recipe else "recipe"
    if a.status == b.status == "reproduced":
        assert a.reading and b.reading
        return "convention" if same_data and a.reading.convention.habits != b.reading.convention.habits else ""
    # an unexplained number may be a slip for any number at that input, whatever the classes
    loose = "unexplained" in (a.status, b.status) and (one.size or one.crop) == (other.size or other.crop)
    return "contradiction" if same_data or loose else ""
