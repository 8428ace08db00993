"""A comparison as one HTML page, in the style of the report."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..charts.svg import data_uri
from ..pages.render import render
from ..settings.config import Config
from .plan import BASELINE
from .results import ClassRow, Results, SummaryRow


@dataclass(frozen=True)
class Rung:
    """A bar of the headline: a teacher's mIoU, or the mean of a method's runs."""

    name: str
    role: str
    miou: float


def comparison_page(results: Results, title: str, charts: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        results: of ``collect``.
        title: of the page.
        charts: SVG files by name.
    """
    protocol = Config.model_validate(results.protocol)
    return render(
        Path(__file__).with_name("comparison.html.jinja"),
        {
            "title": title,
            "results": results,
            "protocol": protocol,
            "best": best_row(results),
            "ladder": _ladder(results),
            "charts": {name.removesuffix(".svg").replace("-", " "): data_uri(svg) for name, svg in charts.items()},
            "by_class": _by_class(results),
            "commands": [shlex.join(command) for command in results.commands],
            "BASELINE": BASELINE,
        },
    )


def best_row(results: Results) -> SummaryRow | None:
    """Return the method that gained most over the student alone; without pairs the one with the highest mean.

    A gain that is shown goes before one that is not, and that before one that no interval stands around.
    """
    scored = [row for row in results.summary if row.miou is not None]
    paired = [row for row in scored if row.difference is not None]
    if paired:
        return max(paired, key=lambda row: (row.verdict == "gain", row.low is not None, row.difference))
    return max(scored, key=lambda row: row.miou or 0.0, default=None)


def _ladder(results: Results) -> list[Rung]:
    """Return the teachers and then the rows of the summary, as far as they have a score."""
    teachers = [
        Rung(f"teacher, {each.name}", "teacher", each.miou) for each in results.teachers if each.miou is not None
    ]
    rows = [
        Rung(row.label, "before" if row.method == BASELINE else "after", row.miou)
        for row in results.summary
        if row.miou is not None
    ]
    return [*teachers, *rows]


def _by_class(results: Results) -> dict[str, list[ClassRow]]:
    """Return of each class the rows of all methods, in the order of the summary."""
    rows: dict[str, list[ClassRow]] = {}
    for row in results.classes:
        rows.setdefault(row.name, []).append(row)
    return rows
