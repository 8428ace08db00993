"""The commands of ``kdc bench``: what networks cost, how fast they are, and how good they are for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...distill.commands.command import command, group
from ...distill.commands.flags import takes
from ...distill.run.records import Record
from ..flags import SizeFlag, read_numbers, read_size, read_sizes, steady, takes_runtime_options
from .evaluation_data import EvaluationData

if TYPE_CHECKING:
    from ..runtimes.options import RuntimeOptions
    from .accuracy import AccuracyRecord
    from .costs import Cost
    from .latency_record import LatencyRecord
    from .memory import MemoryRecord
    from .throughput import ThroughputRecord
    from .tradeoff import TradeoffRecord

Sources = Annotated[
    list[str] | None, typer.Argument(metavar="RUN|FILE", help="Runs and files; the last run if not named.")
]
Networks = Annotated[
    list[str] | None,
    typer.Argument(metavar="RUN|MODEL|FILE", help="Runs, model names and files; the last run if not named."),
]
Sizes = Annotated[str | None, typer.Option("--size", metavar="HxW[,HxW]", help="Input size, or several.")]
Batches = Annotated[str, typer.Option("--batch", metavar="N[,N]", help="Images per query, or several.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of every backend (default: all cores).")]
Seconds = Annotated[float, typer.Option(help="Measuring time of each backend.")]
Runs = Annotated[int, typer.Option(min=1, help="Runs of each backend at least, up to twice --seconds.")]
Rounds = Annotated[int, typer.Option(min=1, help="How often the backends take turns.")]
Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where to write the record (default: bench/ of the run).")
]
Seed = Annotated[int, typer.Option(help="Of the input images.")]
Classes = Annotated[int | None, typer.Option(min=1, help="Classes of models given by name (default 19).")]
Stride = Annotated[
    int | None,
    typer.Option("--output-stride", help="Output stride of models given by name: 8, 16 or the architecture's own."),
]


def register_bench(app: typer.Typer) -> None:
    """Add ``kdc bench`` to the command line."""
    bench = group("Measure latency, throughput, memory and accuracy; count parameters and FLOPs.")
    for function in (latency, throughput, memory, flops, params, accuracy, tradeoff):
        bench.command(function.__name__)(command(function))
    app.add_typer(bench, name="bench")


@dataclass(frozen=True)
class LatencyRecords(Record):
    """Several measurements: one for each size and batch."""

    kind: str
    measurements: "list[LatencyRecord]"


@dataclass(frozen=True)
class Costs(Record):
    """Parameters or FLOPs of networks; ``convention`` says how FLOPs are counted."""

    OPTIONAL = ("convention",)

    kind: str
    convention: str | None
    networks: "list[Cost]"


@takes_runtime_options(torch=True)
@steady
def latency(
    sources: Sources = None,
    size: Sizes = None,
    batch: Batches = "1",
    threads: Threads = None,
    seconds: Seconds = 6.0,
    runs: Runs = 100,
    rounds: Rounds = 10,
    mode: Annotated[
        str, typer.Option(help="net (the network alone) or e2e (compressed image in, mask out, every stage timed).")
    ] = "net",
    codec: Annotated[str, typer.Option(help="Compression of the images in mode e2e: jpg or png.")] = "jpg",
    *,
    options: "RuntimeOptions",
    out: Out = None,
    seed: Seed = 0,
) -> "LatencyRecord | LatencyRecords":
    """Time torch and every exported file of a run side by side, in interleaved rounds."""
    from .latency import time_plan
    from .latency_record import show_latency
    from .plan import make_plans
    from .record import Effort

    batches = read_numbers(batch, "--batch")
    effort = Effort(seconds, runs, rounds, mode, codec, threads, seed)
    results = []
    for plan in make_plans(sources or None, sizes=read_sizes(size), batches=batches, options=options):
        result = time_plan(plan, effort, out)
        show_latency(result)
        results.append(result)
    return results[0] if len(results) == 1 else LatencyRecords("latency", results)


@takes_runtime_options(torch=True)
@steady
def throughput(
    sources: Sources = None,
    size: SizeFlag = None,
    batch: Batches = "1,4",
    streams: Annotated[
        str, typer.Option(metavar="N[,N]", help="Instances of a network that work at a time, or several numbers.")
    ] = "1,2",
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(help="Measuring time of each backend at each setting.")] = 3.0,
    rounds: Rounds = 5,
    *,
    options: "RuntimeOptions",
    out: Out = None,
    seed: Seed = 0,
) -> "ThroughputRecord":
    """Count images per second over batches and streams: what a server gets, where latency is what a camera sees."""
    from .record import Effort
    from .throughput import bench_throughput, show_throughput

    result = bench_throughput(
        sources or None,
        size=read_size(size),
        batches=read_numbers(batch, "--batch"),
        streams=read_numbers(streams, "--streams"),
        effort=Effort(seconds, rounds=rounds, threads=threads, seed=seed),
        options=options,
        out=out,
    )
    show_throughput(result)
    return result


@takes_runtime_options()
@steady
def memory(
    sources: Sources = None,
    size: SizeFlag = None,
    batch: Batches = "1",
    threads: Threads = None,
    runs: Annotated[int, typer.Option(min=1, help="Queries until the peak is read.")] = 3,
    *,
    options: "RuntimeOptions",
    out: Out = None,
    seed: Seed = 0,
) -> "MemoryRecord":
    """Read what each network adds to an idle process, opened and at its peak, and its size on disk."""
    from .memory import bench_memory, show_memory
    from .record import Effort

    result = bench_memory(
        sources or None,
        size=read_size(size),
        batches=read_numbers(batch, "--batch"),
        effort=Effort(runs=runs, threads=threads, seed=seed),
        options=options,
        out=out,
    )
    show_memory(result)
    return result


def params(networks: Networks = None, classes: Classes = None, stride: Stride = None) -> Costs:
    """Count the parameters of networks, with and without the auxiliary head."""
    return _count(networks, classes, None, stride, None)


def flops(
    networks: Networks = None,
    classes: Classes = None,
    size: SizeFlag = None,
    stride: Stride = None,
    counter: Annotated[
        str,
        typer.Option("--flops-counter", help="true, or cirkd for the numbers as that family of papers prints them."),
    ] = "true",
) -> Costs:
    """Count multiply-adds (MACs) and FLOPs = 2 x MACs of networks for one image."""
    return _count(networks, classes, size, stride, counter)


def _count(
    networks: list[str] | None,
    classes: int | None,
    size: str | None,
    stride: int | None,
    counter: str | None,
) -> Costs:
    from .costs import CONVENTIONS, count, show_costs

    costs = count(networks or None, classes=classes, size=read_size(size), output_stride=stride, counter=counter)
    show_costs(costs)
    return Costs("flops" if counter else "params", CONVENTIONS[counter] if counter else None, costs)


@takes("data", EvaluationData)
@takes_runtime_options()
@steady
def accuracy(
    sources: Sources = None,
    *,
    data: EvaluationData,
    size: SizeFlag = None,
    options: "RuntimeOptions",
    out: Out = None,
) -> "AccuracyRecord":
    """Evaluate torch and every exported file of a run on the same images: mIoU, boundaries, pixel accuracy."""
    from .accuracy import bench_accuracy, show_accuracy

    result = bench_accuracy(sources or None, data, size=read_size(size), options=options, out=out)
    show_accuracy(result)
    return result


@takes("data", EvaluationData)
@takes_runtime_options()
@steady
def tradeoff(
    sources: Sources = None,
    *,
    data: EvaluationData,
    size: SizeFlag = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per query, of the latency.")] = 1,
    threads: Threads = None,
    seconds: Seconds = 6.0,
    runs: Runs = 100,
    rounds: Rounds = 10,
    options: "RuntimeOptions",
    out: Out = None,
    seed: Seed = 0,
) -> "TradeoffRecord":
    """Set mIoU against latency, FLOPs and parameters, and mark what nothing else beats: table, CSV and SVG.

    Without a name: the last run, the student alone and the teacher it came from, each with its exported files.
    """
    from .record import Effort
    from .tradeoff import bench_tradeoff, show_tradeoff

    effort = Effort(seconds, runs, rounds, threads=threads, seed=seed)
    result = bench_tradeoff(sources or None, effort, data, size=read_size(size), batch=batch, options=options, out=out)
    show_tradeoff(result)
    return result
