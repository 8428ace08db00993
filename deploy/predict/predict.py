"""Masks, overlays and a table of classes for images, videos, cameras and streams."""

import contextlib
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...distill import console
from ...distill.data._files import default_palette
from ...distill.errors import DataError, KdcError, ResourceError, UsageError
from ...distill.run.folder import LAST, RUNS, Run, find_run
from ...distill.training.signals import Signals
from ..artefacts.beside import MODEL_FILES
from ..runtimes.options import CPU, RuntimeOptions
from .inputs import Frame, Source, is_source, open_sources
from .outputs import ClassTable, Drawings
from .pipeline import Ahead, Behind
from .segmenter import Segmenter, Windows, locate, open_segmenter

#: seconds between two lines about a source that has no end
_PULSE = 5.0


class Stopped(KdcError):
    """A signal ended a prediction; what was done until then is whole."""

    def __init__(self, name: str, result: dict[str, Any]) -> None:
        super().__init__(f"stopped by {name}; {_kept(result)}")
        self.exit_code = 128 + signal.Signals[name].value


def settle(result: dict[str, Any]) -> None:
    """Raise what a prediction did not come to its end by.

    Raises:
        Stopped: a signal ended it.
        DataError: an image that cannot be read, or a video that breaks off; the others are done.
    """
    if result["stopped"]:
        raise Stopped(result["stopped"], result)
    problems = result["problems"]
    for problem in problems if len(problems) > 1 else ():
        console.warn(problem)
    if problems:
        others = f"; {len(problems) - 1} more could not be read whole either" if len(problems) > 1 else ""
        raise DataError(f"{problems[0]}{others}; {_kept(result)}")


def _kept(result: dict[str, Any]) -> str:
    return f"{_frames_of(result)} done, in {result['out']}" if result["frames"] else "nothing was done"


def _frames_of(result: dict[str, Any]) -> str:
    return f"{result['frames']} frame{'s' * (result['frames'] != 1)}"


def part(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Tell the network from what it is to look at: the first word where it names one, else None (the last run).

    Raises:
        UsageError: nothing to look at, or a first word that is neither.
    """
    first, rest = words[0], list(words[1:])
    if names_network(first):
        if not rest:
            raise UsageError(f"nothing to look at; add images, a folder, a video or a camera: kdc predict {first} SRC")
        return first, rest
    if rest and not is_source(first):
        find_run(first)  # says what runs there are
    return None, [first, *rest]


def names_network(word: str) -> bool:
    """Tell whether a word is a run or a file that holds a network, whether it is there or not."""
    if "://" in word:
        return False
    folders = (Path(word), RUNS / word)
    return word == LAST or Path(word).suffix.lower() in MODEL_FILES or any((f / "run.json").exists() for f in folders)


def predict(
    network: str | Path | Run | None,
    sources: Sequence[str],
    *,
    out: Path | None = None,
    masks: bool | None = None,
    overlay: bool = True,
    colour: bool = False,
    alpha: float = 0.5,
    stream: bool = False,
    every: int = 1,
    limit: int | None = None,
    options: RuntimeOptions = CPU,
    size: tuple[int, int] | None = None,
    windows: Windows | None = None,
) -> dict[str, Any]:
    """Segment images, videos, cameras and streams.

    Args:
        network: a run, a checkpoint, an ONNX file or what else ``open_runtime`` opens; None is the last run.
        sources: what to look at, see ``open_sources``.
        out: folder of the results (default: ``predict/`` of the run, or here where a file was named).
        masks: write class numbers as indexed PNG; None for images but not for videos.
        overlay: write the picture under its classes' colours.
        colour: write the colours alone.
        alpha: share of the colours in the overlay.
        stream: read ahead and write behind in threads of their own; cameras and streams always do.
        every: take every so many-th image of a folder and frame of a video.
        limit: at most so many of each source.
        options: what runs it, and on which device.
        size: input height and width, for a file that leaves them free.
        windows: take larger images in tiles.

    Returns:
        Plain values: what ran, where the results are, counts, speed, ``classes`` with their share of all pixels,
        ``earlier`` (how many files of other predictions lie there still), ``problems`` (what could not be read, in
        words) and ``stopped`` (the name of a signal, or None).

    Raises:
        UsageError: flags that do not fit, or an output folder that cannot be made.
        DataError: nothing to look at.
        WeightsError: a broken file, or a network that must be shown the label.
        ExportError: a device, provider or runtime that is not to be had here.
    """
    chosen, _ = locate(network)
    opened = open_sources(sources, every, limit)
    segmenter = open_segmenter(chosen, options=options, size=size, windows=windows, resize=True)
    classes = segmenter.classes or tuple(f"class {k}" for k in range(segmenter.num_classes or 256))
    folder = out or (chosen.path / "predict" if isinstance(chosen, Run) else Path("predict"))
    try:
        table = ClassTable(folder / "classes.csv", classes)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{folder} is no folder and none can be made there; name another --out") from error
    # an index without a colour would be cut off in the PNG
    palette = (*segmenter.palette, *default_palette(len(classes))[len(segmenter.palette) :])
    drawings = Drawings(folder, palette, masks=masks, overlay=overlay, colour=colour, alpha=alpha)
    try:
        facts = _work(opened, segmenter, table, drawings, stream or any(source.live for source in opened))
    finally:
        drawings.close()
        table.close()
        segmenter.close()
    result = {
        "network": str(chosen.path if isinstance(chosen, Run) else chosen),
        **segmenter.facts,
        "out": str(folder),
        "table": str(table.path),
        "written": drawings.counts,
        "earlier": drawings.older_than(table.born),
        **facts,
        "classes": {name: round(float(share), 6) for name, share in zip(classes, table.shares, strict=True)},
        "problems": [source.problem for source in opened if source.problem],
    }
    _say(result, table)
    return result


def _say(result: dict[str, Any], table: ClassTable) -> None:
    if not result["frames"]:
        return
    table.show(result["frames"])
    written = ", ".join(f"{count} of {kind}/" for kind, count in result["written"].items() if count)
    console.say(f"{result['out']}: {written + ', ' if written else ''}classes.csv")
    console.say(
        f"{_frames_of(result)} in {result['seconds']:.1f} s: {result['frames_per_second']:.1f} frames/s; of each, "
        f"{result['network_ms']:.0f} ms from pixels to mask ({result['ran_on']})"
    )
    if result["earlier"]:
        said = f"{result['earlier']} file{'s' * (result['earlier'] != 1)} of earlier predictions"
        console.note(f"{result['out']}: {said} still there, not in classes.csv; another --out keeps them apart")
    if result["dropped"]:
        console.warn(f"{result['dropped']} frames came too fast and were dropped: what is made of them plays too fast")


def _work(
    sources: list[Source], segmenter: Segmenter, table: ClassTable, drawings: Drawings, overlapped: bool
) -> dict[str, Any]:
    """Take every frame through the network, in turn or with reading and writing in threads of their own."""

    def write(item: tuple[Frame, np.ndarray]) -> None:
        drawings.draw(*item)
        table.add(*item)

    done, network, start = 0, 0.0, time.perf_counter()
    with Signals() as signals, _meter(sources) as update:
        frames = _frames(sources)
        ahead = Ahead(frames, lambda frame: frame.live, lambda: bool(signals.number)) if overlapped else None
        behind = Behind(write) if overlapped else None
        with contextlib.closing(frames if ahead is None else iter(ahead)) as turns:
            try:
                for frame in turns:
                    before = time.perf_counter()
                    mask = _mask(segmenter, frame)
                    network += time.perf_counter() - before
                    (behind or write)((frame, mask))
                    done += 1
                    update(done, f"{done / (time.perf_counter() - start):.1f} frames/s")
                    if signals.number:
                        break
            finally:
                if behind is not None:
                    behind.close()
        drawings.close()
        seconds = time.perf_counter() - start
    return {
        "frames": done,
        "dropped": ahead.dropped if ahead is not None else 0,
        "seconds": round(seconds, 3),
        "frames_per_second": round(done / seconds, 2),
        "network_ms": round(1000 * network / done, 3) if done else None,
        "stopped": signal.Signals(signals.number).name if signals.number else None,
    }


def _mask(segmenter: Segmenter, frame: Frame) -> np.ndarray:
    try:
        return segmenter.predict(frame.pixels)
    except (MemoryError, RuntimeError) as error:
        named = type(error).__name__ in ("MemoryError", "OutOfMemoryError")
        if not named and "can't allocate memory" not in str(error):
            raise
        height, width = frame.pixels.shape[:2]
        raise ResourceError(
            f"out of memory on {frame.source}, {height}x{width}; take it in tiles: --tile auto, or --tile HxW"
        ) from error


def _frames(sources: list[Source]) -> Generator[Frame]:
    for source in sources:
        yield from source.frames()


@contextlib.contextmanager
def _meter(sources: list[Source]) -> Iterator[Callable[[int, str], None]]:
    """Give ``update(done, text)``: a bar where it is known how many frames come, else a line now and then."""
    totals = [source.total for source in sources]
    if None not in totals:
        with console.bar(sum(n or 0 for n in totals), "predicting") as update:
            yield update
        return
    said = time.monotonic()

    def line(done: int, text: str) -> None:
        nonlocal said
        if time.monotonic() - said > _PULSE:
            said = time.monotonic()
            console.say(f"predicting {done} {text}")

    yield line
