"""What networks cost before they run anywhere: parameters and arithmetic, counted without weights or images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..distill import console
from ..distill.errors import UsageError
from ..distill.run import Run, find_run

CONVENTIONS = {
    "true": "multiply-adds (MACs) of every convolution at its real output size; FLOPs = 2 x MACs",
    "cirkd": "as the CIRKD family of papers prints them: MACs that ignore dilation, auxiliary head included",
}


def count(
    sources: Sequence[str | Run] | None = None,
    *,
    classes: int | None = None,
    size: tuple[int, int] | None = None,
    output_stride: int | None = None,
    counter: str | None = None,
) -> list[dict[str, Any]]:
    """Count parameters and, with a ``counter``, MACs of models by name or of the networks of runs.

    Args:
        sources: model names and runs; None is the last run. A run stands for its student and its teacher.
        classes: for names (default 19, as the papers' tables).
        size: input height and width (default: the images of the first run, else 512x1024).
        output_stride: for names (default: the architecture's own).
        counter: "true" or "cirkd"; None counts parameters only.

    Raises:
        UsageError: neither a model nor a run.
    """
    import torch

    from ..distill import cost, models

    if counter is not None and counter not in cost.COUNTERS:
        raise UsageError(f"counter '{counter}' is not known; accepted: {', '.join(cost.COUNTERS)}")
    specs: list[tuple[str, dict[str, Any] | str]] = []
    for source in sources or [find_run(None)]:
        if not isinstance(source, Run) and not Path(source).exists() and _is_model(source):
            specs.append(("", source))
            continue
        run = source if isinstance(source, Run) else find_run(source)
        specs.append(("student" if run.card.get("teacher") else "network", run.card["student"]))
        size = size or tuple((run.card.get("data") or {}).get("size") or ()) or None
        teacher = run.card.get("teacher") or {}
        if teacher.get("spec"):  # as it was loaded: its stride need not be the student's
            specs.append(("teacher", teacher["spec"]))
        elif teacher.get("name") and _is_model(teacher["name"]):
            specs.append(("teacher", {**run.card["student"], "name": models.expand(teacher["name"]), "aux": True}))
    size = size or (512, 1024)
    rows = []
    for role, spec in specs:
        with torch.device("meta"):
            if isinstance(spec, str):
                model = models.build(spec, classes or 19, output_stride=output_stride)
            else:
                model = models.rebuild(spec)
        total, without = cost.params(model)
        row: dict[str, Any] = {
            "model": model.name,
            "role": role,
            "classes": model.num_classes,
            "output_stride": model.output_stride,
        }
        row |= {"params": total, "params_without_aux": without}
        if counter:
            row |= {"size": list(size), "counter": counter}
            for key, aux in (("macs", True), ("macs_without_aux", False)):
                row[key] = cost.macs(model, size, aux=aux, counter=counter)
            row |= {"flops": 2 * row["macs"], "flops_without_aux": 2 * row["macs_without_aux"]}
        rows.append(row)
    return rows


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
    size = f" at {rows[0]['size'][0]}x{rows[0]['size'][1]}, one image" if with_macs else ""
    console.table(f"cost{size}", columns, lines)
    console.say("params: everything trained, batch norm included; without aux is what is exported")
    if with_macs:
        console.say(f"convention: {CONVENTIONS[rows[0]['counter']]}")


def _is_model(name: str) -> bool:
    from ..distill import models

    try:
        models.expand(name)
    except UsageError:
        return False
    return True
