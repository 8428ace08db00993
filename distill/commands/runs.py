"""``kdc runs``: list, describe and remove runs."""

from typing import Annotated

import typer

from ..console import say
from .flags import Json, print_result


def runs_ls(json: Json = False) -> None:
    """List the runs in runs/, newest last."""
    from ..run.folder import all_runs

    rows = [
        {
            "name": r.path.name,
            "kind": r.card.kind,
            "status": r.card.status,
            "privileged": r.card.privileged,
            "best": r.card.miou,
            "path": str(r.path),
        }
        for r in all_runs()
    ]
    if not rows and not json:
        say("no runs in runs/; start one with: kdc distill --teacher r101 --student r18 --method kt")
        return
    cells = [
        (
            r["name"],
            f"{r['kind']} (privileged)" if r["privileged"] else r["kind"],
            r["status"],
            "" if r["best"] is None else f"{100 * r['best']:.2f}",
        )
        for r in rows
    ]
    print_result(json, {"runs": rows}, "runs", ("name", "kind", "status", "val mIoU %"), cells)


def runs_info(run: Annotated[str | None, typer.Argument(metavar="[RUN]")] = None, json: Json = False) -> None:
    """Show the settings of a run and how it ended."""
    from ..run.folder import find_run

    target = find_run(run)
    card = target.card
    rows = [
        ("kind", card.kind),
        ("status", card.status),
        ("created", card.created or None),
        ("method", card.method),
        ("seed", card.seed),
        ("device", card.device),
        ("teacher", card.teacher.name if card.teacher else None),
        ("student", card.student.name),
        ("data", card.data.name),
        ("command", " ".join(card.command)),
        ("val mIoU %", None if card.miou is None else f"{100 * card.miou:.2f}"),
    ]
    rows = [(key, value) for key, value in rows if value is not None]
    print_result(json, {"path": str(target.path), **target.read()}, target.path.name, ("", ""), rows)


def runs_rm(
    run: str,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a run folder."""
    import shutil

    from ..run.folder import LAST, RUNS, all_runs, find_run, point_last

    target = find_run(run)
    if not yes and not typer.confirm(f"remove {target.path} and everything in it?"):
        raise typer.Exit(0)
    target.lock()
    link = RUNS / LAST
    if link.is_symlink() and link.resolve() == target.path:
        link.unlink()
        others = [r for r in all_runs() if r.path != target.path and r.card.status == "finished"]
        if rest := [r for r in others if r.card.kind != "teacher"]:
            point_last(rest[-1])
    shutil.rmtree(target.path)
    say(f"removed {target.path.name}")
