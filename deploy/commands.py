"""The commands of this room: ``kdc bench``, ``eval``, ``report``, ``compare``, ``verify`` and ``doctor``."""

from pathlib import Path
from typing import Annotated

import typer

from ..distill import console
from ..distill.errors import UsageError
from .compare_command import compare
from .verify_command import verify

Sources = Annotated[
    list[str] | None, typer.Argument(metavar="[RUN|FILE]...", help="Runs and files; the last run if not named.")
]
Networks = Annotated[
    list[str] | None, typer.Argument(metavar="[RUN|MODEL]...", help="Runs and model names; the last run if not named.")
]
SizeFlag = Annotated[str | None, typer.Option("--size", metavar="HxW", help="Input size.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Provider = Annotated[
    str | None, typer.Option(metavar="NAME", help="ONNX Runtime provider, such as CUDAExecutionProvider.")
]
Classes = Annotated[int | None, typer.Option(min=1, help="Classes of models given by name (default 19).")]
Stride = Annotated[
    int | None,
    typer.Option("--output-stride", help="Output stride of models given by name: 8, 16 or the architecture's own."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]


def register(app: typer.Typer) -> None:
    """Add this room's commands to the command line."""
    group = typer.Typer(
        help="Measure latency, count parameters and FLOPs.", no_args_is_help=True, rich_markup_mode=None
    )
    group.command("latency")(latency)
    group.command("params")(params)
    group.command("flops")(flops)
    app.add_typer(group, name="bench")
    app.command("eval")(evaluate)
    app.command("report")(report)
    app.command("compare")(compare)
    app.command("verify")(verify)
    app.command("doctor")(doctor)


def latency(
    sources: Sources = None,
    size: SizeFlag = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per query.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of every backend (default: all cores).")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Measuring time of each backend.")] = 6.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often the backends take turns.")] = 10,
    mode: Annotated[str, typer.Option(help="net (the network alone) or e2e (uint8 image in, mask out).")] = "net",
    device: Device = "cpu",
    provider: Provider = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the record goes (default: bench/ of the run).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the input images.")] = 0,
    json: Json = False,
) -> None:
    """Time torch and every exported file of a run side by side, in interleaved rounds."""
    from ..distill.config import parse_size
    from .latency import bench_latency, show

    console.json_mode = json
    result = bench_latency(
        sources or None,
        size=parse_size(size) if size else None,
        batch=batch,
        threads=threads,
        seconds=seconds,
        rounds=rounds,
        mode=mode,
        device=device,
        provider=provider,
        out=out,
        seed=seed,
    )
    show(result)
    if json:
        console.emit(result)


def params(networks: Networks = None, classes: Classes = None, stride: Stride = None, json: Json = False) -> None:
    """Count the parameters of networks, with and without the auxiliary head."""
    _count(networks, classes, None, stride, None, json)


def flops(
    networks: Networks = None,
    classes: Classes = None,
    size: SizeFlag = None,
    stride: Stride = None,
    counter: Annotated[
        str,
        typer.Option("--flops-counter", help="true, or cirkd for the numbers as that family of papers prints them."),
    ] = "true",
    json: Json = False,
) -> None:
    """Count multiply-adds (MACs) and FLOPs = 2 x MACs of networks for one image."""
    _count(networks, classes, size, stride, counter, json)


def _count(
    networks: list[str] | None,
    classes: int | None,
    size: str | None,
    stride: int | None,
    counter: str | None,
    json: bool,
) -> None:
    from ..distill.config import parse_size
    from .costs import CONVENTIONS, count, show

    console.json_mode = json
    rows = count(
        networks or None,
        classes=classes,
        size=parse_size(size) if size else None,
        output_stride=stride,
        counter=counter,
    )
    show(rows)
    if json:
        convention = {"convention": CONVENTIONS[counter]} if counter else {}
        console.emit({"kind": "flops" if counter else "params", **convention, "networks": rows})


def evaluate(
    source: Annotated[
        str | None,
        typer.Argument(metavar="[RUN|FILE]", help="Run, checkpoint or ONNX file; the last run if not named."),
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="NAME|DIR", help="Data; those of the run if not named.")] = None,
    split: Annotated[str, typer.Option(help="Split of the data.")] = "val",
    classes: Annotated[int | None, typer.Option(min=1, help="Number of classes of a folder of masks.")] = None,
    ignore_index: Annotated[int | None, typer.Option(help="Label value in the files that counts nowhere.")] = None,
    device: Device = "cpu",
    provider: Provider = None,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Input size, for an ONNX file that leaves it free.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = None,
    json: Json = False,
) -> None:
    """Judge a network on whole images: mIoU, per-class IoU, boundaries, pixel accuracy."""
    from ..distill.config import parse_size
    from .accuracy import evaluate_source, show

    console.json_mode = json
    options = {key: value for key, value in (("classes", classes), ("ignore_index", ignore_index)) if value is not None}
    if options and data is None:
        raise UsageError("--classes and --ignore-index describe --data DIR; name the data too")
    result = evaluate_source(
        source,
        data=data,
        split=split,
        device=device,
        provider=provider,
        size=parse_size(size) if size else None,
        limit=limit,
        **options,
    )
    show(result)
    if json:
        console.emit(result)


def report(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Run folder or name; the last run if not named.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="RUN", help="Compare with this run (default: the run's own baseline).")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="[TAP]",
            help="Draw where a feature is active in each network; the one that the method compares if not named.",
        ),
    ] = None,
    others: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="RUN", help="Picture this run's network, too; may be given several times."),
    ] = None,
    json: Json = False,
) -> None:
    """Write one HTML file with everything that is known about a run."""
    from ..distill.run import find_run
    from .report import write_report

    console.json_mode = json
    path = write_report(
        find_run(run),
        baseline=find_run(baseline) if baseline else None,
        features=features,
        others=[find_run(other) for other in others or ()],
    )
    console.say(f"report: {path}")
    if json:
        console.emit({"path": str(path)})


def doctor(json: Json = False) -> None:
    """Say what this machine has, what it lacks, and the command that cures it."""
    from .doctor import examine, show

    console.json_mode = json
    result = examine()
    show(result)
    if json:
        console.emit(result)
