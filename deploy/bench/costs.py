"""What networks cost before they run anywhere: parameters and arithmetic, counted without weights or images."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...distill import console
from ...distill.errors import KdcError, UsageError, WeightsError
from ...distill.network_spec import NetworkSpec
from ...distill.run.folder import Run, find_run
from ..artefacts.beside import ENGINES, manifest_beside, owner
from ..predict.segmenter import locate
from ..runtimes.options import is_onnx
from ..runtimes.trt.manifest import engine_size
from .plan import info_of

Size = tuple[int, int]
CONVENTIONS = {
    "true": "multiply-adds (MACs) of every convolution at its real output size; FLOPs = 2 x MACs",
    "cirkd": "as the CIRKD family of papers prints them: MACs that ignore dilation, auxiliary head included",
}


def count(
    sources: Sequence[str | Path | Run] | None = None,
    *,
    classes: int | None = None,
    size: tuple[int, int] | None = None,
    output_stride: int | None = None,
    counter: str | None = None,
) -> list[dict[str, Any]]:
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
        WeightsError: a file that is missing or does not tell what it holds.
    """
    import torch

    from ...distill import cost, models

    if counter is not None and counter not in cost.COUNTERS:
        raise UsageError(f"counter '{counter}' is not known; accepted: {', '.join(cost.COUNTERS)}")
    specs: list[tuple[str, str, NetworkSpec | str | Path, Size | None]] = []
    usual: Size | None = None
    for source in sources or [find_run(None)]:
        named = None if isinstance(source, Run) else str(source)
        if named and not Path(named).exists() and _is_model(named):
            specs.append(("", "", named, None))
            continue
        chosen = Path(named) if named and Path(named).is_file() else locate(source)[0]
        if isinstance(chosen, Path):
            spec = chosen if is_onnx(chosen) else _spec_of(chosen)
            specs.append((chosen.name, "", spec, _own_size(chosen)))
            continue
        teacher = chosen.card.teacher
        specs.append(("", "student" if teacher else "network", chosen.card.student, None))
        usual = usual or _size_of(chosen)
        if teacher and teacher.spec.name:  # as it was loaded: its stride need not be the student's
            specs.append(("", "teacher", teacher.spec, None))
        elif teacher and _is_model(teacher.name):
            spec = replace(chosen.card.student, name=models.expand(teacher.name), aux=True)
            specs.append(("", "teacher", spec, None))
    rows = []
    for name, role, spec, own in specs:
        if isinstance(spec, Path):
            rows.append(_onnx_row(spec, size or own or usual, counter))
            continue
        with torch.device("meta"):
            if isinstance(spec, str):
                model = models.build(spec, classes or 19, output_stride=output_stride)
            else:
                model = models.rebuild(spec)
        row: dict[str, Any] = {
            "model": name or model.name,
            "role": role,
            "classes": model.num_classes,
            "output_stride": model.output_stride,
        }
        shape = size or own or usual or (512, 1024)
        macs = [cost.macs(model, shape, aux=aux, counter=counter) for aux in (True, False)] if counter else None
        rows.append(row | _columns(cost.params(model), macs, shape, counter))
    return rows


def deployed(source: Path | Run, size: tuple[int, int]) -> tuple[int | None, int | None]:
    """Return parameters and MACs of what is deployed, without the auxiliary head; None where they cannot be known.

    Every file of a run costs what the run's student costs: a file that was folded or quantised is the same network.
    Nothing is raised for a file that cannot be counted: a measurement is worth keeping without its cost.
    """
    import torch

    from ...distill import cost, models

    with contextlib.suppress(UsageError, WeightsError):
        with torch.device("meta"):
            model = models.rebuild(_spec_of(source))
        return cost.params(model)[1], cost.macs(model, size, aux=False)
    if is_onnx(source):
        from .onnx_cost import count_onnx

        with contextlib.suppress(UsageError, WeightsError):
            return count_onnx(Path(str(source)), size)[:2]
    return None, None


def _own_size(path: Path) -> Size | None:
    """Return the input size that a file was made or tuned for, else that of its run's images; None if neither tells."""
    shape: Sequence[int | None] = (None, None)
    with contextlib.suppress(KdcError, OSError, ValueError, LookupError, AttributeError, TypeError):
        if path.suffix.lower() in ENGINES:  # only TensorRT reads one; its manifest is read without trusting it
            shape = engine_size(manifest_beside(path)) or shape
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


def _onnx_row(path: Path, size: tuple[int, int] | None, counter: str | None) -> dict[str, Any]:
    from ..runtimes.ort_runtime import read_info
    from .onnx_cost import count_onnx

    if counter == "cirkd":
        raise UsageError(f"--flops-counter cirkd is for models and runs; {path} is counted as it is")
    info = read_info(path)
    # a file of one size is counted at it; the others follow the first run
    params, macs, shape = count_onnx(path, size if None in info.size else None)
    row = {"model": path.name, "role": "", "classes": info.num_classes, "output_stride": None}
    return row | _columns((params, params), (macs, macs) if counter else None, shape, counter)


def _columns(
    params: Sequence[int], macs: Sequence[int] | None, size: tuple[int, int], counter: str | None
) -> dict[str, Any]:
    """Return the columns of a row from counts with and without the auxiliary head."""
    row: dict[str, Any] = dict(zip(("params", "params_without_aux"), params, strict=True))
    if macs is None:
        return row
    row |= {"size": list(size), "counter": counter} | dict(zip(("macs", "macs_without_aux"), macs, strict=True))
    return row | {"flops": 2 * row["macs"], "flops_without_aux": 2 * row["macs_without_aux"]}


def show(rows: list[dict[str, Any]]) -> None:
    """Print counts for people."""
    with_macs = "macs" in rows[0]
    columns = ["network", "classes", "params", "without aux"]
    if with_macs:
        columns += ["G MACs", "without aux", "GFLOPs", "without aux"]
    lines = []
    for row in rows:
        name = f"{row['model']} ({row['role']})" if row["role"] else row["model"]
        cells = [name, row["classes"], f"{row['params']:,}", f"{row['params_without_aux']:,}"]
        if with_macs:
            keys = ("macs", "macs_without_aux", "flops", "flops_without_aux")
            cells += [f"{row[key] / 1e9:.2f}" for key in keys]
        lines.append(cells)
    sizes = sorted({"{}x{}".format(*row["size"]) for row in rows}) if with_macs else []
    if len(sizes) > 1:
        columns.append("at")
        lines = [[*line, "{}x{}".format(*row["size"])] for line, row in zip(lines, rows, strict=True)]
    console.table(f"cost at {' and '.join(sizes)}, one image" if sizes else "cost", columns, lines)
    console.say("params: everything trained, batch norm included; without aux is what is exported")
    if with_macs:
        console.say(f"convention: {CONVENTIONS[rows[0]['counter']]}")


def _is_model(name: str) -> bool:
    from ...distill import models

    try:
        models.expand(name)
    except UsageError:
        return False
    return True
