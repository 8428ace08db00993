"""The command ``kdc compare``: several methods, seeds and settings under one protocol, and the table they end in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import NumbersError, UsageError
from .flags import ConfigFile, Sets, TrainingFlags, takes_training_flags

if TYPE_CHECKING:
    from ..compare.compare import ComparisonPlan
    from ..compare.results import Results


@takes_training_flags(
    before="out",
    without=("devices", "nodes"),
    seed=Annotated[int | None, typer.Option(help="The first seed, where --seeds says how many.")],
)
def compare(
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Methods (kd), compositions (lad+kd) and presets' methods (preset:kt); the student alone is always "
            "among them.",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="N|A,B", help="How many seeds, or which: 3, or 0,4,7.")] = "3",
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=A,B",
            help="Go over values of a setting, such as method.lad.ad=1,3,10; several make all combinations.",
        ),
    ] = None,
    *,
    flags: TrainingFlags,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Comparison folder, continued if it exists (default: compare/, named by the protocol); without "
            "--methods its table is made again.",
        ),
    ] = None,
    sets: Sets = None,
    config: ConfigFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print every run; write nothing.")] = False,
) -> "Results | ComparisonPlan":
    """Train several methods under one protocol and compare each, seed by seed, with the student alone.

    The same command goes on where it was stopped; another method, seed or grid value extends the folder.
    """
    if methods is None:
        if out is None or flags.names() or sets or grid or config or dry_run:
            raise UsageError(
                "no methods named; give --methods kd,cwd,kt, or --out DIR alone to make the table of a comparison again"
            )
        from ..compare.compare import recollect

        return recollect(out)

    from ..compare.compare import compare as run_comparison
    from ..compare.compare import plan_comparison
    from ..compare.plan import make_entries, parse_grid, parse_methods

    settings = flags.settings()
    base, entries = make_entries(parse_methods(methods), seeds, parse_grid(grid or []), settings, sets or [], config)
    if dry_run:
        return plan_comparison(base, entries, out=out)

    results = run_comparison(base, entries, out=out)
    if failed := results.failed:
        raise NumbersError(
            f"{len(failed)} of {len(results.runs)} runs failed ({', '.join(failed)}); the table is of the others",
            results,
        )
    return results
