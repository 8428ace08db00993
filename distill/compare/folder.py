"""The folder of a comparison: its plan, which may grow but not change, and the state of every run beneath it."""

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from ... import __version__
from ..errors import DataError, UsageError
from ..run.files import write_json
from ..run.folder import Run, check_vacant
from ..settings.config import Config
from .plan import Entry, protocol, same_run

#: where comparisons lie whose folder is not named
COMPARISONS = Path("compare")


def default_folder(base: Config) -> Path:
    """Name a folder by the protocol, so that the same command finds it again and another method or seed extends it."""
    digest = hashlib.sha256(json.dumps(protocol(base), sort_keys=True).encode()).hexdigest()[:8]
    words = [Path(base.model.teacher or "none").name, Path(base.model.student).name, Path(base.data.source).name]
    return COMPARISONS / "_".join([*(re.sub(r"[^\w.+-]+", "-", word) for word in words), digest])


class Comparison:
    """A comparison folder: ``plan.json``, the runs in ``runs/``, and the tables and plots beside them."""

    def __init__(self, path: Path, *, new: bool = True) -> None:
        """Open a folder, or with ``new`` one that is still to be filled.

        Raises:
            UsageError: it holds no comparison, or, to be filled, something else.
        """
        self.path, self.root = path.resolve(), path.resolve() / "runs"
        self.protocol: dict[str, Any] | None = None
        self.entries: list[Entry] = []
        #: by run, the fingerprint of its data and its steps, phases included
        self.facts: dict[str, dict[str, Any]] = {}
        #: by what names a teacher: its card, and its scores on the validation split
        self.teachers: dict[str, dict[str, Any]] = {}
        #: by run, the error that ended it, and whether trying again is of no use
        self.failed: dict[str, dict[str, Any]] = {}
        #: what was typed to make it
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
            self.teachers, self.failed = plan["teachers"], plan["failed"]
            for values in plan["runs"]:
                self.facts[values["name"]] = values.pop("facts")
                self.entries.append(Entry(**values | {"config": Config.model_validate(values["config"])}))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{file} cannot be read as a plan ({type(error).__name__}: {error})") from error

    def write(self) -> None:
        """Write ``plan.json``."""
        runs = [
            vars(entry) | {"facts": self.facts[entry.name], "config": entry.config.model_dump(mode="json")}
            for entry in self.entries
        ]
        plan = {"kdc": __version__, "commands": self.commands, "protocol": self.protocol}
        plan |= {"teachers": self.teachers, "failed": self.failed, "runs": runs}
        write_json(self.path / "plan.json", plan)

    def check(self, base: Config, entries: list[Entry]) -> None:
        """See that the runs belong to this comparison: the same protocol, and no run that exists with other settings.

        Raises:
            UsageError: they do not.
        """
        here = protocol(base)
        if self.protocol is not None and (other := _differs(self.protocol, here)):
            raise UsageError(f"{self.path} holds a comparison under another protocol ({other}); name another --out")
        known = {entry.name: entry for entry in self.entries}
        for entry in entries:
            old = known.get(entry.name)
            if old and self.state(entry.name) != "missing" and not same_run(old.config, entry.config):
                other = _differs(old.config.model_dump(mode="json"), entry.config.model_dump(mode="json"))
                raise UsageError(
                    f"{self.path} holds {entry.name} with other settings ({other}); name another --out, or go over "
                    "them with --grid"
                )

    def extend(self, base: Config, entries: list[Entry], facts: dict[str, dict[str, Any]]) -> None:
        """Take runs into the plan and write it; what was planned before stays if its run was begun.

        Raises:
            DataError: the data is not what the runs that exist were made with.
        """
        names = {entry.name for entry in entries}
        for old in self.entries:
            for entry in entries:
                same = old.config.data == entry.config.data
                if same and self.facts[old.name]["data"] != facts[entry.name]["data"] and self.run(old.name):
                    raise DataError(
                        f"the data has changed since {old.name} of {self.path} was made; a comparison needs the same "
                        "files in all its runs: put them back, or name another --out"
                    )
        kept = [old for old in self.entries if old.name not in names and self.state(old.name) != "missing"]
        self.protocol = protocol(base)
        self.facts |= facts
        if (command := ["kdc", *sys.argv[1:]]) not in self.commands:
            self.commands.append(command)
        self.entries = sorted([*kept, *entries], key=lambda entry: (entry.seed, entry.baseline is not None))
        self.write()

    def run(self, name: str) -> Run | None:
        """Return the run of that name, or None before it was begun."""
        return Run(self.root / name) if (self.root / name / "run.json").is_file() else None

    def state(self, name: str) -> str:
        """Return ``finished``, ``failed``, ``unfinished`` or ``missing``."""
        run = self.run(name)
        if run and run.card.status == "finished":
            return "finished"
        return "failed" if name in self.failed else "unfinished" if run else "missing"

    def open(self, name: str) -> bool:
        """Whether there is something to do: numbers that went bad are a result, other failures are tried again."""
        state = self.state(name)
        return state != "finished" and not (state == "failed" and self.failed[name]["final"])


def _differs(a: Any, b: Any, name: str = "") -> str:
    """Name the first value in which two nested mappings differ; an empty string where there is none."""
    if isinstance(a, dict) or isinstance(b, dict):
        a, b = a or {}, b or {}  # a method without settings has no section
        keys = dict.fromkeys([*a, *b])
        return next(filter(None, (_differs(a.get(k), b.get(k), f"{name}.{k}" if name else k) for k in keys)), "")
    return "" if a == b else f"{name}={_said(a)} there, {_said(b)} here"


def _said(value: Any) -> str:
    return "unset" if value is None else str(value)
