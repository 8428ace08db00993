"""Comparison runs: trainings under one protocol, one after another, each skipped, resumed or begun as needed."""

import contextlib
import gc
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import console, methods
from ..console import say
from ..errors import BusyError, DataError, KdcError, NumbersError, UsageError
from ..evaluation.evaluate import evaluate, model_predictor
from ..job import prepare, resume_job, run_job
from ..run.card import FinalScores
from ..run.records import Record
from ..settings.config import Config
from ..training.devices import launch
from ..training.state import Stopped
from ..training.teacher import reopen_teacher
from .folder import Comparison, Facts, Failure, SharedTeacher, default_folder
from .plan import BASELINE, Entry
from .results import Results, collect
from .tables import show_results, write


@dataclass(frozen=True)
class PlannedRun:
    """One run as a dry run lists it."""

    name: str
    method: str
    seed: int
    #: those of the methods, and the values of the grid
    settings: dict[str, Any]
    state: str
    #: still to be made, those of phases included
    steps: int
    #: the network and where it comes from
    teacher: str | None


@dataclass(frozen=True)
class ComparisonPlan(Record):
    """The runs of a comparison, and how many runs and steps are still to be made."""

    out: str
    runs: list[PlannedRun]
    todo: int
    steps: int


def compare(base: Config, entries: Sequence[Entry], *, out: Path | None = None) -> Results:
    """Make the runs of a comparison that are not finished yet, then its tables and plots.

    Args:
        base: the protocol, of ``make_entries``.
        entries: the runs, of ``make_entries``.
        out: the comparison folder; by default one below ``compare/`` that is named by the protocol. An existing one is
            continued: finished runs are kept, broken ones resumed, new methods, seeds and grid points added.

    Raises:
        KdcError: a configuration does not work (before anything is run), or the folder holds something else.
        Stopped: SIGINT or SIGTERM came; the same command continues.
    """
    folder, facts = _examine(base, entries, out)
    folder.extend(base, entries, facts)
    say(f"comparison {folder.path}: {len(entries)} runs")
    try:
        _make(folder, entries)
    finally:
        results = _write_results(folder)
    show_results(results)
    return results


def recollect(path: Path) -> Results:
    """Write and print the tables and plots of a comparison again, without running anything.

    Raises:
        UsageError: the folder holds no comparison.
    """
    results = _write_results(Comparison(path, new=False))
    show_results(results)
    return results


def _write_results(folder: Comparison) -> Results:
    results = collect(folder)
    results.files = [str(file) for file in write(folder, results)]
    return results


def plan_comparison(base: Config, entries: Sequence[Entry], *, out: Path | None = None) -> ComparisonPlan:
    """Check everything that ``compare`` needs, print its plan and write nothing.

    Raises:
        KdcError: as ``compare``.
    """
    folder, facts = _examine(base, entries, out)
    runs = []
    for entry in entries:
        settings = {
            f"{method}.{key}": value
            for method, values in entry.config.method.settings().items()
            for key, value in values.items()
        }
        settings |= {key: value for key, value in entry.grid.items() if not key.startswith("method.")}
        state = folder.state(entry.name)
        steps = facts[entry.name].steps if folder.open(entry.name) else 0
        method, teacher = entry.config.method.name, facts[entry.name].teacher
        runs.append(PlannedRun(entry.name, method, entry.seed, settings, state, steps, teacher))

    todo = sum(folder.open(entry.name) for entry in entries)
    plan = ComparisonPlan(str(folder.path), runs, todo, sum(run.steps for run in runs))

    rows = [
        (run.name, run.method, ", ".join(f"{k}={v}" for k, v in run.settings.items()) or "-", run.state, run.steps)
        for run in runs
    ]
    console.table(f"plan of {folder.path}", ["run", "method", "settings", "state", "steps"], rows)
    for teacher in dict.fromkeys(run.teacher for run in runs if run.teacher):
        say(f"teacher: {teacher}")
    say(f"{todo} of {len(runs)} runs to make, {plan.steps:,} steps at most; nothing was written")
    return plan


def _examine(base: Config, entries: Sequence[Entry], out: Path | None) -> tuple[Comparison, dict[str, Facts]]:
    """Open and build what every run needs, without training: the folder, the data, both networks and the method.

    Raises:
        KdcError: whatever would stop a run at its start.
    """
    folder = Comparison(out or default_folder(base))
    if any(entry.config.train.devices * entry.config.train.nodes > 1 for entry in entries):
        raise UsageError("kdc compare trains on one device: leave train.devices and train.nodes at 1")
    folder.check(base, entries)

    fabric = launch(entries[0].config)
    facts: dict[tuple[str, ...], Facts] = {}
    for entry in entries:
        key = (entry.method, *entry.grid.values())  # another seed builds the same
        if key in facts:
            continue

        try:
            with _quiet():
                parts = prepare(entry.config, fabric, dry=True)
            if parts.val is None:
                raise DataError(f"{parts.data.name} has no labelled validation images: there is nothing to compare")
        except KdcError as error:
            error.args = (f"{entry.label}: {error}",)
            raise

        steps, source = entry.config.train.iters, None
        if parts.teacher:
            steps += sum(phase.iters for phase in parts.method.phases(parts.teacher.model))
            source = f"{parts.teacher.model.name} from {parts.teacher.card.source}"
        facts[key] = Facts(parts.data_card.fingerprint, steps, source)
    return folder, {entry.name: facts[entry.method, *entry.grid.values()] for entry in entries}


def _make(folder: Comparison, entries: Sequence[Entry]) -> None:
    todo = [entry for entry in entries if folder.open(entry.name)]
    try:
        _find_teachers(folder, [entry.config for entry in todo if entry.method != BASELINE])
    except Stopped as stopped:
        raise Stopped(stopped.number, stopped.run, "that is the teacher; then compare again") from None

    for number, entry in enumerate(entries, 1):
        title = f"{number} of {len(entries)}: {entry.label}, seed {entry.seed}"
        if entry not in todo:
            failure = folder.failed.get(entry.name) if folder.state(entry.name) == "failed" else None
            say(f"{title}: {f'failed before: {failure.error}' if failure else 'finished before'}")
            continue

        say(title)
        try:
            _make_one(folder, entry.name, _with_teacher(folder, entry.config))
            folder.failed.pop(entry.name, None)
        except Stopped as stopped:
            then = f"run {number} of {len(entries)}; the same kdc compare goes on with them all"
            raise Stopped(stopped.number, stopped.run, then) from None
        except BusyError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever breaks one run must not end the others
            text = next(iter(str(error).splitlines()), "") or type(error).__name__
            folder.failed[entry.name] = Failure(text, isinstance(error, NumbersError))
            console.warn(f"{entry.name} failed: {text}; the others go on")
        folder.write()
        _free(entry.config)


def _make_one(folder: Comparison, name: str, config: Config) -> None:
    path, run = folder.root / name, folder.run(name)
    if run and (run.checkpoints / "last.json").exists():
        resume_job(str(path), root=folder.root, workers=config.train.workers)
        return
    if run:  # it was killed before its first checkpoint
        run.lock()
        run.unlock()
        shutil.rmtree(path)
    run_job(config, out=path, root=folder.root)  # `last` in the folder's own runs/ is moved, not the user's


def _find_teachers(folder: Comparison, configs: Sequence[Config]) -> None:
    """Find or fit every teacher, and evaluate it: once, so that it is the same for all seeds and after a resume.

    Raises:
        WeightsError: it knows nothing of the data, or is not the one that the comparison began with.
    """
    for key, config in {_teacher_key(config): config for config in reversed(configs)}.items():  # of the first seed
        if key in folder.teachers:
            if card := folder.teachers[key].card:
                reopen_teacher(card)
            continue

        fabric = launch(config)
        parts = prepare(config, fabric)
        assert parts.teacher and parts.val
        if parts.teacher.trained:
            predict = model_predictor(parts.teacher.model.to(fabric.device), fabric.device)
            values = evaluate(predict, parts.val, label="evaluating the teacher").to_dict()
            scores, privileged = FinalScores.from_dict(values), parts.teacher.model.in_channels == 4
            say(f"teacher {parts.teacher.card.name}: val mIoU {100 * values['miou']:.2f} %")
            folder.teachers[key] = SharedTeacher(parts.teacher.card, scores, privileged)
        else:  # by a phase of each run
            folder.teachers[key] = SharedTeacher()
        folder.write()


def _with_teacher(folder: Comparison, config: Config) -> Config:
    """Name the file of the one teacher in a configuration, unless a phase of the run trains it."""
    card = None if config.method.name == BASELINE else folder.teachers[_teacher_key(config)].card
    if card is None:
        return config
    if config.model.teacher_weights:
        return config.changed(model__teacher_weights=card.file)
    return config.changed(model__teacher=card.run or card.file)


def _teacher_key(config: Config) -> str:
    """Return a digest of what names a teacher."""
    mine = {"teacher", "teacher_weights", "teacher_stride", "arch", "preprocess"}
    mine |= {"student"} if config.model.teacher == "self" else set()
    data, model = config.data.model_dump(mode="json"), config.model.model_dump(include=mine)
    names = [data, model, methods.assisted(config.method.name)]
    return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()[:12]


def _free(config: Config) -> None:
    """Free the memory that a run held, on the device too."""
    if config.train.compile:
        torch.compiler.reset()  # else the next network of the class counts as one more recompilation
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Print and note nothing: the run itself prints it."""
    muted, first, console.muted = console.muted, len(console.notes), True
    try:
        yield
    finally:
        console.muted = muted
        del console.notes[first:]
