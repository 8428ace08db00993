"""Flags that several commands of this room share."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ..distill.commands.flags import takes
from ..distill.errors import UsageError, closest

if TYPE_CHECKING:
    from .runtimes.options import RuntimeOptions
    from .runtimes.said import Said

R = TypeVar("R")

SizeFlag = Annotated[str | None, typer.Option("--size", metavar="HxW", help="Input size.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Provider = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="What runs ONNX files: openvino, or a provider such as CUDAExecutionProvider."),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run engines and packages (native code) that neither you nor a key of kdc trust ls signed."
    ),
]
Buffers = Annotated[
    str,
    typer.Option(
        metavar="auto|pycuda|cuda-python|torch", help="Library that keeps the GPU memory of TensorRT engines."
    ),
]
CudaGraph = Annotated[bool, typer.Option("--cuda-graph/--no-cuda-graph", help="Start engines as one CUDA graph.")]
TorchModes = Annotated[
    str,
    typer.Option(
        "--torch",
        metavar="WAY[:TYPE][,...]",
        help="How torch is timed: eager (its default layout), channels-last or compiled, in fp32, fp16 or bf16, such "
        "as eager,compiled:bf16; the first is what the others are compared with.",
    ),
]
Tile = Annotated[
    str,
    typer.Option(
        metavar="off|auto|HxW",
        help="Segment larger images in overlapping windows; auto takes the network's own size.",
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
FitFlag = Annotated[
    str | None,
    typer.Option(
        "--fit",
        metavar="pad|resize|tile",
        help="How a file takes images that it is not made for: shrunk with their shape kept and padded, resized, or in "
        "tiles (default: as it declares; pad where it does not).",
    ),
]

OutputName = Annotated[
    str | None, typer.Option("--output-name", metavar="NAME", help="Output of a file that holds the answer.")
]
Layout = Annotated[
    str | None, typer.Option(metavar="nchw|nhwc", help="Of a file's output: classes before rows and columns, or after.")
]
ScoresFlag = Annotated[
    str | None, typer.Option("--scores", metavar="logits|probs|labels", help="What a file's output holds.")
]
Mean = Annotated[
    str | None, typer.Option(metavar="A,B,C", help="What a file wants subtracted from its colours, after --scale.")
]
Std = Annotated[str | None, typer.Option(metavar="A,B,C", help="What it wants its colours divided by after that.")]
Scale = Annotated[
    str | None, typer.Option(metavar="X", help="What it wants bytes multiplied by first, such as 1/255 (default 1).")
]
Bgr = Annotated[bool | None, typer.Option("--bgr/--rgb", help="Order of the colours that a file wants.")]


def said(
    output_name: OutputName = None,
    layout: Layout = None,
    scores: ScoresFlag = None,
    mean: Mean = None,
    std: Std = None,
    scale: Scale = None,
    bgr: Bgr = None,
) -> "Said":
    """Read what is said of a file (UsageError)."""
    from .runtimes.said import LAYOUTS, SCORES, Said, preprocess_of

    for flag, value, accepted in (("--layout", layout, LAYOUTS), ("--scores", scores, SCORES)):
        if value is not None and value not in accepted:
            raise UsageError(f"{flag} {value!r}: accepted are {', '.join(accepted)}{closest(value, accepted)}")
    order = None if bgr is None else "bgr" if bgr else "rgb"
    preprocess = preprocess_of(mean, std, scale, order or "rgb")
    return Said(output_name, layout, scores, preprocess, None if preprocess else order)


def takes_said(function: Callable[..., R]) -> Callable[..., R]:
    """Give a command the flags of ``said`` where its parameter ``said`` is, which gets their value."""
    return takes("said", said)(function)


@takes_said
def runtime_options(
    device: Device = "cpu",
    provider: Provider = None,
    trust: Trust = False,
    buffers: Buffers = "auto",
    cuda_graph: CudaGraph = False,
    *,
    said: "Said",
    torch_mode: TorchModes = "channels-last",
) -> "RuntimeOptions":
    """Build the options from their flags."""
    from .runtimes.options import RuntimeOptions

    return RuntimeOptions(device, provider, trust, buffers, cuda_graph, torch_mode, said)


def takes_runtime_options(torch: bool = False, split: bool = False) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command the flags of ``runtime_options`` where its parameter ``options`` is, which gets their value.

    Args:
        torch: with ``--torch``.
        split: the flags after ``--provider`` come last.
    """
    flags = [*inspect.signature(runtime_options).parameters.values()]
    return takes("options", runtime_options, flags if torch else flags[:-1], 2 if split else None)


def steady(command: Callable[..., R]) -> Callable[..., R]:
    """Let a command find the exported files of the runs that it names as they are to its end; see ``reading``."""

    @functools.wraps(command)
    def working(*arguments: Any, **flags: Any) -> R:
        from .artefacts.lock import reading

        named = [*arguments, *(flags.get(name) for name in ("sources", "first", "second"))]
        sources = [each for some in named for each in (some if isinstance(some, list | tuple) else [some])]
        with reading([source for source in sources if isinstance(source, str | Path)] or [None]):
            return command(*arguments, **flags)

    return working


def read_numbers(text: str, flag: str) -> list[int]:
    """Read ``1,8``."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{flag} '{text}' is no number and no list of numbers, such as 1,8") from error
    if min(numbers) < 1:
        raise UsageError(f"{flag} '{text}': every number must be above 0")
    return list(dict.fromkeys(numbers))


def read_size(text: str | None) -> tuple[int, int] | None:
    """Read ``512x1024``, if anything."""
    from ..distill.settings.config import parse_size

    return parse_size(text) if text else None


def read_sizes(text: str | None) -> list[tuple[int, int] | None]:
    """Read ``512x1024,360x480``."""
    return list(dict.fromkeys(read_size(part) for part in text.split(","))) if text else [None]
