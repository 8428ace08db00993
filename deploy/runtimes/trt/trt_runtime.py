"""A TensorRT engine, run: its manifest is checked before anything is deserialised, then one stream does everything."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ....distill import console
from ....distill.errors import ExportError, UsageError
from ...gpu.buffers import DeviceBuffers
from ...gpu.device import gpu
from ...gpu.open import open_buffers
from ..answer import Port
from ..base import Runtime
from ..file_info import file_info, spec_of
from ..said import NOTHING, Said
from .engine import Engine, load_tensorrt
from .images_on_gpu import Frames
from .inspector import PrecisionShares, check_precision, read_layers
from .lane import Lane
from .manifest import check_fits, read_manifest

#: launches of the profiled network that are counted
_PROFILED = 10


class TrtRuntime(Runtime):
    """An engine on the first GPU.

    Attributes:
        card: what its manifest says; None for a foreign engine.
        buffers: the GPU's memory and stream.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str = "cuda",
        size: tuple[int, int] | None = None,
        buffers: str | DeviceBuffers = "auto",
        cuda_graph: bool = False,
        trust: bool = False,
        said: Said = NOTHING,
    ) -> None:
        """Check the manifest, then open the engine; see ``open_runtime``.

        Args:
            path: the engine.
            device: "cuda"; an engine runs nowhere else.
            size: input height and width, where the engine leaves them free (default: those it was tuned for).
            buffers: "auto", "pycuda", "cuda-python", "torch", or opened ones, which the runtime then closes.
            cuda_graph: start the network as one CUDA graph.
            trust: open an engine that no manifest vouches for.
            said: what is known of it that it does not say itself.

        Raises:
            WeightsError: no such engine, or it is no segmentation network.
            ExportError: nothing vouches for it, it does not fit this machine, or TensorRT refused it.
            UsageError: a device or size it is not for.
        """
        self.card = read_manifest(path, trust)
        if device != "cuda":
            raise UsageError(f"{path} runs on a GPU: open it with --device cuda")
        self.source, self.device, self._graphs = path, device, cuda_graph

        trt, self.name = load_tensorrt(self.card)
        if self.card:
            here = gpu() if isinstance(buffers, str) else buffers.gpu
            check_fits(self.card, path, str(trt.__version__), here)
        self.buffers = open_buffers(buffers, cuda_graph) if isinstance(buffers, str) else buffers
        try:
            self.buffers.use()
            self._engine = Engine(path, self.card, trt)
            self._describe(path, size, said)
        except BaseException:
            self.buffers.close()
            raise

        self.provider = f"{self.name} cuda"
        self._lanes: dict[tuple[int, ...], Lane] = {}
        self._frames: dict[tuple[int, ...], Frames] = {}
        self._bound: Lane | None = None
        self._kernels = True

    @property
    def facts(self) -> dict[str, str | bool]:
        """See ``Runtime.facts``: what keeps the GPU's memory, and how the engine is started."""
        return {"buffers": self.buffers.name, "cuda_graph": self._graphs}

    def _describe(self, path: Path, size: tuple[int, int] | None, said: Said) -> None:
        card, engine = self.card, self._engine
        self.precision = card.precision if card else "unknown"
        if card and self.precision == "fp32":
            self.tf32 = card.tf32

        # half-precision ports are converted from and to float32, as in every runtime of kdc's
        inputs = [Port(p.name, "float32" if p.dtype == "float16" else p.dtype, p.shape) for p in engine.inputs]
        info = file_info(path, inputs, engine.outputs, self.precision, card.network if card else {})
        if engine.profile is not None and None in info.size and size is None:
            first = 1 if info.layout == "NHWC" else 2
            size = (engine.profile[1][first], engine.profile[1][first + 1])
        self.spec = spec_of(info, path, size, said)
        if self.spec.answer.name != engine.outputs[0].name or len(engine.outputs) > 1:
            engine.read(self.spec.answer.name, self.buffers.alloc)

    def check(self, x: np.ndarray) -> None:
        """Refuse what does not fit ``spec``, or lies outside the shapes that the engine was built for."""
        super().check(x)
        self._check_shape(x.shape)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if self._engine.profile is None:
            return
        least, _, most = self._engine.profile
        if any(not low <= n <= high for low, n, high in zip(least, shape, most, strict=True)):
            fault = "{} is outside {} to {}".format(*("x".join(map(str, each)) for each in (shape, least, most)))
            cure = "kdc export trt with other --batches or --sizes builds another"
            raise UsageError(f"{self.source.name}: {fault}, the shapes it was built for; {cure}")

    def _lane(self, shape: tuple[int, ...]) -> Lane:
        """Return the memory for inputs of a shape, made at the first use."""
        self.buffers.use()
        if shape not in self._lanes:
            self._lanes[shape] = self._new_lane(shape)
        return self._lanes[shape]

    def _new_lane(self, shape: tuple[int, ...]) -> Lane:
        engine, buffers = self._engine, self.buffers
        self._bound = None
        host_in = buffers.pinned(shape, engine.inputs[0].dtype)
        host_out = buffers.pinned(engine.output_shape(shape), engine.answer.dtype)
        lane = Lane(shape, host_in, host_out, buffers.alloc(host_in.nbytes), buffers.alloc(host_out.nbytes))
        host_in.fill(0)
        return self._captured(lane)

    def _captured(self, lane: Lane) -> Lane:
        """Make the launch a graph if the engine is run as one: a graph for each lane, since it keeps its addresses."""
        engine, buffers = self._engine, self.buffers
        if self._graphs:
            queue = lane.queue = engine.alone(lane.shape, lane.device_in, lane.device_out)
            buffers.upload(lane.device_in, lane.host_in)
            queue(buffers.stream)  # what the first launch allocates or compiles must not be captured
            buffers.synchronize()
            lane.launch = buffers.capture(lambda: queue(buffers.stream))
        return lane

    def _bind(self, lane: Lane) -> None:
        """Set the addresses of input and output, unless the engine or its graph has them."""
        if lane.launch is None and self._bound is not lane:
            self._engine.bind(lane.shape, lane.device_in, lane.device_out)
            self._bound = lane

    def _start(self, lane: Lane) -> None:
        """Queue the network."""
        self._bind(lane)
        if lane.launch is not None:
            lane.launch()
        else:
            self._engine.enqueue(self.buffers.stream)

    @property
    def batches(self) -> tuple[int, int | None]:
        """See ``Runtime.batches``: the profile's."""
        profile = self._engine.profile
        return (profile[0][0], profile[2][0]) if profile else super().batches

    def _infer(self, x: np.ndarray) -> np.ndarray:
        lane = self._lane(x.shape)
        np.copyto(lane.host_in, x)
        self.buffers.upload(lane.device_in, lane.host_in)
        self._start(lane)
        self.buffers.download(lane.host_out, lane.device_out)
        self.buffers.synchronize()
        # copied, since the pinned memory is used again
        out = lane.host_out.astype(np.float32) if lane.host_out.dtype.kind == "f" else lane.host_out.copy()
        return self.spec.answer.read(out, self.spec.size)

    def masks(self, images: np.ndarray) -> np.ndarray:
        """Segment uint8 RGB images; they are normalised, and their classes chosen, on the GPU."""
        padded, (h, w) = np.ascontiguousarray(self.pad(images)), images.shape[1:3]
        frames = self._frames_of((len(images), *self.spec.shape[1:]))
        if frames is None:
            return super().masks(images)
        return np.ascontiguousarray(frames.segment(padded)[:, :h, :w])

    def _frames_of(self, shape: tuple[int, ...]) -> Frames | None:
        """Return what handles images of a shape on the GPU; None where there is nothing to do there, or no compiler."""
        if not self._kernels:
            return None
        self._check_shape(shape)
        lane = self._lane(shape)
        if shape not in self._frames:
            try:
                self._frames[shape] = Frames(self.buffers, lane, self.spec, self.prepare, self._start)
            except ExportError as error:
                self._kernels = False
                console.warn(f"{self.source.name}: images are prepared and classes chosen on the CPU: {error}")
                return None
        return self._frames[shape]

    def staged(self, x: np.ndarray) -> Callable[[], float]:
        """Time the network alone, its input on the GPU: the wall clock from the call to the end of the stream."""
        self.check(x)
        lane, host = self._lane(x.shape), None
        if self._graphs:  # a graph keeps its addresses and a context with all its memory: the inputs share one
            host = self.buffers.pinned(x.shape, str(lane.host_in.dtype))
            np.copyto(host, x)
        else:  # the inputs of a measurement are rotated: each has memory of its own, and they share the rest
            lane = replace(lane, device_in=self.buffers.alloc(lane.host_in.nbytes))
            self._fill(lane, x)

        def step() -> float:
            self.buffers.use()
            if host is not None:
                self.buffers.upload(lane.device_in, host)
                self.buffers.synchronize()
            self._bind(lane)  # before the clock starts: in use, a network stays bound
            start = time.perf_counter_ns()
            self._start(lane)
            self.buffers.synchronize()
            return (time.perf_counter_ns() - start) / 1e6

        return step

    def timed(self, x: np.ndarray) -> Callable[[], dict[str, float]] | None:
        """Time transfers and network apart by events of the stream, from and to pinned memory."""
        self.check(x)
        lane, buffers = self._lane(x.shape), self.buffers
        host_in = buffers.pinned(x.shape, str(lane.host_in.dtype))  # of its own, as above; the GPU's memory is shared
        np.copyto(host_in, x)
        self._fill(lane, x)
        step = buffers.in_parts(
            lambda: buffers.upload(lane.device_in, host_in),
            lambda: self._start(lane),
            lambda: buffers.download(lane.host_out, lane.device_out),
        )

        def bound() -> dict[str, float]:
            buffers.use()
            self._bind(lane)
            return step()

        return bound

    def _fill(self, lane: Lane, x: np.ndarray) -> None:
        np.copyto(lane.host_in, x)
        self.buffers.upload(lane.device_in, lane.host_in)
        self._start(lane)
        self.buffers.synchronize()

    def check_precision(self) -> tuple[PrecisionShares, str]:
        """Profile every layer on zeros and check the precision; also return the inspector's JSON.

        Raises:
            ExportError: the engine holds no details of its layers.
        """
        usual = self._engine.profile[1][0] if self._engine.profile else self.spec.batch or 1
        lane = self._lane((usual, *self.spec.shape[1:]))
        self._fill(lane, np.zeros(lane.shape, lane.host_in.dtype))
        self._bound = None
        self._engine.bind(lane.shape, lane.device_in, lane.device_out)
        inspected, buffers = self._engine.inspect(), self.buffers
        addresses = lane.device_in, lane.device_out
        times = self._engine.layer_times(lane.shape, addresses, buffers.stream, buffers.synchronize, _PROFILED)
        return check_precision(read_layers(inspected, times), self.precision, times), inspected

    def close(self) -> None:
        """Let go of the engine, then of the GPU's memory."""
        self.buffers.use()
        self.buffers.synchronize()
        self._frames.clear()
        self._lanes.clear()
        self._engine.close()
        self.buffers.close()
