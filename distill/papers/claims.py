"""``kdc verify``: the papers' tables as executable claims, counted again without data or weights."""

import textwrap
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from .. import console
from ..run.files import write_json
from ..run.folder import Run, find_run
from .contradictions import KINDS, contradictions, name_method
from .conventions import CLASSES, COUNTINGS, HEADS, SIZES
from .tables import names, read_paper
from .verdicts import STATUSES, compare, judge

#: points of mIoU that a trained run may be off: two or three standard deviations between seeds of these recipes
WITHIN = 1.0
#: columns of a terminal that every line keeps within
WIDTH = 100


def verify(
    paper: str = "all",
    *,
    trained: Sequence[str | Run] = (),
    within: float = WITHIN,
    out: Path | None = None,
) -> dict[str, Any]:
    """Check the tables of papers.

    Args:
        paper: a name of ``_papers.names()``, "all", or a YAML file of the same form.
        trained: finished runs, whose mIoU is set beside what is reported of their student, method and data.
        within: points of mIoU that they may be off.
        out: a file for the result, as JSON.

    Returns:
        ``kind`` "verify"; ``papers``: a list of ``paper``, ``title``, ``source`` and ``claims``, each claim with

        - what the table says: ``table``, ``line``, ``row``, ``model``, ``method``, ``dataset``, ``split``, ``classes``,
          ``size``, ``crop``, ``recipe``, ``source``, ``metric`` (params, flops, miou), ``printed``, ``unit``, and
          ``value`` and ``tolerance`` in single parameters, single operations or per cent;
        - what was found: ``status`` (a key of ``statuses``), ``failed``, ``contradicted``, ``recomputed`` (the nearest
          number where none fits), its ``difference`` from ``value``, the ``convention`` (model, classes, heads, aux,
          size, unit, counter, text), ``how`` in words, ``changed`` (what it takes the row to say otherwise: "", size,
          classes, backbone), ``row_is`` (that backbone's network), ``classes_that_fit``, ``rounded_twice``,
          ``conventions_tried``, and the names of the ``runs`` that it was compared with;

        ``contradictions`` (quantity, kind, why, prints, claims) that touch these papers; ``unmatched`` runs;
        ``counts`` by status; ``failed``; ``within``; ``statuses``, ``kinds`` and ``grid``, which say what the words
        mean.

    Raises:
        UsageError: an unknown paper or run, a file that is not of the form, a run without a final mIoU.
    """
    own = read_paper(paper) if paper != "all" else None
    # a contradiction with any paper is one, so all are read; a file of one's own takes its namesake's place
    papers = [each for each in map(read_paper, names()) if own is None or each.paper != own.paper]
    papers += [own] if own else []
    claims = {each.paper: list(each.claims()) for each in papers}
    verdicts = judge([claim for each in claims.values() for claim in each])
    shown = [own] if own else papers
    names_shown = {each.paper for each in shown}
    mine = [v for v in verdicts if v.claim.paper in names_shown]
    clashes = [c for c in contradictions(verdicts) if any(v.claim.paper in names_shown for v in c.verdicts)]
    unmatched = compare(mine, [run if isinstance(run, Run) else find_run(run) for run in trained], within)
    result = {
        "kind": "verify",
        "papers": [
            {"paper": each.paper, "title": each.title, "source": each.source}
            | {"claims": [v.to_dict() for v in mine if v.claim.paper == each.paper]}
            for each in shown
        ],
        "contradictions": [c.to_dict() for c in clashes],
        "unmatched": unmatched,
        "counts": {status: n for status in STATUSES if (n := sum(v.status == status for v in mine))},
        "failed": sum(v.failed for v in mine),
        "within": within,
        "statuses": STATUSES,
        "kinds": KINDS,
        "grid": {
            "heads": list(HEADS),
            "countings": [{"flops_per_mac": per, "counter": kind, "aux": aux} for per, kind, aux in COUNTINGS],
            "sizes": [list(size) for size in SIZES],
            "classes": list(CLASSES),
        },
    }
    if out:
        write_json(out, result)
    return result


def show(result: dict[str, Any]) -> None:
    """Print what ``verify`` returned, in lines of at most ``WIDTH`` columns."""
    for paper in result["papers"]:
        _say(f"{paper['paper']}: {paper['title']} ({paper['source']})")
        for table, claims in groupby(paper["claims"], key=lambda claim: claim["table"]):
            _show_table(table, list(claims))
        console.say()
    for kind, items in groupby(result["contradictions"], key=lambda item: item["kind"]):
        _say(f"{'contradictions' if kind == 'contradiction' else 'differences explained'}: {KINDS[kind]}")
        for item in items:
            prints = " / ".join(f"{each['printed']} ({each['of']})" for each in item["prints"])
            _say(f"{item['quantity']}: {prints}{' - ' * bool(item['why'])}{item['why']}", 2, 6)
        console.say()
    for line in result["unmatched"]:
        console.warn(line)
    counts, items = result["counts"], result["contradictions"]
    for status in counts:
        _say(f"{status}: {STATUSES[status]}", 0, 4)
    if set(counts) - {"reported", "measured", "differs"}:
        _say("MACs: multiply-adds; FLOPs: two a MAC; undilated: dilation ignored, as CIRKD's counter does", 0, 4)
    each = ", ".join(f"{n} {status}" for status, n in counts.items())
    disputes = sum(item["kind"] == "contradiction" for item in items)
    _say(f"{sum(counts.values())} claims: {each}; {disputes} contradictions; {result['failed']} claims fail", 0, 4)


def _show_table(table: str, claims: list[dict[str, Any]]) -> None:
    """Print the counted numbers of a table, then its mIoU: those compared with runs, and those only reported."""
    data = f"{claims[0]['dataset']} {claims[0]['split']}"
    if counted := [claim for claim in claims if claim["metric"] != "miou"]:
        _say(table, 2)
        _columns("row", "metric", "printed", "recomputed", "convention", "status")
        for c in counted:
            metric = {"params": "params", "flops": "FLOPs"}[c["metric"]]
            _columns(c["row"], metric, c["printed"], c["recomputed_text"], c["how"], c["status"])
    if checked := [claim for claim in claims if claim["runs"]]:
        _say(f"{table}: mIoU on {data}, with the trained runs", 2)
        _columns("row", "", "reported", "measured", "method", "status")
        for c in checked:
            runs = f"{len(c['runs'])} run{'s' * (len(c['runs']) > 1)}"
            how = f"{name_method(c['method'])}: {c['difference']:+.2f}, {runs}"
            _columns(c["row"], "mIoU", c["printed"], c["recomputed_text"], how, c["status"])
    if reported := [claim for claim in claims if claim["status"] == "reported"]:
        _say(f"{table}: mIoU on {data}, as reported", 2)
        for _, row in groupby(reported, key=lambda claim: claim["line"]):
            same = list(row)
            values = ", ".join(f"{name_method(claim['method'])} {claim['printed']}" for claim in same)
            values += f" (the row is {same[0]['row_is']})" if same[0]["row_is"] else ""
            _say(f"{_short(same[0]['row'], 34):34}  {values}", 4, 40)


def _columns(row: str, metric: str, printed: str, recomputed: str, how: str, status: str) -> None:
    """Print one line of a table of claims; a long convention goes on below itself."""
    first, *more = textwrap.wrap(how, 28) or [""]
    console.say(f"    {_short(row, 24):24} {metric:6} {printed:>10} {recomputed:>10}  {first:28} {status}".rstrip())
    for line in more:
        console.say(" " * 59 + line)


def _say(text: str, indent: int = 0, further: int = 0) -> None:
    for line in textwrap.wrap(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (further or indent)):
        console.say(line)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}\u2026"
