"""The command ``kdc verify``: the papers' tables, counted again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import NumbersError, UsageError

if TYPE_CHECKING:
    from ..papers.claims import Verification

Paper = Annotated[
    str,
    typer.Option(metavar="NAME|FILE", help="A paper (kt, cirkd, angular, ...), all, or a YAML file of the same form."),
]
Trained = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RUN",
        help="A finished run: its mIoU is compared with the tables' of the same student, method, data and split. "
        "Several of one kind, such as seeds, count as their mean.",
    ),
]
Within = Annotated[float, typer.Option(metavar="POINTS", help="How far a trained mIoU may be off, in points.")]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Exit 6 when a claim fails: no convention gives it, or only another network, number of classes or size "
        "than its row says; a trained mIoU is off; or a like table of the same recipe prints another mIoU.",
    ),
]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the JSON there too.")]


def verify(
    paper: Paper = "all",
    trained: Trained = None,
    within: Within = 1.0,
    strict: Strict = False,
    out: Out = None,
) -> "Verification":
    """Count the papers' Params and FLOPs again and find where their tables contradict each other.

    Needs neither data nor weights. Each number is tried under a fixed order of conventions: FLOPs or multiply-adds,
    with or without the auxiliary head, dilation ignored as CIRKD's counter does, V1 or V2 heads, input sizes; then what
    contradicts the row: other classes, another backbone. The first that gives the printed digits is shown.
    """
    if within < 0:
        raise UsageError(f"--within {within:g}: points of mIoU are needed, 0 or more")
    from ..papers.claims import show_claims
    from ..papers.claims import verify as verify_claims

    result = verify_claims(paper, trained=trained or (), within=within, out=out)
    show_claims(result)
    if strict and result.failed:
        raise NumbersError(
            f"{result.failed} of {len(result.verdicts)} claims fail; without --strict they are only listed",
            result,
        )
    return result
