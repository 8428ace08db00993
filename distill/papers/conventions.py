"""The ways in which a table may have counted, tried in a fixed order until one gives the printed number.

Their order: the row at its word (all parameters; FLOPs as two per multiply-add); other habits of counting (without the
auxiliary head, multiply-adds called FLOPs, dilation ignored as by CIRKD's counter, V2 heads); another input size, where
the row names none. Then those that contradict the row: another size, number of classes or backbone than it names.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn

from .. import cost, models
from ..errors import UsageError
from .tables import UNITS, Claim

#: classes of Cityscapes, Pascal VOC, ADE20K and CamVid
CLASSES = (19, 21, 150, 11)
#: the crops of those recipes, Cityscapes' whole images, and DeepLabV3+'s crop
SIZES = ((512, 1024), (512, 512), (1024, 2048), (513, 513))
HEADS = ("v1", "v2")
#: the meanings of "FLOPs": operations per multiply-add, the counter, with the auxiliary head or without
COUNTINGS = tuple((per, counter, aux) for counter in cost.COUNTERS for per in (2, 1) for aux in (True, False))


@dataclass(frozen=True)
class Convention:
    """One way to count one network; ``per`` is 0 for parameters, else the operations of one multiply-add."""

    model: str
    classes: int
    heads: str = "v1"
    aux: bool = True
    size: tuple[int, int] | None = None
    per: int = 0
    counter: str = "true"

    def count(self) -> int:
        """Return the parameters, or the operations for one image; nothing is computed but shapes."""
        if self.size is None:
            return _network(self.model, self.classes, self.heads).params[0 if self.aux else 1]
        return self.per * count_macs(self.model, self.classes, self.heads, self.size, self.aux, self.counter)

    @property
    def habits(self) -> tuple[object, ...]:
        """The choices that are free to a table: everything but the network and its classes."""
        return self.heads, self.aux, self.size, self.per, self.counter

    def __str__(self) -> str:
        quantity = {0: "parameters", 1: "MACs", 2: "FLOPs"}[self.per]
        parts = [
            f"{quantity} undilated" if self.counter == "cirkd" else quantity,
            "V2 heads" if self.heads == "v2" else "",
            "" if self.aux else "no aux",
            "x".join(map(str, self.size)) if self.size else "",
        ]
        return ", ".join(filter(None, parts))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        unit = {0: "params", 1: "macs", 2: "flops"}[self.per]
        values = asdict(self) | {"unit": unit, "text": str(self)}
        del values["per"]
        return values


@dataclass(frozen=True)
class Reading:
    """A claim counted by a convention.

    ``change`` names what it takes the row to say otherwise ("" for nothing); ``rounded_twice`` is whether the number
    is the printed one only after rounding to one more digit first: 507.3465, copied as 507.35, is printed as 507.4.
    """

    convention: Convention
    change: str
    value: int
    rounded_twice: bool = False

    def __str__(self) -> str:
        return f"{self.convention}{', rounded twice' if self.rounded_twice else ''}"


def find_reading(claim: Claim) -> tuple[Reading | None, list[Reading]]:
    """Return the first reading within the claim's tolerance, or None, and all that were tried."""
    tried: list[Reading] = []
    grid = list(_grid(claim))
    for stage in (False, True):  # first what leaves the row's words alone
        for convention, change in (way for way in grid if bool(way[1]) == stage):
            tried.append(Reading(convention, change, convention.count()))
            if fits(claim, tried[-1].value):
                return tried[-1], tried
        if not stage and (twice := next((r for r in tried if _fits_rounded_twice(claim, r.value)), None)):
            return replace(twice, rounded_twice=True), tried
    return None, tried


def find_backbone(claims: Sequence[Claim]) -> dict[Claim, Reading]:
    """Return, for the claims of one row, the first other backbone of its architecture that gives all of them."""
    own = claims[0].model
    arch = own.rpartition("-")[0]
    for name in models.names():
        if name.rpartition("-")[0] == arch and name != own:
            readings: dict[Claim, Reading] = {}
            for claim in claims:
                tried = (Reading(c, "backbone", c.count()) for c, why in _grid(replace(claim, model=name)) if not why)
                fit = next((reading for reading in tried if fits(claim, reading.value)), None)
                if fit is None:
                    break
                readings[claim] = fit
            else:
                return readings
    return {}


def other_classes(claim: Claim, convention: Convention) -> list[int]:
    """Return all numbers of classes, but the claim's own, that give its number by that convention."""
    others = (k for k in CLASSES if k != claim.classes)
    return [k for k in others if fits(claim, replace(convention, classes=k).count())]


def fits(claim: Claim, value: float) -> bool:
    """Whether a value would be printed as the claim is."""
    return abs(value - claim.value) <= claim.tolerance * (1 + 1e-9)


def _fits_rounded_twice(claim: Claim, value: float) -> bool:
    digit = 2 * claim.tolerance / UNITS[claim.unit]
    if not digit:
        return False
    finer = math.floor(value / UNITS[claim.unit] / digit * 10 + 0.5) / 10
    return math.isclose(math.floor(finer + 0.5) * digit, claim.value / UNITS[claim.unit])


def _grid(claim: Claim) -> Iterator[tuple[Convention, str]]:
    """Yield the conventions in their order, each with the part of the row that it contradicts ("" for none)."""
    assert claim.classes
    own = Convention(claim.model, claim.classes)
    others = [replace(own, classes=k) for k in CLASSES if k != claim.classes]

    if claim.metric == "params":
        bases, countings = [own], [{"aux": aux} for aux in (True, False)]
        sizes: list[tuple[int, int]] = []
    else:
        first = claim.size or claim.crop
        assert first
        bases, sizes = [replace(own, size=first)], [size for size in SIZES if size != first]
        others = [replace(other, size=first) for other in others]
        countings = [{"per": per, "counter": counter, "aux": aux} for per, counter, aux in COUNTINGS]
    bases += [replace(bases[0], heads=heads) for heads in HEADS[1:]]
    resized = [replace(bases[0], size=size) for size in sizes]

    for base, change in (
        *((base, "") for base in bases),
        *((base, "size" if claim.size else "") for base in resized),
        *((base, "classes") for base in others),
    ):
        if not _exists(base.model, base.heads):
            continue
        for counting in countings:
            if counting["aux"] or _has_aux(base.model):
                yield replace(base, **counting), change


@dataclass(frozen=True)
class _Network:
    """A network's parameters, with and without the auxiliary head, and its convolutions."""

    params: tuple[int, int]
    shapes: models.SegmentationModel


@cache
def _network(model: str, classes: int, heads: str) -> _Network:
    with torch.device("meta"):
        network = models.build(model, classes, heads=heads)
    params = cost.params(network)
    for parent in list(network.modules()):  # what changes no shape: without tensors, batch norm takes most of the time
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d | nn.ReLU | nn.ReLU6 | nn.Dropout):
                setattr(parent, name, nn.Identity())
    return _Network(params, network)


@cache
def _exists(model: str, heads: str) -> bool:
    try:
        _network(model, CLASSES[0], heads)
    except UsageError:
        return False
    return True


def _has_aux(model: str) -> bool:
    with_aux, without = _network(model, CLASSES[0], HEADS[0]).params
    return with_aux > without


@cache
def count_macs(model: str, classes: int, heads: str, size: tuple[int, int], aux: bool, counter: str) -> int:
    """Return the multiply-adds of a network for one image, as ``cost.macs``."""
    return cost.macs(_network(model, classes, heads).shapes, size, aux=aux, counter=counter)
