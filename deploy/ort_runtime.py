"""An ONNX file run by ONNX Runtime, on the provider that was asked for or not at all."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from ..distill import console
from ..distill.errors import ExportError, UsageError, WeightsError, closest, need
from ..distill.preprocess import IMAGENET, Preprocess
from .runtime import Runtime, Spec

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
#: providers that read and write the memory of a CUDA device
_ON_GPU = (_CUDA, "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")
_DTYPES: dict[int, str] = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.UINT8: "uint8"}


@dataclass(frozen=True)
class FileInfo:
    """What an ONNX file says about itself; None in ``shape`` stands for a free dimension."""

    input: str
    output: str
    shape: tuple[int | None, ...]
    dtype: str
    layout: str
    head: str
    num_classes: int
    precision: str
    metadata: dict[str, Any]

    @property
    def size(self) -> tuple[int | None, int | None]:
        """Height and width of the input; None where free."""
        return (self.shape[1], self.shape[2]) if self.layout == "NHWC" else (self.shape[2], self.shape[3])


def read_info(path: Path) -> FileInfo:
    """Read an ONNX file's contract without running it; its external data, if any, are not read.

    Raises:
        WeightsError: the file is missing, broken, refers to data outside its folder, or does not segment images.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    except (DecodeError, ValueError) as error:
        raise WeightsError(f"{path} is not an ONNX file or is cut off ({_line(error)}); export it again") from error
    if not model.graph.node:
        raise WeightsError(f"{path} holds no network (an empty graph); export it again")
    _refuse_outside_data(model.graph, path)
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    if len(inputs) != 1:
        raise WeightsError(
            f"{path} has {len(inputs)} inputs ({', '.join(v.name for v in inputs)}); kdc runs networks of one"
        )
    given, made = inputs[0], model.graph.output[0]
    shape, dtype = _shape(given), _DTYPES.get(given.type.tensor_type.elem_type)
    channels_first = len(shape) == 4 and shape[1] == 3
    if dtype is None or not (channels_first or (len(shape) == 4 and shape[3] == 3)):
        text = "x".join(str(n or "?") for n in shape)
        raise WeightsError(f"{path} takes {text}; accepted: a float32 or uint8 image batch, Nx3xHxW or NxHxWx3")
    out = _shape(made)
    floats = made.type.tensor_type.elem_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    if len(out) not in (3, 4) or (len(out) == 3 and floats):
        raise WeightsError(
            f"{path} gives {'x'.join(str(n or '?') for n in out)}; accepted: logits NxKxHxW or labels NxHxW"
        )
    metadata: dict[str, Any] = {}
    for entry in model.metadata_props:
        if entry.key.startswith("kdc."):
            try:
                metadata[entry.key] = json.loads(entry.value)
            except ValueError:
                metadata[entry.key] = entry.value
    return FileInfo(
        given.name,
        made.name,
        shape,
        dtype,
        "NCHW" if channels_first else "NHWC",
        "logits" if floats else "argmax",
        int(out[1] or 0) if floats else len(metadata.get("kdc.classes", ())),
        _precision(model.graph),
        metadata,
    )


class OrtRuntime(Runtime):
    """A session of ONNX Runtime; ``on_cpu`` counts the nodes that a GPU provider left to the CPU."""

    name = "onnxruntime"

    def __init__(
        self,
        path: Path,
        *,
        device: str = "cpu",
        provider: str | None = None,
        size: tuple[int, int] | None = None,
        threads: int | None = None,
    ) -> None:
        """See ``open_runtime``."""
        self.source, self.device = path, device
        runs_on = "cuda" if provider in _ON_GPU else "cpu" if provider == _CPU else device
        if device != runs_on:
            raise UsageError(f"--provider {provider} goes with --device {runs_on}, not {device}")
        info = self.info = read_info(path)
        self.spec = _spec(info, path, size)
        self.precision = info.precision
        wanted = provider or (_CUDA if device == "cuda" else _CPU)
        self._session, self.on_cpu = _session(path, wanted, threads)
        self.provider = self._session.get_providers()[0]
        if self.provider != wanted:
            raise ExportError(
                f"{wanted} was asked for, ONNX Runtime fell back to {self.provider}: no GPU, or CUDA's or cuDNN's "
                "libraries are missing; kdc doctor says which, --device cpu measures the CPU"
            )
        if self.provider == _CUDA and self.precision == "fp32":
            self.tf32 = self._session.get_provider_options()[_CUDA].get("use_tf32", "1") == "1"

    def _infer(self, x: np.ndarray) -> np.ndarray:
        return self._label_type(self._session.run([self.info.output], {self.info.input: x})[0])

    def _label_type(self, out: np.ndarray) -> np.ndarray:
        if self.spec.head == "logits":
            return out
        return (out[:, 0] if out.ndim == 4 else out).astype(np.uint8, copy=False)

    def staged(self, x: np.ndarray) -> Callable[[], float]:
        """Time the network alone; on a GPU input and output stay on the device (IO binding)."""
        self.check(x)
        if self.provider not in _ON_GPU:
            feed, names = {self.info.input: x}, [self.info.output]

            def step() -> float:
                start = time.perf_counter_ns()
                self._session.run(names, feed)
                return (time.perf_counter_ns() - start) / 1e6

            return step
        ort = need("onnxruntime", "gpu")
        there = ort.OrtValue.ortvalue_from_numpy(x, "cuda", 0)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self.info.input, there)
        binding.bind_output(self.info.output, "cuda", 0)

        def gpu_step() -> float:
            start = time.perf_counter_ns()
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            return (time.perf_counter_ns() - start) / 1e6

        return gpu_step

    def close(self) -> None:
        """Drop the session."""
        del self._session


def _spec(info: FileInfo, path: Path, size: tuple[int, int] | None) -> Spec:
    if size and any(own not in (None, asked) for own, asked in zip(info.size, size, strict=True)):
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
            f"{path}: its kdc.preprocess metadata cannot be read ({_line(error)}); export it again"
        ) from error
    classes = tuple(info.metadata.get("kdc.classes") or (f"class {k}" for k in range(info.num_classes)))
    palette = tuple((int(r), int(g), int(b)) for r, g, b in info.metadata.get("kdc.palette") or ())
    return Spec(shape, info.dtype, info.layout, info.head, preprocess, classes, palette)


def _session(path: Path, wanted: str, threads: int | None) -> tuple[Any, int]:
    ort = need("onnxruntime", "cpu")
    available = ort.get_available_providers()
    if wanted not in available:
        hint = ""
        if wanted == _CUDA:
            hint = ": pip uninstall -y onnxruntime, then pip install 'kdc[gpu]'"
        raise ExportError(
            f"this ONNX Runtime has no {wanted}{hint or closest(wanted, available)}; it has: {', '.join(available)}"
        )
    if wanted == _CUDA:
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it misses, and stdout may be for JSON alone
            ort.preload_dlls()
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is said below, in one line
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = ort.InferenceSession(str(path), options, providers=[wanted] if wanted == _CPU else [wanted, _CPU])
    except _failures() as error:
        raise WeightsError(f"{path} cannot be opened by ONNX Runtime {ort.__version__}: {_line(error)}") from error
    if wanted == _CPU:
        return session, 0
    parts = session.get_provider_graph_assignment_info()
    if session.get_providers()[0] == wanted and parts and all(part.ep_name == _CPU for part in parts):
        raise ExportError(f"{wanted} was asked for, but takes no node of {path}: all of it would run on the CPU")
    return session, sum(len(part.get_nodes()) for part in parts if part.ep_name == _CPU)


def _failures() -> tuple[type[Exception], ...]:
    """ONNX Runtime's errors, which share no base class of their own."""
    state = need("onnxruntime.capi.onnxruntime_pybind11_state", "cpu")
    names = (
        "Fail",
        "InvalidProtobuf",
        "InvalidGraph",
        "InvalidArgument",
        "NotImplemented",
        "NoModel",
        "NoSuchFile",
        "EPFail",
        "RuntimeException",
    )
    return (RuntimeError, ValueError, *(getattr(state, name) for name in names))


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim
    )


def _precision(graph: onnx.GraphProto) -> str:
    kinds = {node.op_type for node in graph.node}
    halves = any(t.data_type == onnx.TensorProto.FLOAT16 for t in graph.initializer) or any(
        a.name == "to" and a.i == onnx.TensorProto.FLOAT16
        for n in graph.node
        if n.op_type == "Cast"
        for a in n.attribute
    )
    rest = "fp16" if halves else "fp32"
    if kinds & {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger"}:
        return "int8" if rest == "fp32" else "int8+fp16"
    return rest


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                if inner.ByteSize():
                    yield from _tensors(inner)


def _refuse_outside_data(graph: onnx.GraphProto, path: Path) -> None:
    folder = path.resolve().parent
    for tensor in _tensors(graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        target = (folder / location).resolve()
        if not location or not target.is_relative_to(folder) or target == folder:
            raise WeightsError(
                f"{path} keeps '{tensor.name}' in '{location}', outside its folder: refused; ask for one whole file"
            )
        if not target.is_file():
            raise WeightsError(f"{path} needs the file '{location}' beside it, which is missing; copy it along")


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
