"""What an ONNX file of unknown origin must survive before anything that trusts it sees it.

Protocol buffers and ONNX's own checks are native code that a made-up file may crash or fill the memory with, so every
file is first read in a process of its own, with little memory and time. A manifest is no excuse: it says that a file
is whole, not whose it is.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
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
    inliner,
    shape_inference,
)

from ...distill.errors import WeightsError, one_line

#: what holds nodes
Body = GraphProto | FunctionProto
#: operators that ONNX defines, and those that ONNX Runtime's own tools write
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
#: no value of a segmentation network has more elements: 32 images of 4096x4096 with 4 channels, 8 GiB of float32
LARGEST_VALUE = 2**31
#: protocol buffers end here; a larger network has external data
LARGEST_FILE = 2**31 - 1
#: graphs within graphs
DEEPEST = 8
#: of the child: bytes on top of what it holds once its libraries are loaded, and seconds
MEMORY, SECONDS = 2**30, 120
#: times the file's size comes on top of MEMORY: the file, its parsed form, a copy of each in the checks
COPIES = 6

#: where a tensor's values lie that are not one string of bytes
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
#: types of which several share a byte
_PER_BYTE = {"INT4": 2, "UINT4": 2, "FLOAT4E2M1": 2, "INT2": 4, "UINT2": 4}
_COMPLEX = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)


def load_checked(path: Path) -> ModelProto:
    """Read an ONNX file that may be anybody's, without its external data, and refuse what is not fit to be run.

    Raises:
        WeightsError: the file is missing, broken, cut off, or holds something that kdc does not trust; see ``refuse``.
    """
    try:
        state = path.stat()
        if not path.is_file():
            raise WeightsError(f"{path} is no file; name an .onnx file")
        if state.st_size > LARGEST_FILE:
            raise WeightsError(
                f"{path} has {state.st_size} bytes, an ONNX file ends at 2 GiB; keep its weights beside it"
            )
        _vet(path.absolute(), (state.st_mtime_ns, state.st_size, state.st_ino))
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    model = _parse(path)
    refuse(model, path)
    return model


def whole(path: Path) -> bytes:
    """Return a file that may be anybody's as one that needs no other: its external data are put into it.

    Raises:
        WeightsError: see ``load_checked``; or the file would be too large for protocol buffers.
    """
    outside = external(path)
    if not outside:
        return path.read_bytes()
    try:
        model = onnx.load(str(path))
        if left := _outside(model, path):  # sparse ones stay where they are
            raise WeightsError(f"{path} keeps sparse weights in '{left}': refused; ask for one whole file")
        return model.SerializeToString()
    except (ValueError, EncodeError) as error:
        raise WeightsError(f"{path} and '{outside}' make no single file, which ends at 2 GiB") from error


def external(path: Path) -> str:
    """Return the name of a file that an ONNX file keeps weights in; empty where it is whole."""
    return _outside(load_checked(path), path)


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
    bodies = list(_bodies(model, path))
    _refuse_operators((body.node for body in bodies), own, path)
    for body in bodies:
        _refuse_shapes(body, path)
        for tensor in _tensors(body):
            _refuse_tensor(tensor, path)


def _parse(path: Path) -> ModelProto:
    try:
        return onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise WeightsError(f"{path} is not an ONNX file or is cut off ({one_line(error)}); export it again") from error


def _outside(model: ModelProto, path: Path) -> str:
    tensors = (tensor for body in _bodies(model, path) for tensor in _tensors(body))
    found = (entry for t in tensors if t.data_location == TensorProto.EXTERNAL for entry in t.external_data)
    return next((entry.value for entry in found if entry.key == "location"), "")


def _bodies(model: ModelProto, path: Path) -> Iterator[Body]:
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


def _refuse_shapes(body: Body, path: Path) -> None:
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
        held, wanted, unit = len(tensor.raw_data), (packed * itemsize,), "bytes"
    else:
        held, unit = max(len(getattr(tensor, field)) for field in _FIELDS), "values"
        wanted = (packed, 2 * count) if tensor.data_type in _COMPLEX else (packed,)
    if held not in wanted:
        raise WeightsError(
            f"{declares}, which is {wanted[-1]} {unit}, and holds {held}: it is cut off or made up; export it again"
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
        raise WeightsError(f"{path}: where '{tensor.name}' lies in '{location}' cannot be read") from error
    size = target.stat().st_size
    if offset < 0 or length != declared or offset + length > size:
        raise WeightsError(
            f"{path} wants {declared} bytes of '{tensor.name}' from byte {offset} of '{location}', which has {size}: "
            "it is cut off or made up"
        )


@lru_cache(maxsize=64)
def _vet(path: Path, stamp: tuple[int, ...]) -> None:
    """Read a file in a child process, once: ``stamp`` tells one that was changed since."""
    # the child must find this very package, however the parent came by it
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", __name__, str(path)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, errors="replace", timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise WeightsError(f"{path} could not be read within {SECONDS} s: refused") from error
    if done.returncode == 0:
        return
    with contextlib.suppress(ValueError, IndexError, KeyError):
        raise WeightsError(json.loads(done.stdout.strip().splitlines()[-1])["refused"])
    ended = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
    raise WeightsError(f"{path} made the process that reads it die ({ended}): refused")


def _examine(path: Path) -> str:
    """Say why a file is refused; empty where it is not. Runs in the child."""
    _limit(path.stat().st_size)
    try:
        model = _parse(path)
        refuse(model, path)
        # a small graph may make huge values (ConstantOfShape, Expand, Resize): inferring the shapes tells
        flat = inliner.inline_local_functions(model) if model.functions else model
        if flat.functions:  # of another opset than the graph's: what they make stays unknown
            return f"{path} has functions that cannot be put into its graph: refused; export it without"
        for body in _bodies(shape_inference.infer_shapes(flat, data_prop=True), path):
            _refuse_shapes(body, path)
        onnx.checker.check_model(str(path))
    except WeightsError as error:
        return str(error)
    except MemoryError:
        return f"{path} needs more than {MEMORY >> 20} MiB on top of its size to be read: refused"
    except (shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        return f"{path} is no valid ONNX ({one_line(error)}): refused; export it again"
    return ""


def _limit(size: int) -> None:
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    most = pages * resource.getpagesize() + MEMORY + COPIES * size
    with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Examine the file that is named and print what is wrong with it as JSON."""
    why = _examine(Path(sys.argv[1]))
    if why:
        sys.stdout.write(json.dumps({"refused": why}) + "\n")
    sys.exit(bool(why))


if __name__ == "__main__":
    main()
