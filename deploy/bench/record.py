"""The records of measurements: where they are kept, and the settings and conditions of a measurement."""

import json
import math
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ...distill import console
from ...distill.errors import UsageError, WeightsError, one_line
from ...distill.run.files import write_json
from ...distill.run.folder import Run
from ...distill.run.records import Record
from ...distill.run.seal import check_sealed
from ..machine.passport import Passport, first_gpu
from .plan import NotMeasured, Size

R = TypeVar("R", bound=Record)

MODES = {"net": "network alone", "e2e": "compressed image to mask"}


@dataclass(frozen=True)
class Effort:
    """The settings of a measurement.

    Attributes:
        seconds: measuring time of each backend, warm-up apart.
        runs: how many runs each backend does at least, unless that takes twice ``seconds``.
        rounds: how often the backends take turns.
        mode: one of ``MODES``.
        codec: of the images in mode "e2e": "jpg" or "png".
        threads: CPU threads of each backend; None is the cores of this process.
        seed: of the input images.
        in_process: within this process: quicker to start, but backends disturb each other.
    """

    seconds: float = 6.0
    runs: int = 1
    rounds: int = 10
    mode: str = "net"
    codec: str = "jpg"
    threads: int | None = None
    seed: int = 0
    in_process: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot be measured with (UsageError)."""
        if self.mode not in MODES:
            raise UsageError(f"mode '{self.mode}' is not known; accepted: {', '.join(MODES)}")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise UsageError(f"--seconds {self.seconds}: it must be above 0 and finite, such as 6")
        for flag, value in (("--rounds", self.rounds), ("--threads", self.threads)):
            if value is not None and value < 1:
                raise UsageError(f"{flag} {value}: it must be above 0")


EFFORT = Effort()


def is_quick(seconds: float | None) -> bool:
    """Tell whether a measurement was shorter than usual; one that does not say is not known to be."""
    return seconds is not None and seconds < EFFORT.seconds


@dataclass(frozen=True)
class Protocol(Record):
    """The settings in a record; each kind of measurement has its own of these."""

    OPTIONAL: ClassVar = ("rounds", "seconds", "runs", "inputs", "codec")

    rounds: int | None = None
    seconds: float | None = None
    runs: int | None = None
    inputs: int | None = None
    seed: int = 0
    processes: bool = True
    codec: str | None = None


def check_place(home: Run | None, out: Path | None) -> None:
    """Write where the records go, and remove it, before minutes of measuring (OSError)."""
    folder = record_path(home, out, "").parent
    folder.mkdir(parents=True, exist_ok=True)
    for place in {folder, home.path if home else folder}:
        with tempfile.TemporaryFile(dir=place):
            pass


def keep(record: R, home: Run | None, out: Path | None, **raw: Any) -> R:
    """Write a record, and ``raw`` with it, and return it with ``record``, the file that holds it."""
    if home:
        home.remember_command()
    values = record.to_dict()
    path = record_path(home, out, values["kind"])
    write_json(path, values | raw)
    return replace(record, record=str(path))


def record_path(run: Run | None, out: Path | None, kind: str) -> Path:
    """Name a new record: in ``out``, else in the run's ``bench/``, else in ``bench/`` here."""
    folder = out or (run.bench if run else Path("bench"))
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path, n = folder / f"{kind}-{stamp}.json", 2
    while path.exists():
        path, n = folder / f"{kind}-{stamp}-{n}.json", n + 1
    return path


def records(run: Run, files: str, kind: type[R]) -> list[R]:
    """Return the records in the run's ``bench/`` whose names fit a pattern, the oldest first.

    One that cannot be read, or was changed, is left out, with a warning.
    """
    found = []
    for path in sorted(run.bench.glob(files), key=lambda path: path.stat().st_mtime_ns):
        try:
            check_sealed(path)
            found.append(kind.from_dict(json.loads(path.read_text()) | {"record": f"{run.bench.name}/{path.name}"}))
        except (OSError, ValueError, TypeError, AttributeError, RecursionError, WeightsError) as error:
            console.warn(f"{path} is left out: {one_line(error)}")
    return found


def newest(run: Run, files: str, kind: type[R]) -> R | None:
    """Return the last of ``records``; None where there is none."""
    return next(reversed(records(run, files, kind)), None)


def conditions(device: str, size: Size, threads: int, machine: Passport, batch: int | None = None) -> str:
    """Say in a few words what a record was measured with and on."""
    if device == "cpu":
        name = machine.cpu.model or platform.machine()
    else:
        gpu = first_gpu(machine.gpus)
        name = gpu.name if gpu else "GPU"
    images = "" if batch is None else f"batch {batch}, "
    return f"{images}{size[0]}x{size[1]}, {console.plural(threads, 'thread')}, {name}"


def show_rest(missing: Sequence[NotMeasured], flags: Sequence[str], files: str) -> None:
    """Print what was not measured, what disturbed the rest, and where it is kept."""
    for lack in missing:
        console.say(f"{lack.file}: {lack.why}")
    for flag in flags:
        console.warn(flag)
    console.say(files)
