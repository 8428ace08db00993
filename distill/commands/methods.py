"""``kdc methods``: list and describe methods."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from .. import console
from ..console import say
from ..run.records import Record
from .flags import print_table

if TYPE_CHECKING:
    from ..method_cost import MethodCost
    from ..methods import MethodInfo


@dataclass(frozen=True)
class Methods(Record):
    """The distillation methods."""

    methods: list["MethodInfo"]


@dataclass(frozen=True)
class MethodCard(Record):
    """A method, and what one of its steps costs."""

    MERGED: ClassVar = ("info",)

    info: "MethodInfo"
    cost: "MethodCost"


def methods_ls() -> Methods:
    """List the distillation methods."""
    from .. import methods

    rows = [methods.info(name) for name in methods.names()]
    cells = [(r.name, ", ".join(f"{t}={w:g}" for t, w in r.terms.items()), ", ".join(r.taps), r.summary) for r in rows]
    columns = ("name", "terms and default weights", "taps", "what it is")
    print_table("methods", columns, cells)
    return Methods(rows)


def methods_info(
    name: Annotated[str, typer.Argument(metavar="METHOD", help="A method, as kdc methods ls lists it.")],
    size: Annotated[str, typer.Option(metavar="HxW", help="Crop of the cost.")] = "512x1024",
    classes: Annotated[int, typer.Option(min=2, max=255, help="Number of classes of the cost.")] = 19,
    teacher: Annotated[str, typer.Option(metavar="NAME", help="Teacher of the cost.")] = "deeplabv3-r101",
    student: Annotated[str, typer.Option(metavar="NAME", help="Student of the cost.")] = "deeplabv3-r18",
) -> MethodCard:
    """Show a method's equations, taps, phases, options, cost, and where paper and code differ."""
    from .. import methods
    from ..method_cost import method_cost
    from ..settings.config import parse_size

    info = methods.info(name)
    cost = method_cost(info.name, student=student, teacher=teacher, classes=classes, size=parse_size(size))
    if console.json_mode:
        return MethodCard(info, cost)

    own, macs = cost.parameters, cost.macs
    say(f"{info.name}: {info.description}")
    say()
    say(f"paper:   {info.paper}")
    say(f"taps:    {', '.join(info.taps)}")
    say(f"terms:   {', '.join(f'{t}={w:g}' for t, w in info.terms.items())}")
    say(f"options: {', '.join(f'{key}={value}' for key, value in info.options.items()) or 'none'}")

    trains = [f"{own['trained']:,} parameters with the student"] if own["trained"] else []
    trains += [f"a critic of {own['critics']:,} parameters"] if own["critics"] else []
    say(f"trains:  {', '.join(trains) or 'nothing of its own'}; fixed: {own['fixed']:,} parameters")
    unless = ", unless the teacher comes trained" if info.assisted else ""
    phases = [f"{phase['name']} first{unless}" for phase in cost.phases]
    say(f"phases:  {', '.join(phases) or 'none'}")
    say(
        f"cost:    {cost.student} taught by {cost.teacher}, one image of {size}, {classes} classes: "
        f"{macs['forward'] / 1e9:.2f} GMACs forward, {macs['step'] / 1e9:.2f} with backward"
        + (f", {macs['critics'] / 1e9:.2f} for the critic's step" if macs["critics"] else "")
        + f"; {cost.kept_mib:.1f} MiB kept for backward; {own['buffers'] * 4 / 2**20:.0f} MiB of buffers"
    )
    for difference in info.differences:
        say(f"differs: {difference}")
    say(f"set one with: --set method.{info.name}.KEY=VALUE; weights and T also take linear(a,b,n) and step(a,b,n)")
    return MethodCard(info, cost)
