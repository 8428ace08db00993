"""``kdc models``: list and describe networks."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ..run.records import Record
from .flags import print_table

if TYPE_CHECKING:
    from ..models import ModelInfo


@dataclass(frozen=True)
class Models(Record):
    """The networks; parameters at 19 classes, aux head included."""

    models: list["ModelInfo"]


@dataclass(frozen=True)
class ModelCost(Record):
    """A network's parameters, multiply-adds at ``size`` (height, width), and taps (channels and stride)."""

    name: str
    classes: int
    size: list[int]
    output_stride: int
    params: int
    params_without_aux: int
    macs: int
    macs_without_aux: int
    flops: int
    macs_cirkd_counter: int
    taps: dict[str, dict[str, int]]


def models_ls() -> Models:
    """List the networks."""
    from .. import models

    rows = [models.describe(name) for name in models.names()]
    stems = [re.split("[:,]", row.stem)[0] for row in rows]
    cells = [(r.name, f"{r.params:,}", r.imagenet or "none", stem) for r, stem in zip(rows, stems, strict=True)]
    title = "networks (parameters at 19 classes, aux head included)"
    print_table(title, ("name", "params", "ImageNet start", "stem"), cells)
    return Models(rows)


def models_info(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A network, such as deeplabv3-r18, or r18.")],
    classes: Annotated[int, typer.Option(help="Number of classes.")] = 19,
    size: Annotated[str, typer.Option(metavar="HxW", help="Input size of the MACs.")] = "512x1024",
    output_stride: Annotated[int | None, typer.Option(help="8 or 16; the architecture's own if not given.")] = None,
) -> ModelCost:
    """Show a network's parameters, multiply-adds and taps."""
    import torch

    from .. import cost, models
    from ..settings.config import parse_size

    height, width = parse_size(size)
    with torch.device("meta"):
        model = models.build(models.expand(name), classes, output_stride=output_stride)
    with_aux, without = cost.params(model)
    macs, bare = cost.macs(model, (height, width)), cost.macs(model, (height, width), aux=False)
    info = ModelCost(
        name=model.name,
        classes=classes,
        size=[height, width],
        output_stride=model.output_stride,
        params=with_aux,
        params_without_aux=without,
        macs=macs,
        macs_without_aux=bare,
        flops=2 * macs,
        macs_cirkd_counter=cost.macs(model, (height, width), counter="cirkd"),
        taps={tap: {"channels": t.channels, "stride": t.stride} for tap, t in model.taps.items()},
    )
    rows = [
        ("parameters", f"{with_aux:,}"),
        ("without the aux head (exported)", f"{without:,}"),
        (f"MACs at {height}x{width}, aux included", f"{macs / 1e9:.2f} G"),
        ("without the aux head", f"{bare / 1e9:.2f} G"),
        ("FLOPs = 2 x MACs", f"{2 * macs / 1e9:.2f} G"),
        ("as the CIRKD tables count (dilation ignored)", f"{info.macs_cirkd_counter / 1e9:.2f} G"),
    ]
    rows += [(f"tap {tap}", f"{t.channels} channels at 1/{t.stride}") for tap, t in model.taps.items()]
    print_table(f"{model.name}, {classes} classes", ("", ""), rows)
    return info
