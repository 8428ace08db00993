"""The orders of a measurement to the process that holds a network, and its answers."""

from dataclasses import dataclass
from typing import ClassVar

from ...distill.run.records import Record
from ..runtimes.answer import Contract
from ..runtimes.options import RuntimeOptions


@dataclass(frozen=True)
class Task(Record):
    """What a network is opened for.

    Attributes:
        mode: "net" (the network alone), "e2e" (compressed image in memory to mask) or "memory" (nothing is run yet).
        threads: CPU threads of each stream.
        seed: of the input images.
        streams: how many instances of the network work at a time.
        codec: of the images in mode "e2e".
    """

    mode: str
    threads: int
    seed: int
    streams: int = 1
    codec: str = "jpg"


@dataclass(frozen=True)
class Opening(Record):
    """The order to open a network; ``name`` is that of its row."""

    name: str
    source: str
    size: tuple[int, int]
    batch: int
    head: str
    options: RuntimeOptions
    task: Task


@dataclass(frozen=True)
class Input(Record):
    """The input of a network."""

    shape: list[int]
    dtype: str
    layout: str


@dataclass(frozen=True)
class Opened(Record):
    """What really runs; ``contract`` is how images and scores were read, ``buffers`` and ``cuda_graph`` an engine's."""

    OPTIONAL: ClassVar = ("contract", "buffers", "cuda_graph")

    name: str
    runtime: str
    version: str | None
    provider: str
    nodes_on_cpu: int
    precision: str
    tf32: bool | None
    head: str
    input: Input
    file: str
    threads: int
    pid: int
    contract: Contract | None = None
    buffers: str | None = None
    cuda_graph: bool | None = None

    @property
    def ran_on(self) -> str:
        """Runtime and provider that really ran, shortly: "torch cpu", "ort CPU", "ort CUDA", "OpenVINO CPU"."""
        if self.runtime == "onnxruntime":
            return f"ort {self.provider.removesuffix('ExecutionProvider')}"
        return self.provider


@dataclass(frozen=True, kw_only=True)
class Identity(Opened):
    """What every row of a record says of its network: what really ran, and the file with its hash and size."""

    sha256: str
    size_mb: float


@dataclass(frozen=True)
class Warmup(Record):
    """How a network warmed up: its first run, and the median ``ms`` of the last five; ``opened_s`` is before it."""

    OPTIONAL: ClassVar = ("opened_s",)

    first_ms: float
    runs: int
    seconds: float
    stable: bool
    ms: float
    opened_s: float | None = None


@dataclass(frozen=True)
class Turn(Record):
    """Milliseconds of the runs of a turn, and of their parts where these are known; ``queries`` counts all runs.

    ``seconds`` is how long the runs of ``ms`` took on the clock, with what lies between them.
    """

    ms: list[float]
    seconds: float
    parts: dict[str, list[float]]
    queries: int


@dataclass(frozen=True)
class Flow(Record):
    """How many images all streams did, in what time; ``queries`` counts those that were too early to count, too."""

    images: int
    seconds: float
    queries: int


@dataclass(frozen=True)
class MemoryUse(Record):
    """What the process holds and held at most, and torch's allocator at most on the GPU (None: not used), in MiB."""

    held: float
    peak: float
    cuda_peak: float | None
