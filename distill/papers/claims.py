"""``kdc verify``: the papers' tables as executable claims, counted again without data or weights."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from .. import console
from ..errors import UsageError
from ..run.files import write_json
from ..run.folder import Run, find_run
from .contradictions import KINDS, Contradiction, contradictions, name_method
from .conventions import CLASSES, COUNTINGS, HEADS, SIZES
from .tables import Paper, names, read_paper
from .verdicts import STATUSES, Verdict, compare_runs, recount

#: points of mIoU that a trained run may be off: two or three standard deviations between seeds of these recipes
WITHIN = 1.0
#: columns of a terminal that every line keeps within
WIDTH = 80


@dataclass(frozen=True)
class Verification:
    """Papers, the verdicts on their claims, and the contradictions that touch them."""

    papers: list[Paper]
    verdicts: list[Verdict]
    contradictions: list[Contradiction]
    #: a sentence for every run that no claim matches
    unmatched: list[str]
    #: points of mIoU that a trained run may be off
    within: float

    @property
    def counts(self) -> dict[str, int]:
        """The number of claims by status."""
        return {status: n for status in STATUSES if (n := sum(v.status == status for v in self.verdicts))}

    @property
    def failed(self) -> int:
        """The number of claims that ``--strict`` counts."""
        return sum(verdict.failed for verdict in self.verdicts)

    def of(self, paper: Paper) -> list[Verdict]:
        """Return the verdicts on one paper."""
        return [verdict for verdict in self.verdicts if verdict.claim.paper == paper.paper]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON.

        ``kind`` is "verify"; ``papers`` a list of ``paper``, ``title``, ``source`` and ``claims``, each claim with

        - what the table says: ``table``, ``line``, ``row``, ``model``, ``method``, ``dataset``, ``split``, ``classes``,
          ``size``, ``crop``, ``recipe``, ``source``, ``metric`` (params, flops, miou), ``printed``, ``unit``, and
          ``value`` and ``tolerance`` in single parameters, single operations or per cent;
        - the verdict: ``status`` (a key of ``statuses``), ``failed``, ``contradicted``, ``recomputed`` (the nearest
          number where none fits), its ``difference`` from ``value``, the ``convention`` (model, classes, heads, aux,
          size, unit, counter, text), ``how`` in words, ``changed`` (what it takes the row to say otherwise: "", size,
          classes, backbone), ``row_is`` (that backbone's network), ``classes_that_fit``, ``rounded_twice``,
          ``conventions_tried``, and the names of the ``runs`` that it was compared with.

        ``contradictions`` have quantity, kind, why, prints and claims; ``statuses``, ``kinds`` and ``grid`` explain the
        words.
        """
        return {
            "kind": "verify",
            "papers": [
                {"paper": paper.paper, "title": paper.title, "source": paper.source}
                | {"claims": [verdict.to_dict() for verdict in self.of(paper)]}
                for paper in self.papers
            ],
            "contradictions": [item.to_dict() for item in self.contradictions],
            "unmatched": self.unmatched,
            "counts": self.counts,
            "failed": self.failed,
            "within": self.within,
            "statuses": STATUSES,
            "kinds": KINDS,
            "grid": {
                "heads": list(HEADS),
                "countings": [{"flops_per_mac": per, "counter": kind, "aux": aux} for per, kind, aux in COUNTINGS],
                "sizes": [list(size) for size in SIZES],
                "classes": list(CLASSES),
            },
        }


def verify(
    paper: str = "all",
    *,
    trained: Sequence[str | Run] = (),
    within: float = WITHIN,
    out: Path | None = None,
) -> Verification:
    """Check the tables of papers.

    Args:
        paper: a name of ``tables.names()``, "all", or a YAML file of the same form.
        trained: finished runs, whose mIoU is set beside what is reported of their student, method and data.
        within: points of mIoU that they may be off.
        out: a file for the result, as JSON.

    Raises:
        UsageError: an unknown paper or run, a file that is not of the form, a run without a final mIoU.
    """
    if out and out.is_dir():
        raise UsageError(f"--out {out}: it is a folder; name the file that the JSON goes to")
    own = read_paper(paper) if paper != "all" else None
    # a contradiction with any paper is one, so all are read; a user's file replaces its namesake
    papers = [each for each in map(read_paper, names()) if own is None or each.paper != own.paper]
    papers += [own] if own else []
    claims = {each.paper: list(each.claims()) for each in papers}
    verdicts = recount([claim for each in claims.values() for claim in each])

    shown = [own] if own else papers
    names_shown = {each.paper for each in shown}
    mine = [v for v in verdicts if v.claim.paper in names_shown]
    clashes = [c for c in contradictions(verdicts) if any(v.claim.paper in names_shown for v in c.verdicts)]
    unmatched = compare_runs(mine, [run if isinstance(run, Run) else find_run(run) for run in trained], within)

    result = Verification(shown, mine, clashes, unmatched, within)
    if out:
        write_json(out, result.to_dict())
    return result


def show_claims(result: Verification) -> None:
    """Print what ``verify`` returned, in lines of at most ``WIDTH`` columns."""
    for paper in result.papers:
        _say(f"{paper.paper}: {paper.title} ({paper.source})")
        for table, verdicts in groupby(result.of(paper), key=lambda verdict: verdict.claim.table):
            _show_table(table, list(verdicts))
        console.say()

    for kind, items in groupby(result.contradictions, key=lambda item: item.kind):
        _say(f"{'contradictions' if kind == 'contradiction' else 'differences explained'}: {KINDS[kind]}")
        for item in items:
            prints = " / ".join(f"{each.printed} ({each.of})" for each in item.prints())
            _say(f"{item.quantity}: {prints}{f' - {item.why}' if item.why else ''}", 2, 6)
        console.say()
    for line in result.unmatched:
        console.warn(line)

    counts = result.counts
    for status in counts:
        _say(f"{status}: {STATUSES[status]}", 0, 4)
    if set(counts) - {"reported", "measured", "differs"}:
        _say(
            "(19): counted with 19 classes; MACs: multiply-adds; FLOPs: two a MAC; undilated: dilation ignored, as "
            "CIRKD's counter does",
            0,
            4,
        )
    each = ", ".join(f"{n} {status}" for status, n in counts.items())
    disputes = sum(item.kind == "contradiction" for item in result.contradictions)
    _say(f"{sum(counts.values())} claims: {each}; {disputes} contradictions; {result.failed} claims fail", 0, 4)


def _show_table(table: str, verdicts: Sequence[Verdict]) -> None:
    """Print the counted numbers of a table, then its mIoU: those compared with runs, and those only reported."""
    data = f"{verdicts[0].claim.dataset} {verdicts[0].claim.split}"
    if counted := [verdict for verdict in verdicts if verdict.claim.metric != "miou"]:
        rows = [_cells(each, "params" if each.claim.metric == "params" else "FLOPs", each.how) for each in counted]
        console.table(table, ("row", "metric", "printed", "recomputed", "convention", "status"), rows)

    if checked := [verdict for verdict in verdicts if verdict.runs]:
        rows = []
        for verdict in checked:
            runs = console.plural(len(verdict.runs), "run")
            how = f"{name_method(verdict.claim.method)}: {verdict.difference:+.2f}, {runs}"
            rows.append(_cells(verdict, "mIoU", how))
        title = f"{table}: mIoU on {data}, with the trained runs"
        console.table(title, ("row", "", "reported", "measured", "method", "status"), rows)

    if reported := [verdict for verdict in verdicts if verdict.status == "reported"]:
        rows = []
        for _, row in groupby(reported, key=lambda verdict: verdict.claim.line):
            same = list(row)
            values = ", ".join(f"{name_method(verdict.claim.method)} {verdict.claim.printed}" for verdict in same)
            rows.append((same[0].claim.row, values + (f" (the row is {same[0].row_is})" if same[0].row_is else "")))
        console.table(f"{table}: mIoU on {data}, as reported", ("row", "mIoU %"), rows)


def _cells(verdict: Verdict, metric: str, how: str) -> tuple[str, ...]:
    recomputed = verdict.recomputed_text
    recomputed += f" ({verdict.counted_classes})" if verdict.counted_classes else ""
    return verdict.claim.row, metric, verdict.claim.printed, recomputed, how, verdict.status


def _say(text: str, indent: int = 0, further: int = 0) -> None:
    for line in textwrap.wrap(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (further or indent)):
        console.say(line)
