"""The files of a run in ``export/``, each compared with what it was made from."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...distill import console
from ...distill.errors import ExportError, KdcError, UsageError
from ...distill.run.folder import Run, find_run
from ...distill.run.stale import is_stale, stale
from ..artefacts.beside import EXPORTED, MODEL_FILES, manifest_beside, owner
from ..artefacts.ledger import LEDGER, LEDGER_CURE, GateRow, read_gates, stage_of, write_gate
from ..runtimes.base import Runtime
from ..runtimes.open import open_runtime
from ..runtimes.options import CPU, RuntimeOptions
from .gate import gate, spread
from .layers import Explanation, explain
from .result import GateResult
from .tolerances import Tolerances, tolerances

if TYPE_CHECKING:
    from ...distill.data import Dataset

#: torch.compile of the checkpoint: it has no file
COMPILED = "torch.compile"


@dataclass(frozen=True)
class Comparison:
    """A file (or, for ``COMPILED``, no file) and what it was made from."""

    stage: str
    reference: Path | Run
    candidate: Path | str


@dataclass
class Outcome:
    """The result of a comparison, or why there is none."""

    comparison: Comparison
    result: GateResult | None = None
    #: it could not be measured on this machine; nobody's fault
    unrun: str = ""
    #: it is broken before anything can be measured
    broken: str = ""
    explanation: Explanation | None = field(default=None, repr=False)

    @property
    def failed(self) -> bool:
        """Whether the chain ends here."""
        return bool(self.broken) or (self.result is not None and not self.result.passed)

    def reasons(self) -> list[str]:
        """Say why it failed."""
        return [self.broken] if self.broken else self.result.reasons if self.result else []

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        ends = {"stage": self.comparison.stage, **_ends(self.comparison)}
        if self.result is not None:
            return {**ends, **self.result.to_dict()}
        return {**ends, "unrun": self.unrun} if self.unrun else {**ends, "passed": False, "reasons": [self.broken]}


def comparisons(run: Run, *, compiled: bool = False) -> list[Comparison]:
    """Return the comparisons of the files in a run's ``export`` folder, each after the one that it depends on.

    A file's origin is what its manifest says; without one, the ONNX file whose name is the start of its own.
    """
    exported = (p for p in run.export.glob("*") if p.suffix.lower() in EXPORTED)
    files = sorted(exported, key=lambda p: (len(p.name), p.name))
    stages = {row.file: row.stage for row in read_gates(run)}
    remaining = [Comparison(stages.get(p.name) or stage_of(p), _origin(p, files, run), p) for p in files]
    ordered = [Comparison("compiled", run, COMPILED)] if compiled else []

    reached: set[Path | str] = set()
    while remaining:
        ready = [a for a in remaining if isinstance(a.reference, Run) or a.reference in reached]
        # manifests that name each other in a circle: made up, and each is measured all the same
        ready = ready or remaining
        ordered += ready
        reached |= {a.candidate for a in ready}
        remaining = [a for a in remaining if a not in ready]
    return ordered


def _origin(path: Path, files: Sequence[Path], run: Run) -> Path | Run:
    others = {each.name: each for each in files if each != path}
    manifest = manifest_beside(path)
    origins = [each.name for each in (manifest.onnx, manifest.source) if each is not None]
    names = origins or [f"{path.name.partition('.')[0]}.onnx"]
    return next((others[name] for name in names if name in others), run)


def walk(
    run: Run,
    *,
    images: int | None = 16,
    options: RuntimeOptions = CPU,
    compiled: bool = False,
    explained: bool = False,
) -> list[Outcome]:
    """Measure every comparison of a run anew and enter it in the ledger; nothing is removed.

    Args:
        run: the run.
        images: validation images of each comparison; None for all.
        options: what the files run on (default: the CPU); the checkpoint stays on the CPU.
        compiled: also compare the checkpoint compiled by torch, which takes a compiler and a minute.
        explained: look into the first comparison that fails, if it has layers to look into.

    Raises:
        ExportError: there is nothing in ``export/``.
        WeightsError: the ledger is broken.
    """
    chain = comparisons(run, compiled=compiled)
    if not chain:
        raise ExportError(f"{run.path.name} has no exported file yet; make one with: kdc export onnx {run.spec}")
    options.refuse_unused([pair.candidate for pair in chain if isinstance(pair.candidate, Path)])
    ledger = {row.stage: row for row in read_gates(run)}
    limits = {stage: _limits_of(row, run) for stage, row in ledger.items()}
    dataset = run.open_data(run.config.data.split)

    outcomes: list[Outcome] = []
    unusable: dict[Path, str] = {}
    for pair in chain:
        lost = unusable.get(pair.reference) if isinstance(pair.reference, Path) else None
        allowed = limits.get(pair.stage)
        outcome = Outcome(pair, unrun=lost) if lost else _measure(pair, run, dataset, images, options, allowed)
        outcomes.append(outcome)
        if isinstance(pair.candidate, Path) and (outcome.broken or outcome.unrun):
            unusable[pair.candidate] = f"{pair.candidate.name}, which it was made from, does not run here"
        if outcome.result is not None:
            ends, old = _ends(pair), ledger.get(pair.stage)
            write_gate(run, pair.stage, outcome.result, ends["to"], old and old.left_high, origin=ends["from"])

    broken = next((each for each in outcomes if each.failed), None)
    if explained and broken is not None and broken.result is not None:
        broken.explanation = _explain(broken.comparison, run, dataset, options)

    run.remember_command()
    run.seal()
    return outcomes


def compare(
    first: str,
    second: str,
    *,
    dataset: "Dataset | None" = None,
    images: int | None = 16,
    options: RuntimeOptions = CPU,
    size: tuple[int, int] | None = None,
    explained: bool = False,
) -> Outcome:
    """Compare any two things that ``open_runtime`` opens; the first is trusted. Nothing is written.

    Args:
        first: a run, checkpoint or file.
        second: likewise.
        dataset: what both see (default: the validation images of the run that either belongs to).
        images: how many; None for all.
        options: what both run on (default: the CPU).
        size: input height and width, where neither is made for one.
        explained: look into the layers of both.

    Raises:
        UsageError: no data are known, or a flag that does not fit.
        DataError: the data have other classes than the network.
    """
    options.refuse_unused([Path(first), Path(second)])
    home = _home(first) or _home(second)
    if dataset is None and home is None:
        raise UsageError(f"neither {first} nor {second} is in a run, so their data are not known; name --data NAME|DIR")

    data = dataset or (home.open_data(home.config.data.split) if home else None)
    assert data is not None
    with _opened(first, second, options, size) as (reference, candidate):
        limits = tolerances(candidate.precision, home)
        pair = Comparison(f"{Path(first).name} -> {Path(second).name}", reference.source, candidate.source)
        outcome = Outcome(pair, gate(reference, candidate, data, limits, images=images))
        if explained:
            outcome.explanation = explain(reference, candidate, data.read(spread(len(data), images)[0])[0])
    return outcome


def _measure(
    pair: Comparison,
    run: Run,
    dataset: "Dataset",
    images: int | None,
    options: RuntimeOptions,
    limits: Tolerances | None,
) -> Outcome:
    opened = False
    if isinstance(pair.candidate, Path) and (origin := stale(pair.candidate)):
        return Outcome(pair, unrun=is_stale(pair.candidate.name, origin))
    try:
        with _both(pair, run, options) as (reference, candidate):
            opened, allowed = True, limits or tolerances(candidate.precision, run)
            result = gate(reference, candidate, dataset, allowed, images=images)
    except ExportError as error:
        return Outcome(pair, unrun=str(error))
    except KdcError as error:
        if isinstance(error, UsageError) and not opened:  # made for another device than the command names
            return Outcome(pair, unrun=str(error))
        return Outcome(pair, broken=str(error))

    recorded = manifest_beside(pair.candidate).sha256 if isinstance(pair.candidate, Path) else None
    if recorded not in (None, result.sha256):
        name = Path(pair.candidate).name
        result.reasons.insert(0, f"{name} was changed since it was made (its sha256 is not {recorded[:12]}...)")
        result.passed = False
    return Outcome(pair, result)


def _limits_of(row: GateRow, run: Run) -> Tolerances:
    """Return the limits of the gate that a file passed: flags may have set others than the configuration's."""
    return Tolerances.read(row.tolerances, run.path / LEDGER, LEDGER_CURE)


@contextlib.contextmanager
def _both(pair: Comparison, run: Run, options: RuntimeOptions) -> Iterator[tuple[Runtime, Runtime]]:
    with contextlib.ExitStack() as stack:
        if isinstance(pair.candidate, str):
            yield stack.enter_context(open_runtime(run)), stack.enter_context(open_runtime(run, torch_mode="compiled"))
            return
        candidate = stack.enter_context(options.open(pair.candidate))
        reference = pair.reference
        size = candidate.spec.size
        yield (
            stack.enter_context(
                open_runtime(reference, size=size) if isinstance(reference, Run) else options.open(reference, size)
            ),
            candidate,
        )


def _explain(pair: Comparison, run: Run, dataset: "Dataset", options: RuntimeOptions) -> Explanation | None:
    try:
        with _both(pair, run, options) as (reference, candidate):
            return explain(reference, candidate, dataset.read(0)[0])
    except KdcError as error:
        console.warn(f"the layers of {pair.stage} cannot be compared: {error}")
        return None


@contextlib.contextmanager
def _opened(
    first: str, second: str, options: RuntimeOptions, size: tuple[int, int] | None
) -> Iterator[tuple[Runtime, Runtime]]:
    with contextlib.ExitStack() as stack:
        opened: dict[str, Runtime] = {}
        # a file is made for one size, which a checkpoint then takes
        for source in sorted((first, second), key=lambda each: Path(each).suffix.lower() not in EXPORTED):
            opened[source] = stack.enter_context(options.open(source, size))
            size = size or opened[source].spec.size
        yield opened[first], opened[second]


def _home(source: str) -> Run | None:
    path = Path(source)
    return owner(path) if path.suffix.lower() in MODEL_FILES else find_run(source)


def _ends(pair: Comparison) -> dict[str, str]:
    start = "torch" if isinstance(pair.reference, Run) else pair.reference.name
    return {"from": start, "to": pair.candidate if isinstance(pair.candidate, str) else pair.candidate.name}
