"""What an ONNX file costs: its parameters, and its multiply-adds for one image of a size."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, helper, shape_inference

from ...distill.errors import UsageError, WeightsError, need, one_line
from ..artefacts.onnx_arithmetic import flat, multiply_adds, parameters
from ..artefacts.safe_onnx import load_checked
from ..runtimes.ort_runtime import read_info
from ..runtimes.simulate import COMPUTED, twin

if TYPE_CHECKING:
    from ..runtimes.file_info import FileInfo


def onnx_params(path: Path) -> int:
    """Return how many parameters a file holds, as ``onnx_arithmetic.parameters`` counts them; no shape is needed.

    Raises:
        WeightsError: the file is missing, broken or not to be trusted.
    """
    return parameters(flat(load_checked(path)).graph)


def onnx_macs(path: Path, size: tuple[int, int] | None = None) -> tuple[int, tuple[int, int]]:
    """Return the multiply-adds (MACs) of a file for one image, and the height and width that they are for.

    As ``distill.cost.macs`` counts them. Shapes that cannot be inferred are found by running the file once, on zeros.

    Args:
        path: an ONNX file.
        size: input height and width, for a file that leaves them free.

    Raises:
        UsageError: the file leaves the size free and ``size`` is None, or it is made for another.
        WeightsError: the file is broken, or a product is of a size that cannot be found.
    """
    counts, batch, size = node_macs(path, size)
    return sum(counts.values()) // batch, size


def node_macs(path: Path, size: tuple[int, int] | None = None) -> tuple[dict[str, int], int, tuple[int, int]]:
    """Return the multiply-adds of each product by its first output, of how many images, and of which size.

    Arguments and errors are those of ``onnx_macs``.
    """
    info = read_info(path)
    if any(own is not None and size is not None and own != n for own, n in zip(info.size, size or (), strict=False)):
        raise UsageError(f"{path} is made for {info.size[0]}x{info.size[1]}; leave out --size")
    height, width = (own or (size[i] if size else None) for i, own in enumerate(info.size))
    if height is None or width is None:
        raise UsageError(f"{path} takes any image size; name the one to count for: --size HxW")

    # for one image where the file takes any number of them
    batch = info.shape[0] or 1
    shape = (batch, height, width, 3) if info.layout == "NHWC" else (batch, 3, height, width)
    graph = with_shape(load_checked(path), info.input, shape).graph
    counts = multiply_adds(graph)
    if None in counts.values():
        _observe(path, info, shape, graph)
        counts = multiply_adds(graph)

    if unknown := [name for name, count in counts.items() if count is None]:
        node = next(node for node in graph.node if node.output[0] == unknown[0])
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise WeightsError(f"{path}: the size of {node.op_type} {node.name or unknown[0]}{more} is not known")
    return {name: count or 0 for name, count in counts.items()}, batch, (height, width)


def with_shape(model: ModelProto, name: str, shape: tuple[int, ...]) -> ModelProto:
    """Return a model for one shape of its input, with all shapes inferred that can be."""
    fixed = ModelProto()
    fixed.CopyFrom(flat(model))
    image = next(value for value in fixed.graph.input if value.name == name)
    for dim, n in zip(image.type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = n
    del fixed.graph.value_info[:]  # may name dimensions that have a size now
    for value in fixed.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")
    return shape_inference.infer_shapes(fixed, data_prop=True)


def _observe(path: Path, info: "FileInfo", shape: tuple[int, ...], graph: GraphProto) -> None:
    """Run a file once on zeros and enter the shapes of all values into ``graph``.

    Raises:
        WeightsError: ONNX Runtime cannot run it.
    """
    ort = need("onnxruntime", "cpu")
    model = flat(onnx.load(str(path)))
    model = model if info.precision in COMPUTED else twin(model)
    names = [name for node in model.graph.node for name in node.output if name and node.op_type != "Constant"]
    for name in names:
        model.graph.node.append(helper.make_node("Shape", [name], [f"{name}/shape"]))
        model.graph.output.append(helper.make_tensor_value_info(f"{name}/shape", TensorProto.INT64, [None]))

    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = session.run([f"{name}/shape" for name in names], {info.input: np.zeros(shape, info.dtype)})
    except Exception as error:  # ONNX Runtime's own errors share no base class
        raise WeightsError(
            f"{path}: shapes of its values are neither stated nor found by running it ({one_line(error)})"
        ) from error

    del graph.value_info[:]
    graph.value_info.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [int(n) for n in each])
        for name, each in zip(names, found, strict=True)
    )
