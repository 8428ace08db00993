"""The command ``kdc predict``: a network's masks on images, videos, cameras and streams."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..flags import Blend, FitFlag, Overlap, Tile, read_size, takes_runtime_options

if TYPE_CHECKING:
    from ..runtimes.options import RuntimeOptions
    from .predict import Prediction


@takes_runtime_options(split=True)
def predict(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN|FILE] SRC",
            help="The network (the last run if not named), then images, folders, quoted patterns, videos, camera "
            "numbers and addresses of streams.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where to write the results (default: predict/ of the run; ./predict for a file)."
        ),
    ] = None,
    masks: Annotated[
        bool | None,
        typer.Option(
            "--masks/--no-masks",
            help="Class numbers as indexed PNG (default: of images, but not of every video frame).",
        ),
    ] = None,
    overlay: Annotated[bool, typer.Option("--overlay/--no-overlay", help="The picture under its colours.")] = True,
    colour: Annotated[bool, typer.Option("--colour/--no-colour", help="The colours alone.")] = False,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Share of the colours in the overlay.")] = 0.5,
    legend: Annotated[
        bool, typer.Option("--legend/--no-legend", help="Names of the classes below each overlay.")
    ] = True,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Read ahead and write behind while the network works, 4 frames each; cameras and streams always do, "
            "and drop the oldest frame where the network is slower.",
        ),
    ] = False,
    every: Annotated[
        int, typer.Option(min=1, metavar="N", help="Every N-th image of a folder and frame of a video.")
    ] = 1,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="At most N of each SRC.")] = None,
    tile: Tile = "off",
    overlap: Overlap = None,
    blend: Blend = None,
    fit: FitFlag = None,
    *,
    options: "RuntimeOptions",
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Input size, for an ONNX file that leaves it free.")
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(
            min=8, max=16, metavar="N", help="Bits that 16-bit images use (default: as those that were learned from)."
        ),
    ] = None,
) -> "Prediction":
    """Segment images, videos, cameras and streams: masks, overlays and the share of each class."""
    from .predict import predict as run_prediction
    from .predict import raise_early_end, split_words
    from .segmenter import Windows

    network, sources = split_words(words)
    prediction = run_prediction(
        network,
        sources,
        out=out,
        masks=masks,
        overlay=overlay,
        colour=colour,
        alpha=alpha,
        legend=legend,
        stream=stream,
        every=every,
        limit=limit,
        options=options,
        size=read_size(size),
        windows=Windows.from_flags(tile, overlap, blend, fit),
        bits=bits,
    )
    raise_early_end(prediction)
    return prediction
