"""What a measurement compares: runs and files become candidates of one input size and batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...distill import console
from ...distill.errors import ExportError, KdcError, UsageError, WeightsError
from ...distill.run.folder import Run, find_run, unstamped
from ...distill.run.records import Record
from ...distill.run.stale import is_stale, stale_files
from ..artefacts.beside import ENGINES, MODEL_FILES, owner
from ..artefacts.trust import vouched
from ..runtimes.base import export_size
from ..runtimes.options import CPU, RuntimeOptions, is_engine, is_onnx, is_torch
from ..runtimes.trt.manifest import engine_size
from .passes import passes

if TYPE_CHECKING:
    from ..runtimes.file_info import FileInfo

Source = str | Path | Run
Size = tuple[int, int]
#: files of the other runtimes: a network of OpenVINO, a package of AOTInductor
OTHERS = (".xml", ".pt2")
#: ONNX files that only TensorRT computes as written; ONNX Runtime would simulate them, however long that takes
FOR_TENSORRT = ".trt.onnx"


@dataclass(frozen=True)
class NotMeasured(Record):
    """A file, or the row of one, that is not measured, and why."""

    file: str
    why: str


def nothing_left(missing: Sequence[NotMeasured], do: str = "measure") -> str:
    """Say that there is nothing to do, and why each source was left out."""
    return f"nothing to {do} here: " + "; ".join(f"{m.file}: {m.why}" for m in missing)


class NothingToMeasure(UsageError):
    """No source fits; ``missing`` says why."""

    def __init__(self, missing: list[NotMeasured]) -> None:
        super().__init__(nothing_left(missing))
        self.missing = missing


@dataclass(frozen=True)
class Candidate:
    """A run or a file to be measured.

    Attributes:
        source: what is opened.
        run: the run that it is, or belongs to.
        info: what a file takes and gives; None where it takes any input, or where only opening it tells.
        named: whether the user named this file, rather than the run that holds it.
        label: the name of its row, short and unique in its plan.
    """

    source: Path | Run
    run: Run | None
    info: "FileInfo | None"
    named: bool
    label: str = ""

    @property
    def path(self) -> Path:
        """The file, or the folder of the run."""
        return self.source.path if isinstance(self.source, Run) else self.source

    @property
    def size(self) -> Size | None:
        """Height and width that a file is made for; None where it leaves them free."""
        if self.info is None or None in self.info.size:
            return None
        return int(self.info.size[0] or 0), int(self.info.size[1] or 0)

    def may_be_refused(self, error: KdcError) -> bool:
        """Tell whether it is listed as not measured where it cannot be opened, rather than ending the measurement.

        That is so for what a run's folder holds and this machine cannot run, and for files that only opening reads.
        """
        if is_torch(self.source):
            return False
        if is_onnx(self.source):
            return isinstance(error, ExportError) and not self.named
        return isinstance(error, ExportError | UsageError)


@dataclass(frozen=True)
class Selection:
    """The candidates of all sizes and batches, what cannot be measured, and the run that keeps the record."""

    candidates: list[Candidate]
    missing: list[NotMeasured]
    home: Run | None


@dataclass(frozen=True)
class Plan:
    """The candidates of one measurement, all of one input size and batch.

    Attributes:
        missing: what cannot be measured; a measurement adds what it cannot open.
        home: the run that keeps the record.
        head: "logits" or "argmax", that checkpoints are run with.
    """

    candidates: list[Candidate]
    missing: list[NotMeasured]
    home: Run | None
    size: Size
    batch: int
    head: str
    options: RuntimeOptions = CPU


def make_plan(
    sources: Sequence[Source] | None, *, size: Size | None, batch: int | None, options: RuntimeOptions = CPU
) -> Plan:
    """Choose what is measured; a batch of None takes files of any.

    Raises:
        NothingToMeasure: no source fits.
        UsageError: flags that do not fit the files.
        WeightsError: a missing or broken file.
    """
    return make_plans(sources, sizes=[size], batches=[batch], options=options)[0]


def make_plans(
    sources: Sequence[Source] | None,
    *,
    sizes: Sequence[Size | None],
    batches: Sequence[int | None],
    options: RuntimeOptions = CPU,
) -> list[Plan]:
    """Plan every size with every batch before anything is measured, so that a mistake in the last shows at once.

    A size and batch that no source fits has no plan: the first plan lists it as ``missing``.

    Raises:
        KdcError: as ``make_plan``; NothingToMeasure where no plan is left.
    """
    for batch in batches:
        if batch is not None and batch < 1:
            raise UsageError(f"--batch {batch}: it must be above 0")
    selection = select(sources, options.device)
    plans: list[Plan] = []
    misfits: list[NothingToMeasure] = []
    for size in sizes:
        for batch in batches:
            try:
                plans.append(_plan(selection, size, batch, options))
            except NothingToMeasure as error:
                misfits.append(error)

    if not plans:
        raise misfits[0]
    for lack in (m for error in misfits for m in error.missing):
        if lack not in plans[0].missing:
            plans[0].missing.append(lack)
    return plans


def _plan(selection: Selection, size: Size | None, batch: int | None, options: RuntimeOptions) -> Plan:
    fit, misfits = fitting(selection.candidates, batch, size)
    missing = [*selection.missing, *misfits]
    if not fit:
        raise NothingToMeasure(missing)
    # of several batches and sizes, an option's files may fit only one
    options.refuse_unused([candidate.source for candidate in selection.candidates])

    size = size or agreed_size(fit, trust=options.trust)
    head = next((candidate.info.head for candidate in fit if candidate.info), "logits")
    labelled = [replace(candidate, label=label) for candidate, label in zip(fit, row_names(fit), strict=True)]
    for candidate in labelled:
        usual = candidate.run.card.data.size if candidate.run else None
        if candidate.size and usual and (text := passes(candidate.info, candidate.size, usual)):
            console.note(f"{candidate.label} {text}")
    return Plan(labelled, missing, selection.home, size, batch or 1, head, options)


def select(sources: Sequence[Source] | None, device: str) -> Selection:
    """Turn runs into candidates, each with its exported files; None is the last run.

    Raises:
        UsageError: no such run.
        WeightsError: a missing or broken file.
    """
    members: list[tuple[Path | Run, Run | None]] = []
    missing: list[NotMeasured] = []
    for source in sources or [find_run(None)]:
        suffix = "" if isinstance(source, Run) else Path(source).suffix.lower()
        if suffix not in MODEL_FILES:
            run = source if isinstance(source, Run) else find_run(source)
            files, lacks = _exported(run, device)
            members += [(run, run), *((path, run) for path in files)]
            missing += lacks
            continue

        path = Path(str(source))
        if not path.is_file():
            raise WeightsError(f"{path} does not exist")
        if suffix in ENGINES and device == "cpu":
            missing.append(_no_gpu(path))
        else:
            members.append((path, owner(path)))

    named = {Path(source).resolve() for source in sources or () if not isinstance(source, Run)}
    candidates: dict[Path, Candidate] = {}
    for member, run in members:
        path = (member.path if isinstance(member, Run) else member).resolve()
        if path not in candidates:  # a run and its own file may both be named
            candidates[path] = Candidate(member, run, info_of(member), path in named)

    home = next((run for _, run in members if run), None)
    return Selection(list(candidates.values()), missing, home)


def _exported(run: Run, device: str) -> tuple[list[Path], list[NotMeasured]]:
    """Return a run's exported files that a device can run, and what it lacks."""
    old = {path.name: f"not measured: {is_stale('it', origin)}" for path, origin in stale_files(run.path).items()}
    onnx, engines, others = (
        [path for path in _files(run, suffixes) if path.name not in old] for suffixes in ((".onnx",), ENGINES, OTHERS)
    )
    files = [path for path in onnx if not path.name.endswith(FOR_TENSORRT)]
    missing = [NotMeasured(name, why) for name, why in old.items()]
    missing += [
        NotMeasured(path.name, "not measured: typed for TensorRT, its engine is") for path in onnx if path not in files
    ]
    if not files:
        missing.append(NotMeasured("export/*.onnx", f"not exported yet: kdc export onnx {run.path.name}"))
    if device == "cpu":
        missing += [_no_gpu(path) for path in engines]
    return [*files, *others, *(engines if device == "cuda" else ())], missing


def _files(run: Run, suffixes: tuple[str, ...]) -> list[Path]:
    """Return a run's exported files of some kinds; the copies in a model repository or a bundle are left out."""
    files = [path for path in run.export.glob("*") if path.suffix in suffixes]
    return sorted(files, key=lambda p: (_rank(p), len(p.name), p.name))


def _rank(path: Path) -> int:
    return 2 if "int8" in path.name else 1 if "fp16" in path.name else 0


def _no_gpu(path: Path) -> NotMeasured:
    return NotMeasured(path.name, "not measured: needs a GPU")


def info_of(source: Path | Run) -> "FileInfo | None":
    """Read what a file takes and gives without running it; None where it takes any input, or only opening tells.

    Raises:
        WeightsError: the file is missing or broken.
    """
    suffix = source.suffix.lower() if isinstance(source, Path) else ""
    if suffix == ".onnx":
        from ..runtimes.ort_runtime import read_info as read
    elif suffix == ".xml":
        from ..runtimes.openvino_file import read_ir as read
    elif suffix == ".pt2":
        from ..runtimes.aoti_runtime import read_package as read
    else:
        return None
    assert isinstance(source, Path)
    return read(source)


def fitting(
    candidates: Sequence[Candidate], batch: int | None, size: Size | None
) -> tuple[list[Candidate], list[NotMeasured]]:
    """Separate what takes ``batch`` images (None: any number) of ``size`` from the files made for others."""
    fit: list[Candidate] = []
    missing: list[NotMeasured] = []
    for candidate in candidates:
        info = candidate.info
        if info is not None and batch is not None and info.shape[0] not in (None, batch):
            at = f" at batch {batch}"
            why = f"a batch of {info.shape[0]}; kdc export onnx --dynamic-batch leaves it free"
        elif info is not None and size and any(own not in (None, n) for own, n in zip(info.size, size, strict=True)):
            at = f" at {size[0]}x{size[1]}"
            from ..runtimes.file_info import another

            why = f"{info.size[0]}x{info.size[1]}{another(info, candidate.path, size)}"
        else:
            fit.append(candidate)
            continue
        missing.append(NotMeasured(candidate.path.name, f"not measured{at}: made for {why}"))
    return fit, missing


def agreed_size(candidates: Sequence[Candidate], *, trust: bool = False) -> Size:
    """Find the input size that all candidates are measured with.

    Raises:
        UsageError: the files are made for several sizes, or no size is known.
        ExportError: the latter, and nothing vouches for an engine.
    """
    sizes: dict[Size, str] = {}
    for candidate in candidates:
        if candidate.size:
            sizes.setdefault(candidate.size, candidate.path.name)
    if len(sizes) > 1:
        each = ", ".join(f"{name} {h}x{w}" for (h, w), name in sizes.items())
        raise UsageError(f"the files are made for different sizes ({each}); name files of one size")
    if sizes:
        return next(iter(sizes))

    for candidate in candidates:
        card = candidate.run.card if candidate.run else None
        if card and card.data.size:
            return export_size(card.data.size, card.student.output_stride)

    engines = [candidate.source for candidate in candidates if is_engine(candidate.source)]
    for engine in engines:  # only TensorRT reads one; what its manifest says is not trusted yet
        if size := engine_size(engine):
            return size
    for engine in engines:  # what it lacks most is a manifest
        vouched(engine, "engine", trust=trust)
    raise UsageError("no input size is known for these files; name it: --size HxW")


def row_names(candidates: Sequence[Candidate]) -> list[str]:
    """Give the rows short and unique names."""
    short = ["torch" if is_torch(candidate.source) else candidate.path.name for candidate in candidates]
    folders = {candidate.run.path.name for candidate in candidates if candidate.run}
    bare = [unstamped(folder) for folder in folders]
    names = []
    for candidate, name in zip(candidates, short, strict=True):
        home = candidate.run.path.name if candidate.run else candidate.path
        if candidate.run and bare.count(unstamped(candidate.run.path.name)) == 1:
            home = unstamped(candidate.run.path.name)
        names.append(name if short.count(name) == 1 else f"{name} of {home}")
    return [
        name if names.count(name) == 1 else str(candidate.path)
        for name, candidate in zip(names, candidates, strict=True)
    ]
