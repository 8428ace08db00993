"""A deserialised engine: its ports, one execution context, its weights put back, what its layers compute in."""

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ....distill.errors import ExportError, ResourceError, need
from ....distill.run.files import sha256
from ...gpu.buffers import NO_ROOM
from ..answer import Port
from .logger import make_logger
from .manifest import FLAVOURS, EngineCard, OnnxSource

#: TensorRT's names of the types that images, logits and masks come in
_DTYPES = {"FLOAT": "float32", "HALF": "float16"}
#: the shapes of an optimisation profile
Profile = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def load_tensorrt(card: EngineCard | None) -> tuple[Any, str]:
    """Import the TensorRT that an engine is for: module and name; for a foreign engine the first that is installed.

    Raises:
        ExportError: it is not installed.
    """
    for flavour in (card.flavour,) if card else FLAVOURS:
        try:
            return importlib.import_module(flavour), flavour
        except (ImportError, OSError):
            continue
    flavour = card.flavour if card else "tensorrt"
    return need(flavour, FLAVOURS[flavour]), flavour


class Engine:
    """An engine of TensorRT 10, 11 or RTX, ready to be started; the manifest was checked before.

    Attributes:
        inputs, outputs: ports as the engine has them; None for a free dimension.
        profile: least, usual and largest shape of the first input; None where no dimension is free.
        answer: the output that is read; the others write where ``spare`` says.
    """

    def __init__(self, path: Path, card: EngineCard | None, trt: Any) -> None:
        """Deserialise.

        Raises:
            ExportError: TensorRT refused the file, it is not what its manifest says, or its weights are missing.
            ResourceError: there is no room to run it.
        """
        self.path, self._trt = path, trt
        self._logger = make_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        # such an engine brings a runtime of its own: its code is loaded only if a manifest vouches for it
        self._runtime.engine_host_code_allowed = card is not None and card.version_compatible
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            cure = card.rebuild(path) if card else "build it again on this machine"
            raise ExportError(f"TensorRT {trt.__version__} refused {path.name}: {self._logger.last}; {cure}")
        if card is not None and card.stripped:
            self._refit(card.onnx)

        self.inputs, self.outputs = self._ports()
        if card and (card.inputs, card.outputs) != (self.inputs, self.outputs):
            raise ExportError(f"{path.name} does not have the ports of its manifest; {card.rebuild(path)}")
        self.profile: Profile | None = None
        if any(None in port.shape for port in self.inputs):
            shapes = self._engine.get_tensor_profile_shape(self.inputs[0].name, 0)
            least, usual, most = (tuple(int(n) for n in shape) for shape in shapes)
            self.profile = least, usual, most
        self._context = self._new_context()
        self._shape: tuple[int, ...] | None = None
        self.answer, self.spare = self.outputs[0], dict[str, int]()

    def read(self, name: str, alloc: Callable[[int], int]) -> None:
        """Read the output ``name``; the others, which TensorRT writes too, get memory for their largest shape."""
        self.answer = next(port for port in self.outputs if port.name == name)
        largest = self.profile[2] if self.profile else tuple(n or 1 for n in self.inputs[0].shape)
        for port in self.outputs:
            if port != self.answer:  # 8 bytes an element: no type is wider
                self.spare[port.name] = alloc(8 * math.prod(self.output_shape(largest, port.name)))

    def output_shape(self, shape: tuple[int, ...], name: str | None = None) -> tuple[int, ...]:
        """Return the shape of an output (default: of the one that is read) for an input of ``shape``."""
        self._reshape(shape)
        return tuple(int(n) for n in self._context.get_tensor_shape(name or self.answer.name))

    def bind(self, shape: tuple[int, ...], device_in: int, device_out: int) -> None:
        """Set the addresses of input and output."""
        self._reshape(shape)
        self._point(self._context, device_in, device_out)

    def enqueue(self, stream: int) -> None:
        """Queue the network on a stream, with what was bound last."""
        self._enqueue(self._context, stream)

    def alone(self, shape: tuple[int, ...], device_in: int, device_out: int) -> Callable[[int], None]:
        """Return a function that queues the network on a stream, in a context of its own that is bound once.

        A graph that is captured from it stays right: one context serves one graph, and another shape spoils it.
        """
        context = self._new_context()
        self._set_shape(context, shape)
        self._point(context, device_in, device_out)
        return lambda stream: self._enqueue(context, stream)

    def inspect(self) -> str:
        """Return the inspector's JSON, for the shapes bound last."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def layer_times(
        self, shape: tuple[int, ...], addresses: tuple[int, int], stream: int, wait: Callable[[], None], runs: int
    ) -> dict[str, float]:
        """Return the mean milliseconds of each layer over ``runs`` after as many that are not counted.

        ``addresses`` are those of input and output, and ``wait`` waits for the stream. It runs in a context of
        its own: a profiler slows down every launch after it was set.
        """
        context, trt = self._new_context(), self._trt

        class Profiler(trt.IProfiler):
            """Adds up the times of each layer."""

            def __init__(self) -> None:
                trt.IProfiler.__init__(self)
                self.sums: dict[str, float] = {}

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                """Take the time of one layer."""
                self.sums[layer_name] = self.sums.get(layer_name, 0.0) + ms

        self._set_shape(context, shape)
        self._point(context, *addresses)
        for _ in range(runs):
            self._enqueue(context, stream)
        wait()
        profiler = context.profiler = Profiler()
        context.enqueue_emits_profile = False
        for _ in range(runs):
            self._enqueue(context, stream)
            wait()
            context.report_to_profiler()
        return {name: total / runs for name, total in profiler.sums.items()}

    def close(self) -> None:
        """Let go, the context before the engine before the runtime."""
        del self._context, self._engine, self._runtime

    def _ports(self) -> tuple[list[Port], list[Port]]:
        engine: Any = self._engine
        ports: tuple[list[Port], list[Port]] = ([], [])
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            kind = str(engine.get_tensor_dtype(name).name)
            shape = tuple(None if n < 0 else int(n) for n in engine.get_tensor_shape(name))
            port = Port(name, _DTYPES.get(kind, kind.lower()), shape)
            ports[engine.get_tensor_mode(name) != self._trt.TensorIOMode.INPUT].append(port)
        return ports

    def _refit(self, source: OnnxSource) -> None:
        """Put the weights back that were stripped, from the ONNX file beside the engine."""
        path = self.path
        file = path.with_name(source.file)
        if not file.is_file() or sha256(file) != source.sha256:
            why = "is not the one it was built from" if file.is_file() else "is missing"
            raise ExportError(f"{path.name} was built without its weights, and {file} {why}; copy it along")
        refitter = self._trt.Refitter(self._engine, self._logger)
        parser = self._trt.OnnxParserRefitter(refitter, self._logger)
        if not parser.refit_from_bytes(file.read_bytes()) or not refitter.refit_cuda_engine():
            raise ExportError(f"{path.name} did not take its weights back from {file.name}: {self._logger.last}")

    def _new_context(self) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            why = f"{self.path.name} cannot start ({self._logger.last})"
            raise ResourceError(f"{why}; most likely {NO_ROOM}")
        return context

    def _reshape(self, shape: tuple[int, ...]) -> None:
        """Set the shape if it is another: after each setting the next launch works out anew what depends on it."""
        if shape != self._shape:
            self._shape = None  # after a refusal nobody knows which it has
            self._set_shape(self._context, shape)
            self._shape = shape

    def _set_shape(self, context: Any, shape: tuple[int, ...]) -> None:
        if not context.set_input_shape(self.inputs[0].name, shape):
            raise ExportError(f"{self.path.name} does not take {'x'.join(map(str, shape))}: {self._logger.last}")

    def _point(self, context: Any, device_in: int, device_out: int) -> None:
        for name, address in {self.inputs[0].name: device_in, self.answer.name: device_out, **self.spare}.items():
            if not context.set_tensor_address(name, address):
                raise ExportError(f"{self.path.name} does not take an address for {name}: {self._logger.last}")

    def _enqueue(self, context: Any, stream: int) -> None:
        if not context.execute_async_v3(stream):
            raise ExportError(f"{self.path.name} failed while it ran: {self._logger.last}")
