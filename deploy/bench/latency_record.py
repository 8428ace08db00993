"""The record of a latency measurement, and how it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...distill import console
from ...distill.run.records import Record
from ...distill.units import file_size, milliseconds, quantity
from ..machine.gpu_meter import GpuUse
from ..machine.passport import Gpu, Passport
from ..machine.roofline import Roofline
from .plan import NotMeasured, Size
from .protocol import Identity, Warmup
from .record import MODES, Protocol, conditions, show_rest
from .statistics import PartTimes, Percentiles, Ratio


@dataclass(frozen=True)
class OnGpu(Record):
    """What the GPU did meanwhile, and how much of its peak a row reaches; None is not known."""

    gpu: GpuUse | None
    roofline: Roofline | None


@dataclass(frozen=True)
class LatencyRow(Record):
    """The latency of one backend.

    Attributes:
        times: milliseconds of its runs.
        parts: of a query, by name, where they are timed.
        on_gpu: of a measurement on the GPU.
    """

    MERGED: ClassVar = ("backend", "times", "on_gpu")
    OPTIONAL: ClassVar = ("parts",)

    backend: Identity
    times: Percentiles
    images_per_s: float
    warmup: Warmup
    ratio: Ratio
    parts: dict[str, PartTimes] | None
    on_gpu: OnGpu | None

    @property
    def name(self) -> str:
        """The name of the row."""
        return self.backend.name


@dataclass(frozen=True, kw_only=True)
class LatencyRecord(Record):
    """Latency side by side; the file ``record`` holds it with its raw samples.

    Attributes:
        mode: "net" or "e2e".
        device: "cpu" or "cuda".
        size: input height and width.
        batch: images per query.
        threads: CPU threads of each backend.
        backends: the rows; the first is what the others are compared with.
        flags: what may have disturbed it.
        passport: of the machine, before it began.
        load_after: of the CPU when it ended, as ``gpus_after``.
    """

    OPTIONAL: ClassVar = ("record",)

    kind: str = "latency"
    mode: str
    unit: str = "ms per query"
    device: str
    size: Size
    batch: int
    threads: int
    protocol: Protocol
    backends: list[LatencyRow]
    not_measured: list[NotMeasured]
    flags: list[str]
    passport: Passport
    load_after: float
    gpus_after: list[Gpu]
    record: str | None = None


def show_latency(result: LatencyRecord) -> None:
    """Print a measurement for people."""
    mixed = len({row.backend.head for row in result.backends}) > 1
    cells = []
    for row in result.backends:
        name = f"{row.name} ({row.backend.head})" if mixed else row.name
        times = [milliseconds(ms) for ms in (row.times.p50, row.times.p90, row.times.p95, row.times.p99)]
        ratio = row.ratio
        speed = f"{ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio.to != row.name else "1.00x"
        cells.append(
            [name, row.backend.precision, row.backend.ran_on, *times, speed, file_size(1e6 * row.backend.size_mb)]
        )

    columns = ["backend", "precision", "ran on", "p50", "p90", "p95", "p99", "speed [95 % CI]", "file"]
    setting = conditions(result.device, result.size, result.threads, result.passport, result.batch)
    console.table(f"latency, {MODES[result.mode]}, {setting}", columns, cells)
    _show_start(result.backends)
    _show_parts(result.backends)
    if result.device == "cuda":
        _show_gpu(result.backends)
    show_rest(result.not_measured, result.flags, f"record with raw samples: {result.record}")


def _show_start(rows: Sequence[LatencyRow]) -> None:
    cells = []
    for row in rows:
        warm = row.warmup
        opened = "-" if warm.opened_s is None else quantity(warm.opened_s, "s")
        cells.append([row.name, opened, milliseconds(warm.first_ms), quantity(warm.seconds, "s"), warm.runs])
    console.table("before that, not measured", ["backend", "opened in", "first run", "warm-up", "its runs"], cells)


def _show_parts(rows: Sequence[LatencyRow]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row.parts or () if name != "total"))
    if not names:
        return
    cells = []
    for row in rows:
        parts = row.parts or {}
        cells.append([row.name, *(milliseconds(parts[name].p50) if name in parts else "-" for name in names)])
    console.table("parts of a query, p50", ["backend", *names], cells)


def _show_gpu(rows: Sequence[LatencyRow]) -> None:
    cells = []
    sources = set()
    for row in rows:
        use, roof = (row.on_gpu.gpu, row.on_gpu.roofline) if row.on_gpu else (None, None)
        power, clock = (use.power_w, use.sm_mhz) if use else (None, None)
        values = (
            power and f"{power.median:.0f}",
            clock and f"{clock.median:.0f}",
            use and use.temperature_c,
            f"{use.energy_per_image_j:.3g}" if use and use.energy_per_image_j is not None else None,
            roof and f"{roof.share:.1%} of {roof.peak_tflops:g} ({roof.kind})",
        )
        cells.append([row.name, *("not measured" if value is None else value for value in values)])
        if roof:
            sources.add(roof.source)

    columns = ["backend", "power W", "SM MHz", "at most C", "J per image", "share of peak TFLOP/s"]
    console.table("the GPU meanwhile", columns, cells)
    if sources:
        console.say(f"peak: {', '.join(sorted(sources))}; FLOPs = 2 x MACs")
