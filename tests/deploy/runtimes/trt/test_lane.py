"""What is inside the clock when an engine is timed, and what memory that takes: an engine and a GPU that only note."""

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kdc.deploy.gpu import buffers as gpu_buffers
from kdc.deploy.gpu.buffers import DeviceBuffers
from kdc.deploy.runtimes.answer import Port
from kdc.deploy.runtimes.trt import trt_runtime
from kdc.deploy.runtimes.trt.engine import Engine
from kdc.deploy.runtimes.trt.trt_runtime import TrtRuntime

H, W, K = 4, 6, 5


class Notes(DeviceBuffers):
    """A GPU of arrays; what is queued is done at once, and noted."""

    name = "notes"
    stream = 7

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.memory: dict[int, np.ndarray] = {}
        self.host: list[np.ndarray] = []

    def use(self) -> None: ...

    def alloc(self, nbytes: int) -> int:
        address = 1000 * (len(self.memory) + 1)
        self.memory[address] = np.zeros(nbytes, np.uint8)
        return address

    def pinned(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        self.host.append(np.zeros(shape, dtype))
        return self.host[-1]

    def upload(self, address: int, array: np.ndarray) -> None:
        self.log.append("upload")
        self.memory[address][:] = array.reshape(-1).view(np.uint8)

    def download(self, array: np.ndarray, address: int) -> None:
        array.reshape(-1).view(np.uint8)[:] = self.memory[address][: array.nbytes]

    def event(self) -> str:
        return "event"

    def record(self, event: Any) -> None:
        self.log.append(event)

    def elapsed(self, start: Any, end: Any) -> float:
        return 1.0

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        work()
        bound = self.engine.captured

        def launch() -> None:
            self.log.append("launch")
            self.engine.compute(*bound)  # a graph keeps the addresses that it was captured with

        return launch

    def kernel(self, name: str) -> Callable[..., None]:
        raise AssertionError(name)

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def close(self) -> None: ...

    engine: "FakeEngine"


class FakeEngine:
    """Gives the first channel of its input, plus the class, as logits."""

    inputs = [Port("image", "float32", (None, 3, H, W))]
    outputs = [Port("out", "float32", (None, K, H, W))]
    profile = (1, 3, H, W), (1, 3, H, W), (4, 3, H, W)

    answer = outputs[0]

    def __init__(self, buffers: Notes) -> None:
        self.buffers, self.bound = buffers, ((0,), 0, 0)
        self.captured = self.bound

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[0], K, H, W

    def bind(self, shape: tuple[int, ...], device_in: int, device_out: int) -> None:
        self.buffers.log.append("bind")
        self.bound = shape, device_in, device_out

    def alone(self, shape: tuple[int, ...], device_in: int, device_out: int) -> Callable[[int], None]:
        def queue(stream: int) -> None:
            self.captured = shape, device_in, device_out
            self.buffers.log.append("enqueue")
            self.compute(shape, device_in, device_out)

        return queue

    def enqueue(self, stream: int) -> None:
        self.buffers.log.append("enqueue")
        self.compute(*self.bound)

    def compute(self, shape: tuple[int, ...], device_in: int, device_out: int) -> None:
        memory = self.buffers.memory
        x = memory[device_in].view(np.float32).reshape(shape)
        out = x[:, :1] + np.arange(K, dtype=np.float32).reshape(1, K, 1, 1)
        memory[device_out][:] = out.reshape(-1).view(np.uint8)

    def close(self) -> None: ...


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[TrtRuntime, Notes]]:
    """Give a function that opens an engine of no library, and the memory that notes."""

    def open_it(**options: Any) -> tuple[TrtRuntime, Notes]:
        buffers = Notes()
        buffers.engine = FakeEngine(buffers)
        monkeypatch.setattr(trt_runtime, "read_manifest", lambda path, trust: None)
        monkeypatch.setattr(trt_runtime, "load_tensorrt", lambda card: (None, "tensorrt"))
        monkeypatch.setattr(trt_runtime, "Engine", lambda *_: buffers.engine)
        ticks = itertools.count(0, 1_000_000)
        clock = SimpleNamespace(perf_counter_ns=lambda: buffers.log.append("clock") or next(ticks))
        for module in (trt_runtime, gpu_buffers):
            monkeypatch.setattr(module, "time", clock)
        return TrtRuntime(tmp_path / "a.engine", buffers=buffers, **options), buffers

    return open_it


def inputs(count: int = 3, batch: int = 2) -> list[np.ndarray]:
    return [np.full((batch, 3, H, W), i, np.float32) for i in range(1, count + 1)]


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_only_the_network_is_inside_the_clock(opened, cuda_graph):
    runtime, buffers = opened(cuda_graph=cuda_graph)
    steps = [runtime.staged(x) for x in inputs()]
    start = "launch" if cuda_graph else "enqueue"
    out = runtime._lane((2, 3, H, W)).device_out
    for i, step in [*enumerate(steps, 1)] * 2:
        buffers.log.clear()
        assert step() == 1.0
        assert buffers.log[-4:] == ["clock", start, "synchronize", "clock"]
        # each input has its own address, or shares that of the one graph
        assert buffers.log[:-4] == (["upload", "synchronize"] if cuda_graph else ["bind"])
        assert buffers.memory[out].view(np.float32)[0] == i, "of this input, not of the one bound or captured last"


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_transfers_are_timed_without_binding(opened, cuda_graph):
    runtime, buffers = opened(cuda_graph=cuda_graph)
    staged = runtime.staged(inputs()[0])
    steps = [runtime.timed(x) for x in inputs()]
    out = runtime._lane((2, 3, H, W)).host_out
    for i, step in enumerate(steps, 1):
        staged()
        buffers.log.clear()
        assert set(step()) == {"h2d", "compute", "d2h", "enqueue", "total"}
        assert "bind" not in buffers.log[buffers.log.index("clock") :]
        assert out[0, 0, 0, 0] == i


class SeveralOutputs:
    """What ``Engine`` asks of TensorRT where a network has two outputs, the answer last."""

    def __init__(self) -> None:
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shape[0], K, H, W) if name == "out" else (self.shape[0], K, H // 2, W // 2)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True


def test_of_several_outputs_the_answer_is_bound_and_the_others_have_memory() -> None:
    engine, context, buffers = Engine.__new__(Engine), SeveralOutputs(), Notes()
    engine.inputs, engine.profile, engine.path = FakeEngine.inputs, FakeEngine.profile, Path("a.engine")
    engine.outputs = [Port("aux", "float32", (None, K, H // 2, W // 2)), Port("out", "int64", (None, K, H, W))]
    engine._context, engine._shape, engine.spare = context, None, {}
    engine.read("out", buffers.alloc)
    assert engine.answer.dtype == "int64" and engine.output_shape((2, 3, H, W)) == (2, K, H, W)
    assert [len(each) for each in buffers.memory.values()] == [8 * 4 * K * (H // 2) * (W // 2)]
    engine.bind((2, 3, H, W), 11, 12)
    assert context.addresses == {"image": 11, "out": 12, "aux": next(iter(buffers.memory))}


def test_rotated_inputs_share_the_output(opened):
    runtime, buffers = opened()
    before = [runtime.infer(x)[0, 0, 0, 0] for x in inputs(1)]
    held, pinned = len(buffers.memory), len(buffers.host)
    xs = inputs(8)
    steps = [runtime.staged(x) for x in xs] + [runtime.timed(x) for x in xs]
    sizes = [array.nbytes for array in buffers.memory.values()][held:]
    assert sizes == [xs[0].nbytes] * 8, "an input each, and no output"
    assert [array.shape for array in buffers.host[pinned:]] == [xs[0].shape] * 8
    assert all(step is not None and step() for step in steps)
    assert [runtime.infer(x)[0, 0, 0, 0] for x in inputs(1)] == before, "what was measured disturbs nothing"
    assert runtime.facts == {"buffers": "notes", "cuda_graph": False}
