"""Comparison runs: trainings under one protocol, one after another, each skipped, resumed or begun as it needs."""

import contextlib
import gc
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .. import console, methods
from ..console import say
from ..errors import BusyError, DataError, KdcError, NumbersError, UsageError
from ..evaluation.evaluate import evaluate, model_predictor
from ..job import prepare, resume_job, run_job
from ..run.card import TeacherCard
from ..settings.config import Config
from ..training.devices import launch
from ..training.state import Stopped
from ..training.teacher import reopen_teacher
from .folder import Comparison, default_folder
from .plan import BASELINE, Entry
from .results import collect
from .tables import show, write


def compare(base: Config, entries: list[Entry], *, out: Path | None = None, dry: bool = False) -> dict[str, Any]:
    """Make the runs of a comparison that are not finished yet, then its tables and plots.

    Args:
        base: the protocol, of ``make_entries``.
        entries: the runs, of ``make_entries``.
        out: the comparison folder; by default one below ``compare/`` that is named by the protocol. One that exists
            is gone on with: finished runs are kept, broken ones resumed, new methods, seeds and grid points added.
        dry: check everything, print the plan and write nothing.

    Returns:
        What ``collect`` returns or, of a dry run, the plan.

    Raises:
        KdcError: a configuration does not work (before anything is run), or the folder holds something else.
        Stopped: SIGINT or SIGTERM came; the same command goes on.
    """
    folder = Comparison(out or default_folder(base))
    if any(entry.config.train.devices * entry.config.train.nodes > 1 for entry in entries):
        raise UsageError("kdc compare trains on one device: leave --devices and --nodes away")
    folder.check(base, entries)
    facts = _examine(entries)
    if dry:
        return _show_plan(folder, entries, facts)
    folder.extend(base, entries, {name: {k: v for k, v in f.items() if k != "teacher"} for name, f in facts.items()})
    say(f"comparison {folder.path}: {len(entries)} runs")
    try:
        _make(folder, entries)
    finally:
        result = collect(folder)
        files = write(folder, result)
    show(result)
    return result | {"files": [str(file) for file in files]}


def recollect(path: Path) -> dict[str, Any]:
    """Write and print the tables and plots of a comparison again, without running anything.

    Raises:
        UsageError: the folder holds no comparison.
    """
    folder = Comparison(path, new=False)
    result = collect(folder)
    files = write(folder, result)
    show(result)
    return result | {"files": [str(file) for file in files]}


def _examine(entries: list[Entry]) -> dict[str, dict[str, Any]]:
    """Open and build what every run needs, without training: the data, both networks and the method.

    Returns:
        By run: the fingerprint of its data, its steps with those of phases, and where its teacher comes from.

    Raises:
        KdcError: whatever would stop a run at its start.
    """
    fabric = launch(entries[0].config)
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for entry in entries:
        key = (entry.method, *entry.grid.values())  # another seed builds the same
        if key not in found:
            try:
                with _quiet():
                    parts = prepare(entry.config, fabric, dry=True)
                if parts.val is None:
                    raise DataError(f"{parts.data.name} has no labelled validation images: there is nothing to compare")
            except KdcError as error:
                error.args = (f"{entry.label}: {error}",)
                raise
            steps = entry.config.train.iters
            if parts.teacher:
                steps += sum(phase.iters for phase in parts.method.phases(parts.teacher.model))
            source = f"{parts.teacher.model.name} from {parts.teacher.card.source}" if parts.teacher else None
            found[key] = {"data": parts.data_card.fingerprint, "steps": steps, "teacher": source}
    return {entry.name: found[entry.method, *entry.grid.values()] for entry in entries}


def _make(folder: Comparison, entries: list[Entry]) -> None:
    todo = [entry for entry in entries if folder.open(entry.name)]
    try:
        _find_teachers(folder, [entry.config for entry in todo if entry.method != BASELINE])
    except Stopped as stopped:
        raise Stopped(stopped.number, stopped.run, "that is the teacher; then compare again") from None
    for number, entry in enumerate(entries, 1):
        title = f"{number} of {len(entries)}: {entry.label}, seed {entry.seed}"
        if entry not in todo:
            failed = folder.failed.get(entry.name) if folder.state(entry.name) == "failed" else None
            say(f"{title}: {'failed before: ' + failed['error'] if failed else 'finished before'}")
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
            folder.failed[entry.name] = {"error": text, "final": isinstance(error, NumbersError)}
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


def _find_teachers(folder: Comparison, configs: list[Config]) -> None:
    """Find or fit every teacher, check and judge it: once, so that it is the same for all seeds and after a resume.

    Raises:
        WeightsError: it knows nothing of the data, or is not what the comparison began with.
    """
    for key, config in {_teacher_key(config): config for config in reversed(configs)}.items():  # of the first seed
        if key in folder.teachers:
            if card := folder.teachers[key]["card"]:
                reopen_teacher(TeacherCard.from_dict(card))
            continue
        fabric = launch(config)
        parts = prepare(config, fabric)
        assert parts.teacher and parts.val
        if parts.teacher.trained:
            predict = model_predictor(parts.teacher.model.to(fabric.device), fabric.device)
            scores = evaluate(predict, parts.val, label="judging the teacher").to_dict()
            privileged = parts.teacher.model.in_channels == 4
            say(f"teacher {parts.teacher.card.name}: val mIoU {100 * scores['miou']:.2f} %")
            folder.teachers[key] = {"card": parts.teacher.card.to_dict(), "scores": scores, "privileged": privileged}
        else:  # by a phase of each run
            folder.teachers[key] = {"card": None}
        folder.write()


def _with_teacher(folder: Comparison, config: Config) -> Config:
    """Name the file of the one teacher in a configuration, unless a phase of the run trains it."""
    if config.method.name == BASELINE or (card := folder.teachers[_teacher_key(config)]["card"]) is None:
        return config
    if config.model.teacher_weights:
        return config.changed(model__teacher_weights=card["file"])
    return config.changed(model__teacher=card["run"] or card["file"])


def _teacher_key(config: Config) -> str:
    """Return a digest of what names a teacher."""
    mine = {"teacher", "teacher_weights", "teacher_stride", "arch", "preprocess"}
    mine |= {"student"} if config.model.teacher == "self" else set()
    data, model = config.data.model_dump(mode="json"), config.model.model_dump(include=mine)
    names = [data, model, methods.assisted(config.method.name)]
    return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()[:12]


def _free(config: Config) -> None:
    """Let go of what a run held, on the device too."""
    if config.train.compile:
        torch.compiler.reset()  # else the next network of the class counts as one more recompilation
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Print and note nothing: the run itself will say it."""
    muted, first, console.muted = console.muted, len(console.notes), True
    try:
        yield
    finally:
        console.muted = muted
        del console.notes[first:]


def _show_plan(folder: Comparison, entries: list[Entry], facts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for entry in entries:
        own = {
            f"{m}.{key}": value for m, values in entry.config.method.settings().items() for key, value in values.items()
        }
        own |= {key: value for key, value in entry.grid.items() if not key.startswith("method.")}
        state = folder.state(entry.name)
        left = 0 if not folder.open(entry.name) else facts[entry.name]["steps"]
        row = {"name": entry.name, "method": entry.config.method.name, "seed": entry.seed, "settings": own}
        rows.append(row | {"state": state, "steps": left, "teacher": facts[entry.name]["teacher"]})
    cells = [
        (r["name"], r["method"], ", ".join(f"{k}={v}" for k, v in r["settings"].items()) or "-", r["state"], r["steps"])
        for r in rows
    ]
    console.table(f"plan of {folder.path}", ["run", "method", "settings", "state", "steps"], cells)
    for source in dict.fromkeys(row["teacher"] for row in rows if row["teacher"]):
        say(f"teacher: {source}")
    total = sum(row["steps"] for row in rows)
    todo = len([entry for entry in entries if folder.open(entry.name)])
    say(f"{todo} of {len(rows)} runs to make, {total:,} steps at most; nothing was written")
    return {"out": str(folder.path), "runs": rows, "todo": todo, "steps": total}
