"""``kdc runs``: list, describe and remove runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import console
from ..console import say
from ..errors import BusyError, UsageError, WeightsError
from ..run.records import Record
from .flags import print_table

if TYPE_CHECKING:
    from ..run.card import RunCard
    from ..run.seal import RunCheck


@dataclass(frozen=True)
class RunRow(Record):
    """A run in the list; ``best`` is its mIoU on the validation split, 0 to 1.

    Of a run that cannot be opened, ``status`` is "changed" or "unreadable".
    """

    name: str
    kind: str | None
    status: str | None
    privileged: bool
    best: float | None
    path: str


@dataclass(frozen=True)
class Runs(Record):
    """The runs in runs/, newest last."""

    runs: list[RunRow]


@dataclass(frozen=True)
class RunInfo(Record):
    """A run and its card."""

    path: Path
    card: "RunCard"
    values: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return what run.json holds, and where it is."""
        return {"path": str(self.path), **self.values}


def runs_ls() -> Runs:
    """List the runs in runs/, newest last; those that cannot be opened come first."""
    from ..run.listing import runs_and_refused

    runs, refused = runs_and_refused()
    rows = [RunRow(path.name, None, _state(path), False, None, str(path.resolve())) for path in refused]
    rows += [RunRow(r.path.name, r.card.kind, r.card.status, r.card.privileged, r.card.miou, str(r.path)) for r in runs]
    cells = [
        (
            row.name,
            f"{row.kind} (privileged)" if row.privileged else row.kind or "",
            row.status,
            "" if row.best is None else f"{100 * row.best:.2f}",
        )
        for row in rows
    ]
    if rows:
        print_table("runs", ("name", "kind", "status", "val mIoU %"), cells)
    elif not console.json_mode:
        say("no runs in runs/; start one with: kdc distill --teacher r101 --student r18 --method kt")
    for error in refused.values():
        console.warn(str(error))
    return Runs(rows)


def _state(folder: Path) -> str:
    """Tell how a run that cannot be opened is broken: its run.json was changed, or cannot be read."""
    from ..run.files import read_card_file

    try:
        read_card_file(folder, verify=False)
    except WeightsError:
        return "unreadable"
    return "changed"


def runs_info(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="Its name or folder; the last if not named.")] = None,
) -> RunInfo:
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
    print_table(target.path.name, ("", ""), rows)
    return RunInfo(target.path, card, target.read())


def runs_check(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Its name or folder (default: the last).")] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Take the files as they are now: they are sealed anew.")
    ] = False,
) -> "RunCheck":
    """Compare every file of a run with what kdc wrote: whole, changed, missing, or unknown to its seal.

    It shows that a file changed, not who wrote it; and what is stale, since it was made from a file that has changed.
    """
    from ..run.folder import find_run_folder
    from ..run.seal import accept as accept_files
    from ..run.seal import check_run
    from ..run.stale import marked

    folder = find_run_folder(run)
    check = marked(check_run(folder))
    old = {file.name: f"stale: made from an earlier {file.stale}" for file in check.files if file.stale}
    print_table(
        folder.name, ("file", "", ""), [(file.name, file.state, old.get(file.name, "")) for file in check.files]
    )
    names = ", ".join(file.name for file in check.faults)
    if accept:
        accept_files(folder)
        say(f"accepted as they are now: {names or 'all files'}")
        return marked(check_run(folder))

    if check.faults:
        raise WeightsError(
            f"not as kdc wrote them: {names}; put them back from a copy, make them again, or accept them: "
            f"kdc runs check {folder} --accept",
            check,
        )
    return check


def runs_rm(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Its name or folder.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a run folder."""
    import shutil

    from ..run.folder import LAST, RUNS, find_run, point_last
    from ..run.listing import all_runs
    from ..run.lock import held

    target = find_run(run)
    if Path(run).exists() and Path(run).resolve() != target.path:
        raise UsageError(
            f"{run} is inside the run {target.path}, and only whole runs are removed: kdc runs rm {target.spec}"
        )
    if not yes and not console.confirmed(f"remove {target.path} and everything in it?"):
        raise typer.Exit(0)
    target.lock()
    try:
        with held(target.path, wait=False), held(target.export, wait=False):
            pass
    except BlockingIOError as error:
        raise BusyError(f"another process writes into {target.path}; wait for it and try again") from error
    link = RUNS / LAST
    if link.is_symlink() and link.resolve() == target.path:
        link.unlink()
        others = [r for r in all_runs() if r.path != target.path and r.card.status == "finished"]
        if rest := [r for r in others if r.card.kind != "teacher"]:
            point_last(rest[-1])
    shutil.rmtree(target.path)
    say(f"removed {target.path.name}")
