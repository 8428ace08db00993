"""What a network's file says about itself without being run: its input, its output, and what kdc wrote into it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...distill import console
from ...distill.errors import UsageError, WeightsError, one_line
from ...distill.preprocess import IMAGENET, Preprocess
from .base import Spec


@dataclass(frozen=True)
class Port:
    """An input or output of a file; None in ``shape`` stands for a free dimension."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class FileInfo:
    """The contract of a file; None in ``shape`` stands for a free dimension."""

    input: str
    output: str
    shape: tuple[int | None, ...]
    dtype: str
    layout: str
    head: str
    num_classes: int
    precision: str
    metadata: dict[str, Any]
    output_port: Port

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON, with the keys of manifests; the metadata are left out."""
        values = asdict(self) | {"metadata": None}
        port = values.pop("output_port")
        return values | {"made": port}

    @property
    def size(self) -> tuple[int | None, int | None]:
        """Height and width of the input; None where free."""
        return (self.shape[1], self.shape[2]) if self.layout == "NHWC" else (self.shape[2], self.shape[3])


def file_info(
    path: Path, inputs: Sequence[Port], outputs: Sequence[Port], precision: str, metadata: dict[str, Any]
) -> FileInfo:
    """Read a contract off the ports of a file.

    Raises:
        WeightsError: it does not take one batch of images, or gives neither logits nor labels.
    """
    if len(inputs) != 1:
        raise WeightsError(
            f"{path} has {len(inputs)} inputs ({', '.join(v.name for v in inputs)}); kdc runs networks with one"
        )
    if not outputs:
        raise WeightsError(f"{path} has no output; export it again")

    image, scores = inputs[0], outputs[0]
    shape, out = image.shape, scores.shape
    channels_first = len(shape) == 4 and shape[1] == 3
    if image.dtype not in ("float32", "uint8") or not (channels_first or (len(shape) == 4 and shape[3] == 3)):
        raise WeightsError(
            f"{path} takes {_times(shape)}; accepted: a float32 or uint8 image batch, Nx3xHxW or NxHxWx3"
        )
    floats = scores.dtype.startswith("float")
    if len(out) not in (3, 4) or (len(out) == 3 and floats):
        raise WeightsError(f"{path} gives {_times(out)}; accepted: logits NxKxHxW or labels NxHxW")

    return FileInfo(
        input=image.name,
        output=scores.name,
        shape=shape,
        dtype=image.dtype,
        layout="NCHW" if channels_first else "NHWC",
        head="logits" if floats else "argmax",
        num_classes=int(out[1] or 0) if floats else len(metadata.get("kdc.classes", ())),
        precision=precision,
        metadata=metadata,
        output_port=scores,
    )


def metadata_of(entries: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return what kdc wrote into a file: the entries named ``kdc.*``, read as JSON where they are JSON."""
    metadata: dict[str, Any] = {}
    for key, value in entries:
        if key.startswith("kdc."):
            try:
                metadata[key] = json.loads(value)
            except ValueError:
                metadata[key] = value
    return metadata


def spec_of(info: FileInfo, path: Path, size: tuple[int, int] | None) -> Spec:
    """Return what a runtime of the file takes and gives, at ``size`` where the file leaves that free.

    Raises:
        UsageError: the file is made for another size, or for any and none is named.
        WeightsError: kdc's metadata in it cannot be read.
    """
    if size and any(own not in (None, wish) for own, wish in zip(info.size, size, strict=True)):
        own = "x".join(str(n or "any") for n in info.size)
        raise UsageError(f"{path} is made for {own}, not {size[0]}x{size[1]}; export it again with that --size")
    if size is None and None in info.size:
        raise UsageError(f"{path} takes any image size; name the one to use: --size HxW")

    height, width = size or (int(info.size[0] or 0), int(info.size[1] or 0))
    shape = (info.shape[0], height, width, 3) if info.layout == "NHWC" else (info.shape[0], 3, height, width)

    try:
        preprocess = Preprocess.from_dict(info.metadata["kdc.preprocess"])
    except KeyError:
        preprocess = IMAGENET
        if info.dtype == "float32":
            console.warn(
                f"{path.name} was not exported by kdc: assuming RGB, ImageNet mean and deviation "
                f"{IMAGENET.mean} / {IMAGENET.std}; if it was trained otherwise its masks will be wrong"
            )
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f"{path}: its kdc.preprocess metadata cannot be read ({one_line(error)}); export it again"
        ) from error

    classes = tuple(info.metadata.get("kdc.classes") or (f"class {k}" for k in range(info.num_classes)))
    palette = tuple((int(r), int(g), int(b)) for r, g, b in info.metadata.get("kdc.palette") or ())
    return Spec(shape, info.dtype, info.layout, info.head, preprocess, classes, palette)


def as_output(out: np.ndarray, head: str) -> np.ndarray:
    """Return what ``Runtime.infer`` promises: logits as they are, labels of any type as uint8 ``(N, H, W)``."""
    if head == "logits":
        return out
    return (out[:, 0] if out.ndim == 4 else out).astype(np.uint8, copy=False)


def _times(shape: Sequence[int | None]) -> str:
    return "x".join(str(n or "?") for n in shape)
