"""The folder of a comparison: its plan, which may grow but not change, and the state of every run in it."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import __version__
from .. import console
from ..errors import DataError, UsageError, one_line
from ..run.card import FinalScores, TeacherCard
from ..run.files import write_json
from ..run.folder import Run, check_vacant
from ..run.records import Record
from ..settings.config import Config
from .plan import Entry, protocol, same_run

#: where comparisons are whose folder is not named
COMPARISONS = Path("compare")


@dataclass(frozen=True)
class Facts(Record):
    """Facts about a run before it begins: its data's fingerprint, and its steps, those of phases included."""

    data: str | None
    steps: int
    #: the teacher's network and where it comes from; not kept in plan.json
    teacher: str | None = None


@dataclass(frozen=True)
class Failure(Record):
    """The error that ended a run; ``final`` where trying again is of no use."""

    error: str
    final: bool


@dataclass(frozen=True)
class SharedTeacher(Record):
    """The teacher of several runs, and its scores on the validation split."""

    #: None where a phase of each run trains it, which leaves nothing to evaluate
    card: TeacherCard | None = None
    scores: FinalScores = field(default_factory=FinalScores)
    #: whether it is shown the label
    privileged: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for plan.json."""
        return super().to_dict() if self.card else {"card": None}


def default_folder(base: Config) -> Path:
    """Name a folder by the protocol, so that the same command finds it again and another method or seed extends it."""
    digest = hashlib.sha256(json.dumps(protocol(base), sort_keys=True).encode()).hexdigest()[:8]
    words = [Path(base.model.teacher or "none").name, Path(base.model.student).name, Path(base.data.source).name]
    return COMPARISONS / "_".join([*(re.sub(r"[^\w.+-]+", "-", word) for word in words), digest])


class Comparison:
    """A comparison folder: ``plan.json``, ``runs/`` with the runs, and beside them the tables and plots."""

    def __init__(self, path: Path, *, new: bool = True) -> None:
        """Open a comparison, or with ``new`` a folder that is still empty.

        Raises:
            UsageError: the folder holds no comparison and, with ``new``, is not empty.
        """
        self.path, self.root = path.resolve(), path.resolve() / "runs"
        self.protocol: dict[str, Any] | None = None
        self.entries: list[Entry] = []
        #: by run
        self.facts: dict[str, Facts] = {}
        #: by the digest of what names a teacher
        self.teachers: dict[str, SharedTeacher] = {}
        #: by run
        self.failed: dict[str, Failure] = {}
        #: the commands that made it
        self.commands: list[list[str]] = []
        file = path / "plan.json"
        if file.is_file():
            self._read(file)
        elif new:
            check_vacant(path)
        else:
            raise UsageError(f"{path} holds no comparison (no plan.json); make one with: kdc compare --methods kd,cwd")

    def _read(self, file: Path) -> None:
        try:
            plan = json.loads(file.read_text())
            self.protocol, self.commands = plan["protocol"], plan["commands"]
            self.teachers = {key: SharedTeacher.from_dict(values) for key, values in plan["teachers"].items()}
            self.failed = {name: Failure.from_dict(values) for name, values in plan["failed"].items()}
            for values in plan["runs"]:
                self.facts[values["name"]] = Facts.from_dict(values.pop("facts"))
                self.entries.append(Entry(**values | {"config": Config.model_validate(values["config"])}))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(f"{file} cannot be read as a plan ({type(error).__name__}: {one_line(error)})") from error

    def write(self) -> None:
        """Write ``plan.json``."""
        runs = [
            vars(entry)
            | {"facts": {"data": self.facts[entry.name].data, "steps": self.facts[entry.name].steps}}
            | {"config": entry.config.model_dump(mode="json")}
            for entry in self.entries
        ]
        plan = {
            "kdc": __version__,
            "commands": self.commands,
            "protocol": self.protocol,
            "teachers": {key: teacher.to_dict() for key, teacher in self.teachers.items()},
            "failed": {name: failure.to_dict() for name, failure in self.failed.items()},
            "runs": runs,
        }
        write_json(self.path / "plan.json", plan)

    def check(self, base: Config, entries: Iterable[Entry]) -> None:
        """Check that the runs belong to this comparison: the same protocol, and the settings of the runs that exist.

        Raises:
            UsageError: they do not.
        """
        if self.protocol is not None and (difference := _difference(self.protocol, protocol(base))):
            raise UsageError(
                f"{self.path} holds a comparison under another protocol ({difference}); name another --out"
            )
        known = {entry.name: entry for entry in self.entries}
        for entry in entries:
            old = known.get(entry.name)
            if old and self.state(entry.name) != "missing" and not same_run(old.config, entry.config):
                difference = _difference(old.config.model_dump(mode="json"), entry.config.model_dump(mode="json"))
                raise UsageError(
                    f"{self.path} holds {entry.name} with other settings ({difference}); name another --out, or go "
                    "over them with --grid"
                )

    def extend(self, base: Config, entries: Collection[Entry], facts: Mapping[str, Facts]) -> None:
        """Take runs into the plan and write it; what was planned before stays if its run has begun.

        Raises:
            DataError: the data has changed since the existing runs were made.
        """
        names = {entry.name for entry in entries}
        for old in self.entries:
            for entry in entries:
                same = old.config.data == entry.config.data
                if same and self.facts[old.name].data != facts[entry.name].data and self.run(old.name):
                    raise DataError(
                        f"the data has changed since {old.name} of {self.path} was made; a comparison needs the same "
                        "files in all its runs: put them back, or name another --out"
                    )
        kept = [old for old in self.entries if old.name not in names and self.state(old.name) != "missing"]
        self.protocol = protocol(base)
        self.facts |= facts
        if (command := console.command_line()) not in self.commands:
            self.commands.append(command)
        self.entries = sorted([*kept, *entries], key=lambda entry: (entry.seed, entry.baseline is not None))
        self.write()

    def run(self, name: str) -> Run | None:
        """Return the run of that name, or None before it has begun."""
        return Run(self.root / name) if (self.root / name / "run.json").is_file() else None

    def state(self, name: str) -> str:
        """Return ``finished``, ``failed``, ``unfinished`` or ``missing``."""
        run = self.run(name)
        if run and run.card.status == "finished":
            return "finished"
        return "failed" if name in self.failed else "unfinished" if run else "missing"

    def open(self, name: str) -> bool:
        """Whether the run is still to be made: bad numbers are a result, after any other failure it is tried again."""
        state = self.state(name)
        return state != "finished" and not (state == "failed" and self.failed[name].final)


def _difference(old: Any, new: Any, name: str = "") -> str:
    """Name the first value in which two nested mappings differ; an empty string where there is none."""
    if isinstance(old, dict) or isinstance(new, dict):
        old, new = old or {}, new or {}  # a method without settings has no section
        keys = dict.fromkeys([*old, *new])
        parts = (_difference(old.get(key), new.get(key), f"{name}.{key}" if name else key) for key in keys)
        return next(filter(None, parts), "")
    there, here = ("unset" if value is None else str(value) for value in (old, new))
    return "" if old == new else f"{name}={there} there, {here} here"
