"""What an ONNX file of unknown origin may contain: operators, shapes, tensors, and files beside it.

All of it is read off the parsed file; nothing is run or computed.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    ValueInfoProto,
    helper,
)

from ...distill.errors import WeightsError

#: what holds nodes
Body = GraphProto | FunctionProto
#: operators that ONNX defines, and those that ONNX Runtime's own tools write
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
#: no value of a segmentation network has more elements: 32 images of 4096x4096 with 4 channels, 8 GiB of float32
LARGEST_VALUE = 2**31
#: graphs within graphs
DEEPEST = 8

#: fields of a tensor's values that are not one string of bytes
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
#: types of which several share a byte
_PER_BYTE = {"INT4": 2, "UINT4": 2, "FLOAT4E2M1": 2, "INT2": 4, "UINT2": 4}
_COMPLEX = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)


def refuse(model: ModelProto, path: Path) -> None:
    """Refuse a parsed file for what it says.

    Raises:
        WeightsError: no nodes, an operator or domain that is neither ONNX's nor the file's own, a value or tensor of
            absurd size, a tensor whose data are not as long as its shape says, external data outside the file's
            folder (by a path, a link or a missing file).
    """
    if not model.graph.node:
        raise WeightsError(f"{path} holds no network (an empty graph); export it again")
    if model.training_info:
        raise WeightsError(f"{path} holds graphs to train with: refused; export it for inference")
    own = {(function.domain, function.name) for function in model.functions}
    every = list(bodies(model, path))
    _refuse_operators((body.node for body in every), own, path)
    for body in every:
        refuse_shapes(body, path)
        for tensor in _tensors(body):
            _refuse_tensor(tensor, path)


def locations(model: ModelProto, path: Path) -> Iterator[str]:
    """Yield the names of the files that hold tensors of a model, once a tensor."""
    tensors = (tensor for body in bodies(model, path) for tensor in _tensors(body))
    entries = (entry for t in tensors if t.data_location == TensorProto.EXTERNAL for entry in t.external_data)
    yield from (entry.value for entry in entries if entry.key == "location")


def bodies(model: ModelProto, path: Path) -> Iterator[Body]:
    """Yield the graph, the file's own functions, and the graphs within them."""
    for body in (model.graph, *model.functions):
        yield from _within(body, path)


def _within(body: Body, path: Path, depth: int = 0) -> Iterator[Body]:
    if depth > DEEPEST:
        raise WeightsError(f"{path} nests more than {DEEPEST} graphs: refused; export it without control flow")
    yield body
    for attribute in _attributes(body):
        inner = [attribute.g] if attribute.type == AttributeProto.GRAPH else []
        for each in (*inner, *attribute.graphs):
            yield from _within(each, path, depth + 1)


def _attributes(body: Body) -> Iterator[AttributeProto]:
    for node in body.node:
        yield from node.attribute
    if isinstance(body, FunctionProto):  # what stands for those that a call leaves out
        yield from body.attribute_proto


def _refuse_operators(bodies: Iterable[Iterable[NodeProto]], own: set[tuple[str, str]], path: Path) -> None:
    for node in (node for body in bodies for node in body):
        if (node.domain, node.op_type) in own:
            continue
        if node.domain not in DOMAINS:
            raise WeightsError(
                f"{path} uses {node.op_type} of the domain '{node.domain}', a custom operator: refused; accepted are "
                "ONNX's own and com.microsoft's; export it with standard operators"
            )
        domain = "" if node.domain == "ai.onnx" else node.domain
        # what ONNX Runtime's tools write is in no list of ONNX's
        if domain != "com.microsoft" and not onnx.defs.has(node.op_type, domain):
            raise WeightsError(f"{path} uses {node.op_type}, which ONNX does not have: refused; export it again")


def refuse_shapes(body: Body, path: Path) -> None:
    """Refuse a value of absurd size in a body (WeightsError)."""
    ports = (*body.input, *body.output) if isinstance(body, GraphProto) else ()
    for value in (*ports, *body.value_info):
        _refuse_size(value, path)


def _refuse_size(value: ValueInfoProto, path: Path) -> None:
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value")]
    if any(n < 0 for n in shape) or math.prod(shape) > LARGEST_VALUE:
        text = "x".join(map(str, shape))
        raise WeightsError(
            f"{path} has a value '{value.name}' of {text}: refused, at most {LARGEST_VALUE} elements are accepted; "
            "export it for a smaller size"
        )


def _tensors(body: Body) -> Iterator[TensorProto]:
    """Yield the tensors that stand in a body; those of graphs within it come with their own."""
    if isinstance(body, GraphProto):
        yield from body.initializer
        for sparse in body.sparse_initializer:
            yield from _of_sparse(sparse)
    for attribute in _attributes(body):
        if attribute.HasField("t"):
            yield attribute.t
        if attribute.HasField("sparse_tensor"):
            yield from _of_sparse(attribute.sparse_tensor)
        yield from attribute.tensors
        for sparse in attribute.sparse_tensors:
            yield from _of_sparse(sparse)


def _of_sparse(sparse: SparseTensorProto) -> Iterator[TensorProto]:
    """Yield the parts of a sparse tensor, and its whole, which a runtime fills with zeros, as an empty one."""
    whole = TensorProto(name=sparse.values.name, dims=sparse.dims, data_type=sparse.values.data_type)
    if math.prod(whole.dims) > LARGEST_VALUE or any(n < 0 for n in whole.dims):
        yield whole
    yield from (sparse.values, sparse.indices)


def _refuse_tensor(tensor: TensorProto, path: Path) -> None:
    """Refuse a tensor of absurd shape, or whose data are not as many as its shape says."""
    shape, count = "x".join(map(str, tensor.dims)) or "1", math.prod(tensor.dims)
    declares = f"{path} declares '{tensor.name}' as {shape}"
    if any(n < 0 for n in tensor.dims) or count > LARGEST_VALUE:
        raise WeightsError(f"{declares}: refused, at most {LARGEST_VALUE} elements are accepted")
    try:
        itemsize = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{declares} of a type that ONNX does not have ({tensor.data_type}): refused") from error

    packed = -(-count // _PER_BYTE.get(TensorProto.DataType.Name(tensor.data_type), 1))
    if tensor.data_location == TensorProto.EXTERNAL:
        _refuse_outside(tensor, packed * itemsize, path)
        return
    if tensor.HasField("raw_data"):
        held, declared, unit = len(tensor.raw_data), (packed * itemsize,), "bytes"
    else:
        held, unit = max(len(getattr(tensor, field)) for field in _FIELDS), "values"
        declared = (packed, 2 * count) if tensor.data_type in _COMPLEX else (packed,)
    if held not in declared:
        raise WeightsError(
            f"{declares}, which is {declared[-1]} {unit}, and holds {held}: it is cut off or made up; export it again"
        )


def _refuse_outside(tensor: TensorProto, declared: int, path: Path) -> None:
    folder = path.resolve().parent
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    target = (folder / location).resolve()
    if not location or not target.is_relative_to(folder) or target == folder:
        raise WeightsError(
            f"{path} keeps '{tensor.name}' in '{location}', outside its folder: refused; ask for one whole file"
        )
    if not target.is_file():
        raise WeightsError(f"{path} needs the file '{location}' beside it, which is missing; copy it along")

    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", declared))
    except ValueError as error:
        raise WeightsError(f"{path}: the place of '{tensor.name}' in '{location}' cannot be read") from error
    size = target.stat().st_size
    if offset < 0 or length != declared or offset + length > size:
        raise WeightsError(
            f"{path} wants {declared} bytes of '{tensor.name}' from byte {offset} of '{location}', which has {size}: "
            "it is cut off or made up"
        )
