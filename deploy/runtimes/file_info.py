"""What a network's file says about itself without being run: its input, its outputs, and what kdc wrote into it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ...distill import console
from ...distill.errors import UsageError, WeightsError, one_line
from ...distill.network_spec import NetworkSpec
from ...distill.preprocess import IMAGENET, PAD, POLICIES, Policy, Preprocess
from ...distill.typed import typed
from .answer import Answer, Port, written
from .base import Spec, export_size
from .contract import Probe, settle
from .said import NOTHING, Said
from .trail import Trail

#: types of an image batch that kdc feeds
INPUTS = ("float32", "float16", "float64", "uint8")
#: types of what kdc writes into a file, where something is made of it
FACTS: dict[str, Any] = {"kdc.classes": list[str], "kdc.palette": list[tuple[int, int, int]], "kdc.model": NetworkSpec}
FACTS |= {"kdc.head": str, "kdc.precision": str, "kdc.left_high": list[str], "kdc.preprocess": dict, "kdc.answer": dict}
#: what was said of which file in this process
_told: set[tuple[Path, str]] = set()


@dataclass(frozen=True)
class FileInfo:
    """What a file states; None in ``shape`` stands for a free dimension.

    Attributes:
        own: kdc wrote the file, so that its first output is logits ``NxKxHxW`` or labels ``NxHxW``.
        trails: what its nodes say of its outputs, by name.
    """

    input: str
    shape: tuple[int | None, ...]
    dtype: str
    layout: str
    precision: str
    metadata: dict[str, Any]
    outputs: tuple[Port, ...]
    own: bool
    trails: Mapping[str, Trail] = field(default_factory=dict, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON, with the keys of manifests; the metadata are left out."""
        stated = {"input": self.input, "output": self.output_port.name, "shape": self.shape, "dtype": self.dtype}
        stated |= {"layout": self.layout, "head": self.head, "num_classes": self.num_classes}
        return stated | {"precision": self.precision, "metadata": None, "made": asdict(self.output_port)}

    @property
    def fit(self) -> Policy:
        """How images of other sizes are taken."""
        return self.metadata.get("kdc.fit", PAD)

    @property
    def size(self) -> tuple[int | None, int | None]:
        """Height and width of the input; None where free."""
        return (self.shape[1], self.shape[2]) if self.layout == "NHWC" else (self.shape[2], self.shape[3])

    @property
    def output_port(self) -> Port:
        """The output that is read, as far as that can be told without an image's size; else the first."""
        answer = self.stated()
        return next((port for port in self.outputs if answer and port.name == answer.name), self.outputs[0])

    @property
    def head(self) -> str:
        """Either "logits" or "argmax", likewise."""
        if answer := self.stated():
            return "argmax" if answer.scores == "labels" else "logits"
        return "logits" if self.outputs[0].dtype.startswith("float") else "argmax"

    @property
    def num_classes(self) -> int:
        """How many classes, likewise; 0 where that is not known."""
        answer = self.stated()
        return (answer and answer.classes) or len(self.metadata.get("kdc.classes", ()))

    def stated(self, said: Said = NOTHING, size: tuple[int, int] | None = None) -> Answer | None:
        """Return what is settled without running the file; None where that does not settle it."""
        known = size or self.size
        if known[0] is None or known[1] is None:
            return _by_kdc(self) or written(self.metadata, self.outputs, Path(self.input))
        try:
            return answer_of(self, Path(self.input), (known[0], known[1]), said)
        except (WeightsError, UsageError):
            return None


def file_info(
    path: Path,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    precision: str,
    metadata: dict[str, Any],
    *,
    trails: Mapping[str, Trail] | None = None,
    colours: int | None = None,
) -> FileInfo:
    """Read what a file states off its ports.

    Args:
        path: the file, for messages.
        inputs: its inputs.
        outputs: its outputs.
        precision: that it states.
        metadata: what kdc wrote into it.
        trails: what its nodes say of its outputs, by name.
        colours: the axis of its input on which they have the colours; None where they do not say.

    Raises:
        WeightsError: it does not take one batch of images, or gives nothing.
    """
    for key in FACTS.keys() & metadata.keys():
        try:
            typed(metadata[key], FACTS[key], key)
        except ValueError as error:
            raise WeightsError(f"{path}: its metadata cannot be used: {error}; export it again") from error
    if len(inputs) != 1:
        raise WeightsError(
            f"{path} has {len(inputs)} inputs ({', '.join(v.name for v in inputs)}); kdc runs networks with one"
        )
    if not outputs:
        raise WeightsError(f"{path} has no output; export it again")

    image = inputs[0]
    shape = image.shape or (None,) * 4
    axis = _colours(shape, colours)
    if image.dtype not in INPUTS or axis is None:
        raise WeightsError(
            f"{path} takes {image.dtype} {_times(shape)}; accepted: a batch of RGB images, Nx3xHxW or NxHxWx3, of "
            f"{', '.join(INPUTS)}"
        )

    own = "kdc.preprocess" in metadata and bool({"kdc.head", "kdc.model"} & metadata.keys())
    return FileInfo(
        input=image.name,
        shape=tuple(3 if at == axis else n for at, n in enumerate(shape)),
        dtype=image.dtype,
        layout="NCHW" if axis == 1 else "NHWC",
        precision=precision,
        metadata=metadata,
        outputs=tuple(outputs),
        own=own,
        trails=trails or {},
    )


def _colours(shape: Sequence[int | None], by_nodes: int | None) -> int | None:
    """Return the axis of an input on which its colours are: 1, 3, or None where it takes no images."""
    if len(shape) != 4:
        return None
    accepted = [at for at in (1, 3) if shape[at] in (3, None)]
    stated = [at for at in accepted if shape[at] == 3]
    if by_nodes in accepted and len(stated) != 1:
        return by_nodes
    left = stated or (accepted if len(accepted) == 1 or by_nodes is None else [])
    return left[0] if left else None


def metadata_of(entries: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return what kdc wrote into a file: the entries named ``kdc.*``, read as JSON where they are JSON."""
    metadata: dict[str, Any] = {}
    for key, value in entries:
        if key.startswith("kdc."):
            try:
                metadata[key] = json.loads(value)
            except (ValueError, RecursionError):
                metadata[key] = value
    return metadata


def answer_of(
    info: FileInfo, path: Path, size: tuple[int, int], said: Said = NOTHING, probe: Probe | None = None
) -> Answer:
    """Settle how a file's output is read for images of ``size``; see ``settle``."""
    if not said.flags and (own := _by_kdc(info)):
        return own
    known = written(info.metadata, info.outputs, path)
    if known and (said.output, said.layout, said.scores) == (None, None, None):
        port = next(port for port in info.outputs if port.name == known.name)
        sizes = dict(zip(known.axes, port.shape, strict=False))
        here = (sizes.get("H"), sizes.get("W"))
        fixed = known.size if "P" in known.axes else None if None in here else (int(here[0] or 0), int(here[1] or 0))
        return replace(known, size=fixed, how={"all": "its metadata say so"})
    return settle(path, info.outputs, info.trails, size, info.shape[0], said, probe)


def _by_kdc(info: FileInfo) -> Answer | None:
    """Return the answer of a file that kdc exported; None for any other."""
    port = info.outputs[0]
    if not info.own or len(port.shape) not in (3, 4):
        return None
    how = {"all": "kdc exported it"}
    if not port.dtype.startswith("float"):
        count = len(info.metadata.get("kdc.classes", ())) or None
        axes = "NHW" if len(port.shape) == 3 else "NCHW"
        return Answer(port.name, axes, "labels", None, count, _both(port.shape[-2:]), how=how)
    return Answer(port.name, "NCHW", "logits", port.shape[1], port.shape[1], _both(port.shape[2:]), how=how)


def _both(size: Sequence[int | None]) -> tuple[int, int] | None:
    return None if None in size else (int(size[0] or 0), int(size[1] or 0))


def fixed_size(info: FileInfo, path: Path, size: tuple[int, int] | None) -> tuple[int, int]:
    """Return the input size that a file is run with: its own, or ``size`` where it leaves that free.

    Raises:
        UsageError: the file is made for another size, or for any and none is named.
    """
    if size and any(own not in (None, wish) for own, wish in zip(info.size, size, strict=True)):
        own = "x".join(str(n or "any") for n in info.size)
        raise UsageError(
            f"{path} is made for {own}, not {size[0]}x{size[1]}: leave out --size{another(info, path, size)}"
        )
    if size is None and None in info.size:
        raise UsageError(f"{path} takes any image size; name the one to use: --size HxW")
    return size or (int(info.size[0] or 0), int(info.size[1] or 0))


def another(info: FileInfo, path: Path, size: tuple[int, int]) -> str:
    """Say how a file for images of ``size`` is made; nothing where kdc does not know how this one was."""
    stride = (info.metadata.get("kdc.model") or {}).get("output_stride") if info.own else None
    if not isinstance(stride, int) or stride < 1:
        return ""
    height, width = export_size(size, stride)
    target = {".xml": "openvino", ".pt2": "aoti"}.get(path.suffix.lower(), "onnx")
    return f", or make another: kdc export {target} --size {height}x{width}"


def input_shape(info: FileInfo, size: tuple[int, int], batch: int | None = None) -> tuple[int | None, int, int, int]:
    """Return the shape of an input of ``size``; ``batch`` where the file leaves it free."""
    height, width = size
    first = info.shape[0] or batch
    return (first, height, width, 3) if info.layout == "NHWC" else (first, 3, height, width)


def spec_of(
    info: FileInfo, path: Path, size: tuple[int, int] | None, said: Said = NOTHING, probe: Probe | None = None
) -> Spec:
    """Return what a runtime of the file takes and gives, at ``size`` where the file leaves that free.

    What was settled is said once, unless kdc wrote the file.

    Raises:
        UsageError: the file is made for another size, or for any and none is named; a flag that does not fit it.
        WeightsError: kdc's metadata in it cannot be read, or its output is no map of classes; see ``settle``.
    """
    size = fixed_size(info, path, size)
    preprocess, how = _preprocess(info, path, said)
    answer = answer_of(info, path, size, said, probe)

    classes = tuple(info.metadata.get("kdc.classes") or ())
    if answer.classes and len(classes) != answer.classes:
        classes = tuple(f"class {k}" for k in range(answer.classes))
    palette = tuple((int(r), int(g), int(b)) for r, g, b in info.metadata.get("kdc.palette") or ())
    if "all" not in answer.how:  # kdc wrote neither the file nor its metadata
        _tell(path, answer.line())
        if how != "assumed":
            _tell(path, f"images go in as {_words(info, preprocess)} ({how})")

    if info.fit not in POLICIES:
        raise WeightsError(f"{path}: its kdc.fit is {info.fit!r}; accepted: {', '.join(POLICIES)}; export it again")

    head = "argmax" if answer.scores == "labels" else "logits"
    answer = replace(answer, how=answer.how | {"preprocess": how})
    order = preprocess.order if info.dtype == "uint8" and not info.own else "rgb"
    shape = input_shape(info, size)
    return Spec(shape, info.dtype, info.layout, head, preprocess, classes, palette, answer, order, info.fit)


def _preprocess(info: FileInfo, path: Path, said: Said) -> tuple[Preprocess, str]:
    """Return how images are prepared for a file, and what settled it."""
    takes_bytes = info.dtype == "uint8"
    if said.preprocess is not None:
        if takes_bytes:
            raise UsageError(f"{path} takes bytes and normalises them itself: leave out --mean, --std and --scale")
        return said.preprocess, "said by you"
    if "kdc.preprocess" in info.metadata and said.order is None:
        try:
            return Preprocess.from_dict(info.metadata["kdc.preprocess"]), "its metadata say so"
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(
                f"{path}: its kdc.preprocess metadata cannot be read ({one_line(error)}); write them again, or say it "
                "with --mean, --std, --scale, --rgb or --bgr"
            ) from error
    if takes_bytes:
        return replace(IMAGENET, order=said.order or "rgb"), "said by you" if said.order else "assumed"

    preprocess = IMAGENET.reversed if said.order == "bgr" else IMAGENET
    if (path, "assumed") not in _told:
        _told.add((path, "assumed"))
        console.warn(
            f"{path.name} was not exported by kdc: assuming {preprocess.order.upper()}, ImageNet mean and deviation "
            f"{preprocess.mean} / {preprocess.std}; if it was trained otherwise its masks will be wrong: say so with "
            "--mean, --std, --scale, --rgb or --bgr"
        )
    return preprocess, "assumed"


def _words(info: FileInfo, preprocess: Preprocess) -> str:
    order = preprocess.order.upper()
    if info.dtype == "uint8":
        return f"{order} bytes"
    mean, std = (" ".join(f"{value:.6g}" for value in each) for each in (preprocess.mean, preprocess.std))
    return f"{order}, minus {mean}, divided by {std}"


def _tell(path: Path, text: str) -> None:
    """Say something of a file, once."""
    if (path, text) not in _told:
        _told.add((path, text))
        console.note(f"{path.name}: {text}")


def _times(shape: Sequence[int | None]) -> str:
    return "x".join(str(n or "?") for n in shape)
