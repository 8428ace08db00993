"""What a measurement compares: runs and files become backends of one input size and batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...distill.errors import ExportError, KdcError, UsageError, WeightsError
from ...distill.run.folder import Run, find_run
from ..artefacts.beside import ENGINES, MODEL_FILES, manifest_beside, owner
from ..artefacts.trust import vouched
from ..runtimes.base import export_size
from ..runtimes.options import CPU, RuntimeOptions, is_engine, is_onnx, is_torch
from ..runtimes.trt.manifest import engine_size

if TYPE_CHECKING:
    from ..runtimes.file_info import FileInfo

Source = str | Path | Run
#: files of the other runtimes: a network of OpenVINO, a package of AOTInductor
OTHERS = (".xml", ".pt2")
#: ONNX files that only TensorRT computes as they say; here they are simulated, which takes any time
FOR_TENSORRT = ".trt.onnx"


def nothing_left(missing: Sequence[dict[str, str]], do: str = "measure") -> str:
    """Say that there is nothing to do here, and of each source why."""
    return f"nothing to {do} here: " + "; ".join(f"{m['file']}: {m['why']}" for m in missing)


class NothingToMeasure(UsageError):
    """No source fits; ``missing`` says of each why."""

    def __init__(self, missing: list[dict[str, str]]) -> None:
        super().__init__(nothing_left(missing))
        self.missing = missing


@dataclass
class Plan:
    """The sources of one measurement, all of one input size and batch."""

    chosen: list[Path | Run]
    #: what cannot be measured, and why
    missing: list[dict[str, str]]
    #: the run that keeps the record
    home: Run | None
    size: tuple[int, int]
    batch: int
    head: str
    options: RuntimeOptions = CPU
    #: files that were typed, not found in a run's folder
    named: set[Path] = field(default_factory=set)


def make_plan(
    sources: Sequence[Source] | None,
    *,
    size: tuple[int, int] | None,
    batch: int | None,
    options: RuntimeOptions = CPU,
) -> Plan:
    """Choose what is measured, or say why nothing can be; a batch of None takes files of any.

    Raises:
        NothingToMeasure: no source fits.
        UsageError: flags that do not fit the files.
        WeightsError: a missing or broken file.
    """
    found, missing, home = expand(sources, options.device)
    chosen, misfits = fitting(found, batch, size)
    missing += misfits
    if not chosen:
        raise NothingToMeasure(missing)
    options.refuse_unused(found)  # of several batches and sizes a file may fit one alone
    size, head = agree(chosen, size, trust=options.trust)
    named = {Path(str(source)).resolve() for source in sources or () if not isinstance(source, Run)}
    return Plan(chosen, missing, home, size, batch or 1, head, options, named)


def make_plans(
    sources: Sequence[Source] | None,
    *,
    sizes: Sequence[tuple[int, int] | None],
    batches: Sequence[int],
    options: RuntimeOptions = CPU,
) -> list[Plan]:
    """Plan every size with every batch before anything is measured, so that a mistake in the last shows at once.

    A size and batch that no source fits has no plan: the first that has one says so in its ``missing``.

    Raises:
        KdcError: as ``make_plan``; that nothing is to be measured where no plan is left.
    """
    plans: list[Plan] = []
    unfit: list[NothingToMeasure] = []
    for size in sizes:
        for batch in batches:
            try:
                plans.append(make_plan(sources, size=size, batch=batch, options=options))
            except NothingToMeasure as error:
                unfit.append(error)
    if not plans:
        raise unfit[0]
    for lack in (m for error in unfit for m in error.missing):
        if lack not in plans[0].missing:
            plans[0].missing.append(lack)
    return plans


def may_be_refused(source: Path | Run, plan: Plan, error: KdcError) -> bool:
    """Tell whether a source that was not opened is listed as not measured, rather than ending the measurement.

    That is so for what lies in a run's folder but is not to be had here, and for the files that only opening reads.
    """
    if is_torch(source):
        return False
    if is_onnx(source):
        return isinstance(error, ExportError) and source.resolve() not in plan.named
    return isinstance(error, ExportError | UsageError)


def expand(sources: Sequence[Source] | None, device: str) -> tuple[list[Path | Run], list[dict[str, str]], Run | None]:
    """Turn runs into backends; return them, what cannot be measured, and the run that keeps the record."""
    chosen: list[Path | Run] = []
    missing: list[dict[str, str]] = []
    home: Run | None = None
    for source in sources or [find_run(None)]:
        suffix = "" if isinstance(source, Run) else Path(source).suffix.lower()
        path = Path(str(source)) if suffix in MODEL_FILES else None
        if path is not None and not path.is_file():
            raise WeightsError(f"{path} does not exist")
        if path is not None and suffix in ENGINES and device == "cpu":
            missing.append(_no_gpu(path))
        elif path is not None:
            chosen.append(path)
            home = home or owner(path)
        else:
            run = source if isinstance(source, Run) else find_run(source)
            home = home or run
            files, engines = _exports(run, (".onnx",)), _exports(run, ENGINES)
            typed = [path for path in files if path.name.endswith(FOR_TENSORRT)]
            missing += [{"file": path.name, "why": "not measured: typed for TensorRT, its engine is"} for path in typed]
            files = [path for path in files if path not in typed]
            chosen += [run, *files, *_exports(run, OTHERS), *(engines if device == "cuda" else ())]
            if not files:
                missing.append({"file": "export/*.onnx", "why": f"not exported yet: kdc export onnx {run.path.name}"})
            missing += [_no_gpu(path) for path in engines if device == "cpu"]
    # a run and its own file may both be named
    unique = {(s.path if isinstance(s, Run) else s).resolve(): s for s in reversed(chosen)}
    return [s for s in chosen if unique.get((s.path if isinstance(s, Run) else s).resolve()) is s], missing, home


def _exports(run: Run, suffixes: tuple[str, ...]) -> list[Path]:
    """Return a run's exported files of some kinds; the copies in a model repository or a bundle are left out."""
    found = [path for path in run.export.glob("*") if path.suffix in suffixes]
    return sorted(found, key=lambda p: (_rank(p), len(p.name), p.name))


def _rank(path: Path) -> int:
    return 2 if "int8" in path.name else 1 if "fp16" in path.name else 0


def _no_gpu(path: Path) -> dict[str, str]:
    return {"file": path.name, "why": "not measured: needs a GPU"}


def info_of(source: Path | Run) -> "FileInfo | None":
    """Read what a file takes and gives without running it; None where it takes what it is given, or only opening tells.

    Raises:
        WeightsError: the file is missing or broken.
    """
    suffix = source.suffix.lower() if isinstance(source, Path) else ""
    if suffix == ".onnx":
        from ..runtimes.ort_runtime import read_info as read
    elif suffix == ".xml":
        from ..runtimes.openvino_runtime import read_ir as read
    elif suffix == ".pt2":
        from ..runtimes.aoti_runtime import read_package as read
    else:
        return None
    assert isinstance(source, Path)
    return read(source)


def fitting(
    chosen: list[Path | Run], batch: int | None, size: tuple[int, int] | None
) -> tuple[list[Path | Run], list[dict[str, str]]]:
    """Part what takes ``batch`` images (None: any number) of ``size`` from the files made for others, and say why."""
    fit: list[Path | Run] = []
    missing: list[dict[str, str]] = []
    for source in chosen:
        info = info_of(source)
        if info is not None and batch is not None and info.shape[0] not in (None, batch):
            at = f" at batch {batch}"
            why = f"a batch of {info.shape[0]}; kdc export onnx --dynamic-batch leaves it free"
        elif info is not None and size and any(own not in (None, n) for own, n in zip(info.size, size, strict=True)):
            at = f" at {size[0]}x{size[1]}"
            why = f"{info.size[0]}x{info.size[1]}; kdc export onnx --size {size[0]}x{size[1]} makes another"
        else:
            fit.append(source)
            continue
        missing.append({"file": Path(str(source)).name, "why": f"not measured{at}: made for {why}"})
    return fit, missing


def agree(
    chosen: list[Path | Run], size: tuple[int, int] | None, *, trust: bool = False
) -> tuple[tuple[int, int], str]:
    """Find the input size and the head that all backends are measured with.

    Raises:
        UsageError: the files are made for several sizes, or for none that is known.
        ExportError: the latter, and nothing vouches for an engine.
    """
    infos = [(source, info) for source in chosen if (info := info_of(source)) is not None]
    sizes: dict[tuple[int, int], str] = {}
    for source, info in infos:
        if info.size[0] and info.size[1]:
            sizes.setdefault((info.size[0], info.size[1]), Path(str(source)).name)
    if size is None and len(sizes) > 1:
        each = ", ".join(f"{name} {h}x{w}" for (h, w), name in sizes.items())
        raise UsageError(f"the files are made for different sizes ({each}); name files of one size")
    if size is None and sizes:
        size = next(iter(sizes))
    for source in chosen if size is None else ():
        run = source if isinstance(source, Run) else owner(source)
        if run is not None and run.card.data.size:
            size = export_size(run.card.data.size, run.card.student.output_stride)
            break
    engines = [source for source in chosen if is_engine(source)] if size is None else []
    for source in engines:  # only TensorRT reads one; what its manifest says is not trusted yet
        size = size or engine_size(manifest_beside(source))
    if size is None:
        for source in engines:  # what it lacks most is a manifest
            vouched(source, "engine", trust=trust)
        raise UsageError("no input size is known for these files; name it: --size HxW")
    return size, infos[0][1].head if infos else "logits"


def row_names(chosen: list[Path | Run]) -> list[str]:
    """Name the rows as shortly as they can be told apart."""
    short = ["torch" if is_torch(source) else Path(str(source)).name for source in chosen]
    names = []
    for source, label in zip(chosen, short, strict=True):
        path = source.path if isinstance(source, Run) else source
        run = source if isinstance(source, Run) else owner(source)
        names.append(label if short.count(label) == 1 else f"{label} of {run.path.name if run else path}")
    return [
        name if names.count(name) == 1 else str(source.path if isinstance(source, Run) else source)
        for name, source in zip(names, chosen, strict=True)
    ]
