"""The run folder: the settings of one run, what it did, and where its files are."""

import contextlib
import json
import os
import re
import time
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import console
from ..errors import BusyError, DataError, UsageError, WeightsError, closest, one_line
from ..settings.changes import changes, described
from ..settings.config import Config, resolve
from ..settings.yaml_files import flatten
from .card import RunCard
from .files import commit, read_card_file, versions, write_bytes, write_card
from .lock import drop_locks, held, lock_folder
from .places import CARD, folder_beside
from .seal import check_sealed, seal

if TYPE_CHECKING:
    from ..data import Dataset

RUNS = Path("runs")
LAST = "last"
CONFIG = "config.yaml"


class Run:
    """A run folder; ``card`` is its run.json."""

    def __init__(self, path: Path) -> None:
        """Open an existing folder.

        Raises:
            WeightsError: there is no readable run.json in it.
        """
        self.path = Path(path).resolve()
        self._lock: Any = None
        self.card = self._card(self.read())

    def __repr__(self) -> str:
        """Name, kind and state."""
        return f"Run({self.spec!r}, {self.card.kind}, {self.card.status})"

    def _card(self, values: Any) -> RunCard:
        try:
            return RunCard.from_dict(values)
        except (AttributeError, TypeError, ValueError) as error:
            raise WeightsError(f"{self.path}: its run.json is no card of a run ({one_line(error)})") from error

    def read(self) -> dict[str, Any]:
        """Return run.json as it is on disk now, with keys that ``card`` does not know.

        Raises:
            WeightsError: as ``read_card_file``.
        """
        return read_card_file(self.path)

    @classmethod
    def create(
        cls, name: str, config: Config, *, root: Path | None = None, out: Path | None = None, **values: Any
    ) -> "Run":
        """Make ``root/<stamp>_<name>`` (or ``out``) with its run.json and config.yaml, locked for this process.

        ``values`` are further keys of run.json, ready for JSON, in the order of ``RunCard``.

        Raises:
            BusyError: ``out`` holds a run already.
            UsageError: ``out`` holds other things, or cannot be made.
        """
        path = out or _fresh((root or RUNS), name)
        check_vacant(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
            raise UsageError(f"cannot make the run folder {path} ({error.strerror}); name another --out") from error

        card = {
            "status": "running",
            "name": path.name,
            "created": datetime.now().astimezone().isoformat(timespec="milliseconds"),
            "command": console.command_line(),
            "versions": versions(),
            "git": commit(),
            "config": config.model_dump(mode="json"),
        }
        lock = lock_folder(path)
        write_card(path, card | values)
        write_bytes(path / CONFIG, config.to_yaml().encode())
        run = cls(path)
        run._lock = lock
        return run

    def lock(self) -> None:
        """Claim the folder until this process ends.

        Raises:
            BusyError: another process holds it.
        """
        if self._lock is None:
            self._lock = lock_folder(self.path)
            for stray in (*self.checkpoints.glob(".tmp*"), *(self.path / "phases").glob(".tmp*")):
                stray.unlink()  # a kill left it while an older kdc wrote weights; only the holder writes there

    def unlock(self) -> None:
        """Free the folder before this process ends."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @cached_property
    def config(self) -> Config:
        """Every setting of the run, as it was resolved; edits of its config.yaml are said and left out.

        Raises:
            UsageError: as ``edited_config``, of a run that an older kdc began.
        """
        config = self.recorded_config
        try:
            edits = described(changes(config, self.edited_config())) if self.card.config else ""
        except UsageError as error:
            edits = str(error)
        if edits:
            console.warn(
                f"{self.path / CONFIG} was edited since the run began and is not followed: {edits}; the settings that "
                "it began with are used (--resume takes what may change)"
            )
        return config

    @property
    def recorded_config(self) -> Config:
        """The settings as run.json holds them; of a run that an older kdc began those of its config.yaml."""
        if not self.card.config:
            return self.edited_config()
        return resolve({}, layers=[dict(flatten(self.card.config))])

    def edited_config(self) -> Config:
        """Return the settings in config.yaml, which people may edit.

        Raises:
            UsageError: they cannot be read.
        """
        return resolve({}, file=self.path / CONFIG)

    def change_config(self, config: Config) -> None:
        """Let the run go on with other settings."""
        write_bytes(self.path / CONFIG, config.to_yaml().encode())
        self.record(config=config.model_dump(mode="json"))
        self.config = config

    @property
    def spec(self) -> str:
        """The text that names this run on a command line: its name where that finds it, else its path."""
        return self.path.name if self.path.parent == RUNS.resolve() else str(self.path)

    @property
    def image_size(self) -> tuple[int, int]:
        """Usual height and width of the validation images, see ``Dataset.size`` (in older runs: of the first).

        Raises:
            UsageError: run.json does not say.
        """
        if self.card.data.size is None:
            raise UsageError(f"{self.path}: its run.json names no image size; name one: --size HxW")
        return self.card.data.size

    @property
    def checkpoints(self) -> Path:
        """Where the weights are."""
        return self.path / "checkpoints"

    @property
    def export(self) -> Path:
        """Where ONNX files and engines are."""
        return self.path / "export"

    @property
    def calib(self) -> Path:
        """Where calibration results are."""
        return self.path / "calib"

    @property
    def bench(self) -> Path:
        """Where measurements are."""
        return self.path / "bench"

    def record(self, **values: Any) -> None:
        """Set keys of run.json, atomically; what another command has written there since it was read stays."""
        with held(self.path, wait=True):  # for milliseconds, so that two commands keep each other's keys
            self._write(self.read() | values)

    def _write(self, card: dict[str, Any]) -> None:
        write_card(self.path, card)
        self.card = self._card(card)

    def remember_command(self) -> None:
        """Add the command that is running to the run's commands, which the report lists."""
        command = console.command_line()
        self.extend(commands=[] if command == self.card.command else [command])

    def extend(self, **lists: list[Any]) -> None:
        """Add to lists of run.json what they do not hold yet, as ``record`` sets keys."""
        with held(self.path, wait=True):
            card = self.read()
            for key, items in lists.items():
                known = card.get(key) or []
                card[key] = known + [item for item in items if item not in known]
            self._write(card)

    def seal(self, *, everything: bool = False) -> None:
        """Record the sha256 of the files that this process wrote into the run, or of all that are in it."""
        seal(self.path, everything=everything)
        self.card = self._card(self.read())

    def records(self, name: str = "metrics") -> list[dict[str, Any]]:
        """Return the objects of ``<name>.jsonl``; a line cut off by a kill is left out."""
        path = self.path / f"{name}.jsonl"
        check_sealed(path)
        lines = path.read_bytes().splitlines() if path.exists() else []
        records = []
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                record = json.loads(line)
                records += [record] if isinstance(record, dict) else []
        return records

    def open_data(self, split: str = "val") -> "Dataset":
        """Open the data that the run was trained on.

        Raises:
            DataError: run.json does not name it, or as ``kdc.distill.data.open_data``.
        """
        from ..data import open_data

        data = self.card.data
        if not data.source:
            raise DataError(f"{self.path}: its run.json names no data")
        return open_data(data.source, split, **data.options)


def find_run(spec: str | Path | None = None, root: Path | None = None) -> Run:
    """Find a run: a folder, a file inside one, a name below ``runs/``, or None for the last one.

    Raises:
        UsageError: there is no such run.
    """
    return Run(find_run_folder(spec, root))


def find_run_folder(spec: str | Path | None = None, root: Path | None = None) -> Path:
    """Find the folder of a run as ``find_run`` does, without opening it."""
    root = root or RUNS
    if spec is None or str(spec) == LAST:
        last = root / LAST
        if not last.exists():
            raise UsageError(
                f"no run named and no last run in {root}/; start one with: kdc distill --teacher r101 --student r18 "
                "--method kt"
            )
        return last.resolve()
    for path in (Path(spec), root / spec):
        for folder in (path, *(path.parents if path.is_file() else ())):
            if (folder / CARD).exists():
                return folder.resolve()
    if Path(spec).is_file():
        raise UsageError(
            f"{spec} is in no run, and one is needed; of files: kdc eval, predict, bench, parity, calib, export"
        )
    names = [path.parent.name for path in root.glob(f"*/{CARD}")]
    raise UsageError(f"no run {str(spec)!r} here or in {root}/{closest(str(spec), names)}; kdc runs ls lists them")


def check_vacant(path: Path) -> None:
    """Check that a new run may be made in ``path``: it does not exist yet, or is empty.

    Raises:
        BusyError: it holds a run.
        UsageError: it holds other files, which removing the run would delete.
    """
    if (path / "run.json").exists():
        raise BusyError(f"{path} holds a run already; resume it with --resume {path}, or name another --out")
    if path.is_dir() and any(p.name != ".lock" for p in path.iterdir()):
        raise UsageError(f"{path} is not empty and no run; name a new folder with --out")
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file; name a new folder with --out")


def point_last(run: Run, root: Path | None = None) -> None:
    """Point ``runs/last`` to this run, wherever it is."""
    root = root or RUNS
    link = root / LAST
    if link.exists() and not link.is_symlink():
        return
    with folder_beside(link) as folder:
        (folder / LAST).symlink_to(run.path.name if run.path.parent == root.resolve() else run.path)
        (folder / LAST).replace(link)


def _fresh(root: Path, name: str) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path, n = root / f"{stamp}_{name}", 2
    while path.exists():
        path, n = root / f"{stamp}-{n}_{name}", n + 1
    return path


# A forked loader process must not hold the folder: it outlives a killed run by seconds and would block its resume.
os.register_at_fork(after_in_child=drop_locks)


def relative(run: Run, spec: str | None) -> Run | None:
    """Open a run that another one names; folders moved together are found beside each other."""
    for path in (Path(spec), run.path.parent / Path(spec).name) if spec else ():
        with contextlib.suppress(WeightsError):
            return Run(path)
    return None


def unstamped(name: str) -> str:
    """Return the name of a run's folder without the time that it begins with."""
    return re.sub(r"^\d{8}-\d{6}(-\d+)?_", "", name)
