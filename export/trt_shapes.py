"""The shapes an engine is built for: every corner of the profile is tried on the graph before TensorRT gets it."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx

from ..deploy.runtimes.base import export_size
from ..deploy.runtimes.file_info import FileInfo
from ..distill import console
from ..distill.errors import UsageError, need, one_line
from .settings import SizeRange

#: min, opt and max batch of an engine from a file with a free batch
BATCHES = (1, 4, 16)


def plan_profile(
    path: Path, info: FileInfo, batches: Sequence[int] | None, sizes: SizeRange | None
) -> dict[str, list[int]] | None:
    """Return the min, opt and max shape of the input; None where the file leaves nothing free.

    Args:
        path: the ONNX file.
        info: of the file.
        batches: min, opt, max, where the batch is free (default ``BATCHES``).
        sizes: min, opt, max (H, W) in pixels, where height and width are free; they have no default.

    Raises:
        UsageError: a flag that is missing or has no effect on the file, or a corner that the network does not take.
    """
    if batches is not None and info.shape[0] is not None:
        raise UsageError(
            f"--batches does nothing for {path}, which is made for a batch of {info.shape[0]}; leave it out"
        )
    if sizes is not None and None not in info.size:
        raise UsageError(
            f"--sizes does nothing for {path}, which is made for {info.size[0]}x{info.size[1]}; leave it out"
        )

    if sizes is None and None in info.size:
        raise UsageError(
            f"{path} leaves height or width free: name the smallest, usual and largest, "
            "such as --sizes 512x512,512x1024,1024x2048"
        )
    if info.shape[0] is not None and sizes is None:
        return None

    if sizes is not None:
        _check_sizes(path, info, sizes)

    three_batches = (info.shape[0],) * 3 if info.shape[0] is not None else tuple(batches or BATCHES)
    three: list[list[int]] = []
    for batch, size in zip(three_batches, sizes or (None, None, None), strict=True):
        height, width = (int(own or free or 0) for own, free in zip(info.size, size or info.size, strict=True))
        three.append([batch, height, width, 3] if info.layout == "NHWC" else [batch, 3, height, width])

    _try_corners(path, info, three)
    return dict(zip(("min", "opt", "max"), three, strict=True))


def _check_sizes(path: Path, info: FileInfo, sizes: SizeRange) -> None:
    text = ",".join(f"{h}x{w}" for h, w in sizes)
    for axis in (0, 1):
        least, usual, most = (size[axis] for size in sizes)
        if not 1 <= least <= usual <= most:
            raise UsageError(f"--sizes {text}: each must be at least as high and as wide as the one before it")
        if (own := info.size[axis]) is not None and {least, usual, most} != {own}:
            raise UsageError(f"--sizes {text}: {path} leaves only the other side free, this one is {own}")
    stride = max(int((info.metadata.get("kdc.model") or {}).get("output_stride", 1)), 1)
    for height, width in sizes:
        if height % stride or width % stride:
            near = export_size((height, width), stride)
            raise UsageError(
                f"--sizes {text}: {height}x{width} is no multiple of the output stride {stride};"
                f" the next is {near[0]}x{near[1]}"
            )


def _try_corners(path: Path, info: FileInfo, three: list[list[int]]) -> None:
    """Infer the shapes at every corner, then run the network at each size.

    A part that was exported for one size only, such as the pooling of a pyramid, fails at one of the two.
    """
    model = onnx.load(str(path))
    for shape in _corners(three):
        try:
            _infer(model, info.input, shape)
        except (onnx.shape_inference.InferenceError, ValueError) as error:
            raise UsageError(_refused(path, shape, error)) from error

    del model
    if None not in info.size:
        return
    ort = need("onnxruntime", "cpu")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors are reported below, in one line
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no base class
        console.warn(f"{path.name} does not run on this CPU ({one_line(error)}): its corners were not run")
        return

    for height, width in dict.fromkeys(_size(info, shape) for shape in _corners(three)):
        zeros = np.zeros(_with_size(info, three[0], height, width), info.dtype)
        try:
            out = session.run([info.output_port.name], {info.input: zeros})[0]
        except Exception as error:
            raise UsageError(_refused(path, zeros.shape, error)) from error
        if (height % out.shape[-2], width % out.shape[-1]) != (0, 0):
            raise UsageError(f"{path} gives {out.shape[-2]}x{out.shape[-1]} for an image of {height}x{width}")


def _corners(three: list[list[int]]) -> Iterator[tuple[int, ...]]:
    """Yield all combinations of the least and largest number of each dimension, and the usual shape."""
    yield tuple(three[1])
    yield from itertools.product(*(sorted({least, most}) for least, most in zip(three[0], three[2], strict=True)))


def _infer(model: onnx.ModelProto, name: str, shape: Sequence[int]) -> None:
    trial = onnx.ModelProto()
    trial.CopyFrom(model)
    del trial.graph.value_info[:]
    for value in trial.graph.output:
        value.type.tensor_type.ClearField("shape")
    image = next(value for value in trial.graph.input if value.name == name)
    for dimension, size in zip(image.type.tensor_type.shape.dim, shape, strict=True):
        dimension.dim_value = size
    onnx.shape_inference.infer_shapes(trial, strict_mode=True, data_prop=True)


def _size(info: FileInfo, shape: Sequence[int]) -> tuple[int, int]:
    return (shape[1], shape[2]) if info.layout == "NHWC" else (shape[2], shape[3])


def _with_size(info: FileInfo, shape: Sequence[int], height: int, width: int) -> list[int]:
    return [shape[0], height, width, 3] if info.layout == "NHWC" else [shape[0], 3, height, width]


def _refused(path: Path, shape: Sequence[int], error: BaseException) -> str:
    cause = " ".join(str(error).split())[:200]
    return (
        f"{path} does not take {'x'.join(map(str, shape))}, a corner of the profile: something in it, such as the "
        f"pooling of a pyramid, is made for one size ({cause}); export one file a size"
    )
