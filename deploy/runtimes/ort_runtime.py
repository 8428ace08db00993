"""An ONNX file run by ONNX Runtime, on the provider that was asked for or not at all."""

import contextlib
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ...distill.errors import ExportError, WeightsError, closest, need, one_line
from ...distill.threads import asked_threads
from ..artefacts.safe_onnx import load_checked
from ..gpu.device import gpu
from ..gpu.open import open_buffers
from .answer import Port
from .base import Runtime
from .file_info import FileInfo, file_info, fixed_size, input_shape, metadata_of, spec_of
from .ort_on_gpu import OrtOnGpu
from .providers import CPU_EP, CUDA_EP, CURES, LACKS, ON_GPU, OPTIONS, TENSORRT_EP, check_provider
from .said import NOTHING, Said
from .simulate import COMPUTED, twin
from .trail import Nodes


def read_info(path: Path) -> FileInfo:
    """Read an ONNX file's contract without running it; its external data, if any, are not read.

    Raises:
        WeightsError: the file is missing, broken, not to be trusted (see ``load_checked``), or does not segment images.
    """
    model = load_checked(path)
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [_port(value) for value in model.graph.input if value.name not in stored]
    outputs = [_port(value) for value in model.graph.output]
    metadata = metadata_of((entry.key, entry.value) for entry in model.metadata_props)
    nodes = Nodes.of(model.graph)
    trails = {port.name: nodes.trail(port.name) for port in outputs}
    colours = nodes.image_axis(inputs[0].name) if inputs else None
    return file_info(path, inputs, outputs, _precision(model.graph), metadata, trails=trails, colours=colours)


class OrtRuntime(Runtime):
    """A session of ONNX Runtime; ``on_cpu`` counts the nodes that a GPU provider left to the CPU."""

    name = "onnxruntime"
    _session: Any

    def __init__(
        self,
        path: Path,
        *,
        device: str = "cpu",
        provider: str | None = None,
        size: tuple[int, int] | None = None,
        threads: int | None = None,
        said: Said = NOTHING,
    ) -> None:
        """See ``open_runtime``."""
        self.source, self.device = path, device
        check_provider(provider, device)
        info = self.info = read_info(path)
        size = fixed_size(info, path, size)
        self.precision = info.precision

        provider = provider or (CUDA_EP if device == "cuda" else CPU_EP)
        simulated = provider == CPU_EP and self.precision not in COMPUTED
        _refuse_missing(provider)
        buffers = open_buffers() if provider in ON_GPU and gpu() else None
        try:
            stream = buffers.stream if buffers else None
            self._session, self.on_cpu = _session(path, provider, threads, simulated=simulated, stream=stream)
            self.provider = self._session.get_providers()[0]
            if self.provider != provider:
                raise ExportError(
                    f"{provider} was asked for, ONNX Runtime fell back to {self.provider}: "
                    f"{LACKS.get(provider, LACKS[CUDA_EP])}; kdc doctor says which, --device cpu measures the CPU"
                )
            self.spec = spec_of(info, path, size, said, lambda: self._shapes(input_shape(info, size, 1)))
        except BaseException:
            self._session = None
            if buffers:
                buffers.close()
            raise

        output = self.spec.answer.name
        self._on_gpu = OrtOnGpu(self._session, info.input, output, buffers) if buffers else None
        if simulated:
            self.provider = f"{CPU_EP}, {self.precision} simulated in float32"
        if self.provider in (CUDA_EP, TENSORRT_EP) and self.precision == "fp32":
            # TensorRT's own default is TF32, and its provider has no option against it
            self.tf32 = self._session.get_provider_options()[self.provider].get("use_tf32", "1") == "1"

    def _infer(self, x: np.ndarray) -> np.ndarray:
        out = self._run([self.spec.answer.name], x)[0]
        return self.spec.answer.read(out, self.spec.size)

    def _shapes(self, shape: Sequence[int | None]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all outputs for an input of a shape, by running zeros."""
        names = [port.name for port in self.info.outputs]
        outs = self._run(names, np.zeros([n or 1 for n in shape], self.info.dtype))
        return {name: out.shape for name, out in zip(names, outs, strict=True)}

    def _run(self, names: list[str], x: np.ndarray) -> list[np.ndarray]:
        try:
            return self._session.run(names, {self.info.input: x})
        except _failures() as error:
            if "allocate" in str(error).lower():
                raise MemoryError(one_line(error)) from error
            raise WeightsError(f"{self.source} cannot be run: {one_line(error)}") from error

    def staged(self, x: np.ndarray) -> Callable[[], float]:
        """Time the network alone; on a GPU input and output stay on the device (IO binding)."""
        self.check(x)
        if self._on_gpu:
            return self._on_gpu.staged(x)
        feed, names = {self.info.input: x}, [self.spec.answer.name]

        def step() -> float:
            start = time.perf_counter_ns()
            self._session.run(names, feed)
            return (time.perf_counter_ns() - start) / 1e6

        return step

    def timed(self, x: np.ndarray) -> Callable[[], dict[str, float]] | None:
        """See ``Runtime.timed``."""
        self.check(x)
        return self._on_gpu.timed(x) if self._on_gpu else None

    def close(self) -> None:
        """Drop the session, then the stream that it works on."""
        del self._session
        if self._on_gpu:
            self._on_gpu.close()
            self._on_gpu = None


def _refuse_missing(provider: str) -> None:
    """Refuse a provider that this ONNX Runtime was not built with."""
    available = need("onnxruntime", "cpu").get_available_providers()
    if provider not in available:
        hint = CURES.get(provider) or closest(provider, available)
        raise ExportError(f"this ONNX Runtime has no {provider}{hint}; it has: {', '.join(available)}")


def _session(
    path: Path, provider: str, threads: int | None, *, simulated: bool = False, stream: int | None = None
) -> tuple[Any, int]:
    ort = need("onnxruntime", "cpu")
    if provider in (CUDA_EP, TENSORRT_EP):
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it misses, and stdout may be for JSON alone
            ort.preload_dlls()
    if provider == TENSORRT_EP:
        with contextlib.suppress(ImportError, OSError):  # loads the wheel's libraries, which are on no search path
            importlib.import_module("tensorrt_libs")

    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is said below, in one line
    options.intra_op_num_threads = threads or asked_threads() or 0
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    settings = OPTIONS.get(provider, {}) | ({"user_compute_stream": str(stream)} if stream is not None else {})
    providers: list[Any] = [(provider, settings)] if settings else [provider]
    # a bias that a file keeps in float is not quantised behind its back
    exact: dict[str, list[str]] = {}
    if provider == CPU_EP:
        exact = {"disabled_optimizers": ["WeightBiasQuantization"]}
    else:
        providers.append(CPU_EP)

    try:
        graph = twin(onnx.load(str(path))).SerializeToString() if simulated else str(path)
        session = ort.InferenceSession(graph, options, providers=providers, **exact)
    except (*_failures(), onnx.shape_inference.InferenceError) as error:
        raise WeightsError(f"{path} cannot be opened by ONNX Runtime {ort.__version__}: {one_line(error)}") from error

    if provider == CPU_EP:
        return session, 0
    parts = session.get_provider_graph_assignment_info()
    if session.get_providers()[0] == provider and parts and all(part.ep_name == CPU_EP for part in parts):
        raise ExportError(f"{provider} was asked for, but takes no node of {path}: all of it would run on the CPU")
    return session, sum(len(part.get_nodes()) for part in parts if part.ep_name == CPU_EP)


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


def _port(value: onnx.ValueInfoProto) -> Port:
    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim)
    return Port(value.name, str(helper.tensor_dtype_to_np_dtype(kind.elem_type)) if kind.elem_type else "?", shape)


def _precision(graph: onnx.GraphProto) -> str:
    operators = {node.op_type for node in graph.node}
    types = {tensor.data_type for tensor in graph.initializer}
    types |= {a.i for n in graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to"}
    kinds = onnx.TensorProto
    rest = "fp16" if kinds.FLOAT16 in types else "bf16" if kinds.BFLOAT16 in types else "fp32"
    if operators & {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger"}:
        whole = "fp8" if kinds.FLOAT8E4M3FN in types else "int8"
        return whole if rest == "fp32" else f"{whole}+{rest}"
    return rest
