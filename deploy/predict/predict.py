"""Masks, overlays and a table of classes for images, videos, cameras and streams."""

import contextlib
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...distill import console
from ...distill.data._codes import default_palette
from ...distill.data._depth import find_bits
from ...distill.errors import DataError, KdcError, ResourceError, UsageError
from ...distill.run.folder import LAST, RUNS, Run, find_run
from ...distill.run.records import Record
from ...distill.training.signals import Signals
from ...distill.units import milliseconds, number
from ..artefacts.beside import MODEL_FILES
from ..runtimes.options import CPU, RuntimeOptions
from .inputs import Frame, Picture, Source, is_source, open_sources
from .outputs import ClassTable, Drawings
from .pipeline import Ahead, Behind
from .segmenter import Ran, Segmenter, Windows, locate, open_segmenter

#: seconds between two lines about a source that has no end
_PULSE = 5.0


@dataclass(frozen=True)
class Work(Record):
    """What a prediction did: frames, seconds, milliseconds of the network per frame, and the signal that ended it."""

    frames: int
    dropped: int
    seconds: float
    frames_per_second: float
    network_ms: float | None
    stopped: str | None


@dataclass(frozen=True)
class Prediction(Record):
    """The result of a prediction.

    Attributes:
        network: path of the run or file.
        ran: what ran it.
        out: folder of the results.
        table: ``classes.csv`` in it.
        written: how many files of each kind.
        earlier: how many files of other predictions are still in the folder.
        work: counts and speed.
        classes: share of each class in all pixels.
        problems: what could not be read, in words.
    """

    MERGED = ("ran", "work")

    network: str
    ran: Ran
    out: str
    table: str
    written: dict[str, int]
    earlier: int
    work: Work
    classes: dict[str, float]
    problems: list[str]

    @property
    def frames(self) -> str:
        """How many frames are done, in words."""
        return console.plural(self.work.frames, "frame")

    @property
    def summary(self) -> str:
        """What is done, and where it is."""
        return f"{self.frames} done, in {self.out}" if self.work.frames else "nothing was done"


class Stopped(KdcError):
    """A signal ended a prediction; what was done until then is whole."""

    def __init__(self, name: str, prediction: Prediction) -> None:
        super().__init__(f"stopped by {name}; {prediction.summary}", prediction)
        self.exit_code = 128 + signal.Signals[name].value


def raise_early_end(prediction: Prediction) -> None:
    """Raise the error that ended a prediction early, if any.

    Raises:
        Stopped: a signal ended it.
        DataError: an image that cannot be read, or a video that breaks off; the others are done. Both carry the
            prediction as their ``record``.
    """
    if prediction.work.stopped:
        raise Stopped(prediction.work.stopped, prediction)
    problems = prediction.problems
    for problem in problems if len(problems) > 1 else ():
        console.warn(problem)
    if problems:
        others = f"; {len(problems) - 1} more could not be read whole either" if len(problems) > 1 else ""
        raise DataError(f"{problems[0]}{others}; {prediction.summary}", prediction)


def split_words(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split the network from the sources: the first word where it names a network, else None (the last run).

    Raises:
        UsageError: no source, or a first word that is neither.
    """
    first, rest = words[0], list(words[1:])
    if names_network(first):
        if not rest:
            raise UsageError(f"nothing to look at; add images, a folder, a video or a camera: kdc predict {first} SRC")
        return first, rest
    if rest and not is_source(first):
        find_run(first)  # its error lists the runs
    return None, [first, *rest]


def names_network(word: str) -> bool:
    """Tell whether a word is a run, or the name of a file of a network, which need not exist."""
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
    legend: bool = True,
    stream: bool = False,
    every: int = 1,
    limit: int | None = None,
    options: RuntimeOptions = CPU,
    size: tuple[int, int] | None = None,
    windows: Windows | None = None,
    bits: int | None = None,
) -> Prediction:
    """Segment images, videos, cameras and streams.

    Args:
        network: a run, a checkpoint, an ONNX file or what else ``open_runtime`` opens; None is the last run.
        sources: what to segment, see ``open_sources``.
        out: folder of the results (default: ``predict/`` of the run, or here for a file).
        masks: write class numbers as indexed PNG; None for images but not for videos.
        overlay: write the picture under its classes' colours.
        colour: write the colours alone.
        alpha: share of the colours in the overlay.
        legend: name the classes below each overlay.
        stream: read ahead and write behind in threads of their own; cameras and streams always do.
        every: take every so many-th image of a folder and frame of a video.
        limit: at most so many of each source.
        options: what runs it, and on which device.
        size: input height and width, for a file that leaves them free.
        windows: how images that the network is not made for are taken (default: as its file declares).
        bits: that the values of 16-bit images have (default: those that the network learned from, else 16).

    Returns:
        The result, of the part that was done where it ended early; see ``raise_early_end``.

    Raises:
        UsageError: flags that do not fit, or an output folder that cannot be made.
        DataError: no image or video.
        WeightsError: a broken file, or a network that must be shown the label.
        ExportError: the device, provider or runtime is not available.
    """
    source, _ = locate(network)
    inputs = open_sources(sources, every, limit)
    segmenter = open_segmenter(source, options=options, size=size, windows=windows)
    _set_bits(inputs, bits, segmenter.bits)

    classes = segmenter.classes or tuple(f"class {k}" for k in range(segmenter.num_classes or 256))
    folder = out or (source.path / "predict" if isinstance(source, Run) else Path("predict"))
    try:
        table = ClassTable(folder / "classes.csv", classes)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{folder} is no folder and none can be made there; name another --out") from error
    # an index without a colour would be cut off in the PNG
    palette = (*segmenter.palette, *default_palette(len(classes))[len(segmenter.palette) :])
    drawings = Drawings(
        folder, classes, palette, masks=masks, overlay=overlay, colour=colour, alpha=alpha, legend=legend
    )

    try:
        work = _segment(inputs, segmenter, table, drawings, stream or any(each.live for each in inputs))
    finally:
        drawings.close()
        table.close()
        segmenter.close()

    prediction = Prediction(
        network=str(source.path if isinstance(source, Run) else source),
        ran=segmenter.ran,
        out=str(folder),
        table=str(table.path),
        written=drawings.counts,
        earlier=drawings.older_than(table.born),
        work=work,
        classes={name: round(float(share), 6) for name, share in zip(classes, table.shares, strict=True)},
        problems=[each.problem for each in inputs if each.problem],
    )
    _show_prediction(prediction, table)
    return prediction


def _set_bits(inputs: list[Source], asked: int | None, learned: int | None) -> None:
    """Read 16-bit images as those that the network learned from; warn where that is not known and may be wrong."""
    pictures = [each for each in inputs if isinstance(each, Picture)]
    bits = asked or learned
    for each in pictures:
        each.bits = bits
    if bits is None:
        used, line = find_bits([each.path for each in pictures])
        if used and used < 16:
            console.warn(
                f"{line.partition(':')[0]}, and the network does not say what it learned from: they are read as 16 "
                f"bits, which may be too dark; --bits {used} reads them as {used}"
            )
    elif find_bits([each.path for each in pictures])[0]:
        console.note(f"images of 16 bits are read as {bits} bits, {'as asked' if asked else 'as the network learned'}")


def _show_prediction(prediction: Prediction, table: ClassTable) -> None:
    work, out = prediction.work, prediction.out
    if not work.frames:
        return

    table.show_shares(work.frames)
    written = ", ".join(f"{count} of {kind}/" for kind, count in prediction.written.items() if count)
    console.say(f"{out}: {written + ', ' if written else ''}classes.csv")
    console.say(
        f"{prediction.frames} in {work.seconds:.1f} s: {number(work.frames_per_second)} frames/s; of each, "
        f"{milliseconds(work.network_ms or 0.0)} from pixels to mask ({prediction.ran.ran_on})"
    )
    if prediction.earlier:
        files = f"{console.plural(prediction.earlier, 'file')} of earlier predictions"
        console.note(f"{out}: {files} still there, not in classes.csv; another --out keeps them apart")
    if work.dropped:
        console.warn(f"{work.dropped} frames came too fast and were dropped: a video made of the rest plays too fast")


def _segment(
    sources: list[Source], segmenter: Segmenter, table: ClassTable, drawings: Drawings, overlapped: bool
) -> Work:
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

    return Work(
        frames=done,
        dropped=ahead.dropped if ahead is not None else 0,
        seconds=round(seconds, 3),
        frames_per_second=round(done / seconds, 2),
        network_ms=round(1000 * network / done, 3) if done else None,
        stopped=signal.Signals(signals.number).name if signals.number else None,
    )


def _mask(segmenter: Segmenter, frame: Frame) -> np.ndarray:
    try:
        return segmenter.predict(frame.pixels)
    except (MemoryError, RuntimeError) as error:
        by_name = type(error).__name__ in ("MemoryError", "OutOfMemoryError")
        if not by_name and "can't allocate memory" not in str(error):
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
    """Give ``update(done, text)``: a bar where the number of frames is known, else a line now and then."""
    totals = [source.total for source in sources]
    if None not in totals:
        with console.bar(sum(n or 0 for n in totals), "predicting") as update:
            yield update
        return
    last = time.monotonic()

    def line(done: int, text: str) -> None:
        nonlocal last
        if time.monotonic() - last > _PULSE:
            last = time.monotonic()
            console.say(f"predicting {done} {text}")

    yield line
