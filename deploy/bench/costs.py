"""What networks cost before they run anywhere: parameters and arithmetic, counted without weights or images."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from ...distill import console
from ...distill.errors import KdcError, UsageError, WeightsError, one_line
from ...distill.network_spec import NetworkSpec
from ...distill.run.folder import Run, find_run
from ...distill.run.records import Record
from ..artefacts.beside import ENGINES, manifest_of, owner
from ..predict.segmenter import locate
from ..runtimes.options import is_onnx
from ..runtimes.trt.manifest import engine_size
from .plan import Size, info_of

CONVENTIONS = {
    "true": "multiply-adds (MACs) of every convolution and matrix product (attention too); FLOPs = 2 x MACs",
    "cirkd": "as the CIRKD family of papers prints them: MACs that ignore dilation, auxiliary head included",
}


@dataclass(frozen=True)
class Arithmetic(Record):
    """Multiply-adds and FLOPs of one image of ``size``, as ``counter`` counts them."""

    size: Size
    counter: str
    macs: int
    macs_without_aux: int
    flops: int
    flops_without_aux: int

    @classmethod
    def of(cls, size: Size, counter: str, macs: int, macs_without_aux: int) -> "Arithmetic":
        """Count two FLOPs for each multiply-add."""
        return cls(size, counter, macs, macs_without_aux, 2 * macs, 2 * macs_without_aux)


@dataclass(frozen=True)
class Cost(Record):
    """The cost of a network, with and without its auxiliary head; arithmetic only where it was counted."""

    MERGED: ClassVar = ("arithmetic",)

    model: str
    role: str
    classes: int
    output_stride: int | None
    params: int
    params_without_aux: int
    arithmetic: Arithmetic | None


@dataclass(frozen=True)
class _Network:
    """A network to count: the name of a model, a specification or an ONNX file, and the size that it is for."""

    spec: NetworkSpec | str | Path
    label: str = ""
    role: str = ""
    size: Size | None = None


def count(
    sources: Sequence[str | Path | Run] | None = None,
    *,
    classes: int | None = None,
    size: tuple[int, int] | None = None,
    output_stride: int | None = None,
    counter: str | None = None,
) -> list[Cost]:
    """Count parameters and, with a ``counter``, MACs of models by name, of the networks of runs, and of files.

    Args:
        sources: model names, runs and files; None is the last run. A run stands for its student and its teacher, an
            ONNX file for itself, any other file for the network of the run it came from.
        classes: for names (default 19, as the papers' tables).
        size: input height and width (default: for a file what it was made for or its run's images, for the others the
            images of the first run, else 512x1024).
        output_stride: for names (default: the architecture's own).
        counter: "true" or "cirkd"; None counts parameters only.

    Raises:
        UsageError: neither a model, a run nor a file, or an ONNX file that does not go with ``size`` or ``counter``.
        WeightsError: a file that is missing or does not say which network it holds.
    """
    import torch

    from ...distill import cost, models

    if counter is not None and counter not in cost.COUNTERS:
        raise UsageError(f"counter '{counter}' is not known; accepted: {', '.join(cost.COUNTERS)}")

    # what is to be counted
    networks: list[_Network] = []
    usual: Size | None = None
    for source in sources or [find_run(None)]:
        name = None if isinstance(source, Run) else str(source)
        if name and not Path(name).exists() and _is_model(name):
            networks.append(_Network(name))
            continue
        located = Path(name) if name and Path(name).is_file() else locate(source)[0]
        if isinstance(located, Run):
            networks += _networks_of(located)
            usual = usual or _size_of(located)
        else:
            spec = located if is_onnx(located) else _spec_of(located)
            networks.append(_Network(spec, label=located.name, size=_own_size(located)))

    costs = []
    for network in networks:
        shape = size or network.size or usual
        if isinstance(network.spec, Path):
            costs.append(_onnx_cost(network.spec, shape, counter))
            continue
        with torch.device("meta"):
            if isinstance(network.spec, str):
                model = models.build(network.spec, classes or 19, output_stride=output_stride)
            else:
                model = models.rebuild(network.spec)

        arithmetic = None
        if counter:
            shape = shape or (512, 1024)
            macs = [cost.macs(model, shape, aux=aux, counter=counter) for aux in (True, False)]
            arithmetic = Arithmetic.of(shape, counter, *macs)
        params = cost.params(model)
        label = network.label or model.name
        costs.append(Cost(label, network.role, model.num_classes, model.output_stride, *params, arithmetic))
    return costs


def _networks_of(run: Run) -> Iterator[_Network]:
    """Yield the student of a run, and its teacher where it is known."""
    from ...distill import models

    student, teacher = run.card.student, run.card.teacher
    yield _Network(student, role="student" if teacher else "network")
    if teacher and teacher.spec.name:  # as it was loaded: its stride need not be the student's
        yield _Network(teacher.spec, role="teacher")
    elif teacher and _is_model(teacher.name):
        yield _Network(replace(student, name=models.expand(teacher.name), aux=True), role="teacher")


@dataclass(frozen=True)
class Deployed:
    """What a deployed network costs, without auxiliary head; what is None is not known, for the reason ``why``."""

    params: int | None
    macs: int | None
    why: str = ""


def deployed(source: Path | Run, size: tuple[int, int]) -> Deployed:
    """Count what is deployed: the network of a run and of all that kdc exported from it, else the ONNX file itself.

    Nothing is raised for a file that cannot be counted: a measurement is worth keeping without its cost.
    """
    import torch

    from ...distill import cost, models
    from .onnx_cost import onnx_macs, onnx_params

    params = None
    try:
        if isinstance(source, Path) and (file := _foreign(source)):
            params = onnx_params(file)
            return Deployed(params, onnx_macs(file, size)[0])
        with torch.device("meta"):
            model = models.rebuild(_spec_of(source))
        return Deployed(cost.params(model)[1], cost.macs(model, size, aux=False))
    except (UsageError, WeightsError) as error:
        return Deployed(params, None, one_line(error))


def _foreign(path: Path) -> Path | None:
    """Return the ONNX file that a file is or was made from, where kdc did not export it from a checkpoint.

    A file that was folded or quantised is the same network: the manifests tell where it came from.
    """
    seen: list[Path] = []
    while path.is_file() and path not in seen:
        seen.append(path)
        manifest = manifest_of(path)
        origin = manifest.onnx or manifest.source
        if origin is not None and origin.checkpoint:
            return None
        path = path.with_name(origin.name if origin else path.name)
    return next((each for each in reversed(seen) if is_onnx(each)), None)


def _own_size(path: Path) -> Size | None:
    """Return the input size that a file was made or tuned for, else that of its run's images; None if unknown."""
    shape: Sequence[int | None] = (None, None)
    with contextlib.suppress(KdcError, OSError, ValueError, LookupError, AttributeError, TypeError):
        if path.suffix.lower() in ENGINES:  # only TensorRT reads one; its manifest is read without trusting it
            shape = engine_size(path) or shape
        elif (info := info_of(path)) is not None:
            shape = info.size
    height, width = shape
    run = owner(path)
    return (height, width) if height and width else _size_of(run) if run else None


def _size_of(run: Run) -> Size | None:
    """Return height and width of the images that a run was trained for, None where it does not say."""
    return run.card.data.size


def _spec_of(source: Path | Run) -> NetworkSpec:
    """Return what rebuilds the network of a run, of a kdc checkpoint or of a file in a run's folder."""
    from ...distill.run.checkpoint import read_card

    card = read_card(source) if isinstance(source, Path) and source.suffix == ".safetensors" else None
    run = source if isinstance(source, Run) else owner(source)
    spec = card.model if card and card.model.name else run.card.student if run else None
    if spec is None or not spec.name:
        raise WeightsError(f"{source} does not say which network it holds; count the run or the ONNX file it came from")
    return spec


def _onnx_cost(path: Path, size: Size | None, counter: str | None) -> Cost:
    from ..runtimes.ort_runtime import read_info
    from .onnx_cost import onnx_macs, onnx_params

    if counter == "cirkd":
        raise UsageError(f"--flops-counter cirkd is for models and runs; {path} is counted as it is")
    info, params = read_info(path), onnx_params(path)
    arithmetic = None
    if counter:
        # a file of one size is counted at it; the others follow the first run
        macs, shape = onnx_macs(path, size if None in info.size else None)
        arithmetic = Arithmetic.of(shape, counter, macs, macs)
    return Cost(path.name, "", info.num_classes, None, params, params, arithmetic)


def show_costs(costs: Sequence[Cost]) -> None:
    """Print counts for people."""
    columns = ["network", "classes", "params", "without aux"]
    counted = [cost.arithmetic for cost in costs if cost.arithmetic]
    sizes = sorted({f"{each.size[0]}x{each.size[1]}" for each in counted})
    if counted:
        columns += ["G MACs", "without aux", "GFLOPs", "without aux"]
    if len(sizes) > 1:
        columns.append("at")

    cells = []
    for cost in costs:
        name = f"{cost.model} ({cost.role})" if cost.role else cost.model
        line = [name, cost.classes, f"{cost.params:,}", f"{cost.params_without_aux:,}"]
        if each := cost.arithmetic:
            counts = (each.macs, each.macs_without_aux, each.flops, each.flops_without_aux)
            line += [f"{count / 1e9:.2f}" for count in counts]
            if len(sizes) > 1:
                line.append(f"{each.size[0]}x{each.size[1]}")
        cells.append(line)

    console.table(f"cost at {' and '.join(sizes)}, one image" if sizes else "cost", columns, cells)
    console.say("params: everything trained, batch norm included; without aux is what is exported")
    if counted:
        console.say(f"convention: {CONVENTIONS[counted[0].counter]}")


def _is_model(name: str) -> bool:
    from ...distill import models

    try:
        models.expand(name)
    except UsageError:
        return False
    return True
