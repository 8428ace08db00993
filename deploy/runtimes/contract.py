"""What a file's output means: which one it is, where its classes are, and whether it holds scores or labels.

It is settled here for every kind of file, from what the user says, what the file says, its sizes and the nodes at its
end, in this order; where two readings are left, the user is asked. How each was settled is kept with it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...distill.errors import UsageError, WeightsError, closest
from .answer import MOST_CLASSES, Answer, Port
from .said import NOTHING, Said
from .trail import Trail

#: an output may be this many times smaller than the input
_LEAST = 64

#: what a network gives for an input of a size: the shape of each output, by name
Probe = Callable[[], Mapping[str, tuple[int, ...]]]


@dataclass(frozen=True)
class _Reading:
    """One way to read one output."""

    port: Port
    axes: str
    channels: int
    size: tuple[int, int]

    @property
    def words(self) -> str:
        return f"{self.port.name} {'x'.join(str(n or '?') for n in self.port.shape)}"


def settle(
    path: Path,
    outputs: Sequence[Port],
    trails: Mapping[str, Trail],
    size: tuple[int, int],
    batch: int | None,
    said: Said = NOTHING,
    probe: Probe | None = None,
) -> Answer:
    """Settle which output of a file is read, and how.

    Args:
        path: the file, for messages.
        outputs: as the file states them.
        trails: what its nodes say of them, by name.
        size: height and width of the input.
        batch: that the file is made for; None for any.
        said: what the user and the data say.
        probe: runs the network once, for shapes that the file does not state.

    Raises:
        WeightsError: no output is a map of classes, or several are and nothing tells which.
        UsageError: a name that no output has.
    """
    how: dict[str, str] = {}
    if said.output is not None:
        names = [port.name for port in outputs]
        if said.output not in names:
            raise UsageError(f"--output-name {said.output}: {path} has {', '.join(names)}{closest(said.output, names)}")
        outputs, how["output"] = [port for port in outputs if port.name == said.output], "the output is named by you"

    if probe is not None and any(not port.shape or None in port.shape[1:] for port in outputs):
        shapes = probe()
        outputs = [replace(port, shape=shapes[port.name]) for port in outputs]
        how["shape"] = "it was run once to see its shape"

    readings = [each for port in outputs for each in _readings(port, trails.get(port.name, Trail()), size, batch, said)]
    if not readings:
        given = ", ".join(_Reading(port, "", 0, size).words for port in outputs) or "nothing"
        raise WeightsError(
            f"{path} gives {given} for an image of {size[0]}x{size[1]}; accepted: scores NxKxHxW or NxHxWxK, or labels "
            "NxHxW, at the image's size or a fraction of it"
        )
    reading = _of_one_layout(path, _of_one_output(path, readings, trails, size, said, how), trails, size, said, how)
    return _answer(path, reading, trails.get(reading.port.name, Trail()), said, how)


def _readings(port: Port, trail: Trail, size: tuple[int, int], batch: int | None, said: Said) -> Iterable[_Reading]:
    """Yield the ways in which an output can be read so that its rows and columns are those of the image, or fewer."""
    shape = port.shape
    labels = (said.scores or trail.scores) == "labels"
    single = batch in (None, 1)
    forms = {4: ["NCHW", "NHWC"], 3: ["NHW"], 2: []}.get(len(shape), [])
    if len(shape) == 3 and not labels:
        forms += ["NCP", "NPC"] + (["CHW", "HWC"] if single and shape[0] != 1 else [])
    elif len(shape) == 3 and single:
        forms += ["CHW", "HWC"] if 1 in (shape[0], shape[2]) and shape[0] != 1 else []
    if len(shape) == 2 and single:
        forms += ["HW"]

    for axes in forms:
        lengths = dict(zip(axes, shape, strict=True))
        channels = lengths.get("C", 1)
        points = lengths.get("P")
        here = _flat(points, size) if points else (lengths.get("H"), lengths.get("W"))
        if here is None or channels is None or None in here or (labels and channels != 1):
            continue
        h, w = int(here[0] or 0), int(here[1] or 0)
        if said.layout is not None and "C" in axes and (axes[-1] == "C") != (said.layout == "nhwc"):
            continue
        if lengths.get("N") not in (None, batch or 1):
            continue
        if _agrees((h, w), size):
            yield _Reading(port, axes, channels, (h, w))


def _flat(points: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return rows and columns of an image that is given as one row of points."""
    for fraction in (1, 2, 4, 8, 16):
        h, w = -(-size[0] // fraction), -(-size[1] // fraction)
        if h * w == points:
            return h, w
    return None


def _agrees(here: tuple[int, int], size: tuple[int, int]) -> bool:
    """Tell whether a map is the image's size or a fraction of it, to a pixel of rounding."""
    (h, w), (height, width) = here, size
    if here == size:
        return True
    least = max(2 if min(size) >= 2 * _LEAST else 1, min(size) // _LEAST)
    return least <= min(h, w) and abs(h * width - w * height) <= max(height, width) and h <= 4 * height


def _of_one_output(
    path: Path,
    readings: list[_Reading],
    trails: Mapping[str, Trail],
    size: tuple[int, int],
    said: Said,
    how: dict[str, str],
) -> list[_Reading]:
    """Return the readings of the output that holds the answer."""
    if "output" in how:
        return readings
    names = {each.port.name for each in readings}
    if len(names) == 1:
        how["output"] = "the only output" if len(trails) < 2 else "the only output that is a map of classes"
        return readings

    def narrowed(kept: list[_Reading], why: str) -> None:
        nonlocal readings
        if kept and {each.port.name for each in kept} != {each.port.name for each in readings}:
            readings, how["output"] = kept, why

    narrowed([each for each in readings if _fits(each, trails, said)], "the output with the classes of the data")
    narrowed([each for each in readings if each.size == size], "the output at the image's size")
    most = max(each.size[0] * each.size[1] for each in readings)
    narrowed([each for each in readings if each.size[0] * each.size[1] == most], "the largest output")
    left = {each.port.name for each in readings}
    later = {name for name in left if (trails.get(name, Trail()).through & left) - {name}}
    narrowed([each for each in readings if each.port.name not in later], "the output that the others are made of")
    plain = [each for each in readings if not each.port.name.lower().startswith("aux")]
    narrowed(plain, "the others are auxiliary by their names")

    if len({each.port.name for each in readings}) > 1:
        words = list(dict.fromkeys(each.words for each in readings))
        raise WeightsError(
            f"{path} has {len(words)} outputs that may be the answer ({', '.join(words)}); say which: --output-name "
            f"{readings[0].port.name}"
        )
    return readings


def _fits(reading: _Reading, trails: Mapping[str, Trail], said: Said) -> bool:
    """Tell whether a reading has as many classes as the data."""
    if said.classes is None:
        return True
    trail = trails.get(reading.port.name, Trail())
    scores = said.scores or trail.scores
    if scores == "labels" or not reading.port.dtype.startswith(("float", "bfloat")):
        return (2 if trail.threshold else trail.classes) in (None, said.classes)
    channels = 2 if reading.channels == 1 else reading.channels
    return channels == said.classes or (said.void and channels == said.classes + 1)


def _of_one_layout(
    path: Path,
    readings: list[_Reading],
    trails: Mapping[str, Trail],
    size: tuple[int, int],
    said: Said,
    how: dict[str, str],
) -> _Reading:
    """Return the reading of an output whose axes are right."""
    if said.layout is not None:
        how["axes"] = "the layout is said by you"
    else:
        how["axes"] = "its rows and columns are the image's" + ("" if readings[0].size == size else " in proportion")
    if len(readings) > 1:
        axis = trails.get(readings[0].port.name, Trail()).axis
        by_nodes = [each for each in readings if "C" in each.axes and each.axes.index("C") == axis]
        exact = [each for each in readings if each.size == size]
        fitting = [each for each in readings if _fits(each, trails, said)] if said.classes else []
        for kept, why in ((by_nodes, "its nodes say where the classes are"), (exact, how["axes"])):
            if len(kept) == 1:
                readings, how["axes"] = kept, why
                break
        else:
            if len(fitting) == 1:
                readings, how["axes"] = fitting, "it has the classes of the data"
    if len(readings) > 1:
        ways = " or ".join(f"{each.axes} with {each.channels} classes" for each in readings)
        raise WeightsError(
            f"{path} gives {readings[0].words}, which may be {ways}; say which: --layout nchw or --layout nhwc"
        )
    return readings[0]


def _answer(path: Path, reading: _Reading, trail: Trail, said: Said, how: dict[str, str]) -> Answer:
    """Settle what the values of an output are."""
    floats = reading.port.dtype.startswith(("float", "bfloat"))
    channels = reading.channels
    if said.scores is not None:
        scores, how["scores"] = said.scores, "its values are said by you"
    elif trail.scores:
        scores, how["scores"] = trail.scores, f"it ends in {trail.end}"
    elif not floats and channels == 1:
        scores, how["scores"] = "labels", f"its values are {reading.port.dtype}"
    elif channels > 1:
        scores, how["scores"] = "logits", "of several channels the largest counts"
    else:
        known = f"it ends in {trail.end}" if trail.end else "its last nodes are not known"
        raise WeightsError(
            f"{path} gives one channel, and {known}: class 1 may be a logit above 0 or a probability above 0.5; say "
            "which: --scores logits or --scores probs"
        )
    if scores == "labels" and channels > 1:
        raise WeightsError(f"{path} gives {channels} channels ({reading.words}), labels have one; leave out --scores")

    classes = 2 if channels == 1 else channels
    if scores == "labels":
        classes = 2 if trail.threshold or reading.port.dtype == "bool" else trail.classes
    elif said.void and said.classes == channels - 1:
        classes, how["classes"] = said.classes, f"class {said.classes} is what the data ignore: it is never chosen"
    if classes is not None and classes > MOST_CLASSES:
        raise WeightsError(f"{path} has {classes} classes, and kdc's masks hold at most {MOST_CLASSES}")
    return Answer(
        name=reading.port.name,
        axes=reading.axes,
        scores=scores,
        channels=None if scores == "labels" else channels,
        classes=classes,
        size=reading.size,
        threshold=scores == "labels" and trail.threshold,
        how=how,
    )
