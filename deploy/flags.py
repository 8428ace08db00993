"""Flags that several commands of this room share."""

from typing import Annotated, Any

import typer

from ..distill.errors import UsageError

SizeFlag = Annotated[str | None, typer.Option("--size", metavar="HxW", help="Input size.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Provider = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="What runs ONNX files: openvino, or a provider such as CUDAExecutionProvider."),
]
Trust = Annotated[bool, typer.Option("--trust", help="Run engines and packages that kdc did not build.")]
Buffers = Annotated[
    str, typer.Option(metavar="auto|pycuda|cuda-python|torch", help="What keeps the GPU memory of TensorRT engines.")
]
CudaGraph = Annotated[bool, typer.Option("--cuda-graph/--no-cuda-graph", help="Start engines as one CUDA graph.")]
Data = Annotated[str | None, typer.Option(metavar="NAME|DIR", help="Data; those of the first run if not named.")]
Split = Annotated[str, typer.Option(help="Split of the data.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]


def described(data: str | None, classes: int | None, ignore_index: int | None) -> dict[str, Any]:
    """Return the options of ``open_data`` that were typed; they go with ``data`` alone (UsageError)."""
    typed = (("classes", classes), ("ignore_index", ignore_index))
    options = {key: value for key, value in typed if value is not None}
    if options and data is None:
        raise UsageError("--classes and --ignore-index describe --data DIR; name the data too")
    return options


def _numbers(text: str, flag: str) -> list[int]:
    """Read ``1,8``."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{flag} '{text}' is no number and no list of numbers, such as 1,8") from error
    if min(numbers) < 1:
        raise UsageError(f"{flag} '{text}': every number must be above 0")
    return list(dict.fromkeys(numbers))


def _size(text: str | None) -> tuple[int, int] | None:
    from ..distill.settings.config import parse_size

    return parse_size(text) if text else None


def _sizes(text: str | None) -> list[tuple[int, int] | None]:
    """Read ``512x1024,360x480``."""
    return list(dict.fromkeys(_size(part) for part in text.split(","))) if text else [None]


Tile = Annotated[
    str,
    typer.Option(
        metavar="off|auto|HxW",
        help="Take larger images in overlapping windows: auto is the size that the network is for.",
    ),
]
Overlap = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Share of a window that the next one covers again (default 1/3).")
]
Blend = Annotated[
    str | None,
    typer.Option(
        metavar="smooth|uniform",
        help="How windows share a pixel: fading into each other (default), or the plain mean of published evaluations.",
    ),
]
