"""What a GPU did while it was measured, read through NVML: power, energy, clocks, temperature, throttling, memory."""

import contextlib
import importlib
import os
import statistics
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

from ...distill.run.records import Record

#: why clocks are held back: the bits of nvmlDeviceGetCurrentClocksEventReasons; "idle" (1) and the clocks that an
#: application or a display asked for (2, 256) are no throttling
THROTTLING = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "thermal slowdown (software)",
    0x40: "thermal slowdown (hardware)",
    0x80: "power brake",
}
#: seconds between two readings
EVERY = 0.02


@dataclass
class Readings:
    """What was read of a GPU, the oldest first; a list is empty where the device does not answer."""

    power_w: list[float] = field(default_factory=list)
    sm_mhz: list[float] = field(default_factory=list)
    memory_mhz: list[float] = field(default_factory=list)
    temperature_c: list[float] = field(default_factory=list)
    #: bits of ``THROTTLING`` and others
    reasons: list[int] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)
    #: of the whole board, one number a turn
    energy_j: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Spread(Record):
    """Where the readings of one kind lie."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """Return the spread of ``values``; None of none."""
        return cls(min(values), statistics.median(values), max(values)) if values else None


@dataclass(frozen=True)
class GpuUse(Record):
    """What the GPU did while a backend worked; None is not read.

    Attributes:
        temperature_c: at most, as ``memory_mib``.
        throttling: why its clocks were held back, in words.
        energy_per_image_j: of the whole board.
        readings: how often it was read.
    """

    OPTIONAL: ClassVar = ("power_w", "sm_mhz", "memory_mhz", "temperature_c", "memory_mib")

    power_w: Spread | None
    sm_mhz: Spread | None
    memory_mhz: Spread | None
    temperature_c: float | None
    memory_mib: float | None
    throttling: list[str]
    energy_per_image_j: float | None
    readings: int


class Meter:
    """Reads one GPU in a thread of its own while a backend works on it."""

    def __init__(self, nvml: ModuleType, handle: Any) -> None:
        """Take an initialised NVML module and a device handle of it."""
        self._nvml, self._handle = nvml, handle

    @contextlib.contextmanager
    def turn(self, readings: Readings) -> Iterator[None]:
        """Read while the block runs, and add what was read to ``readings``."""
        stop = threading.Event()

        def read() -> None:
            while True:
                self._read(readings)
                if stop.wait(EVERY):
                    return

        before = self._energy()
        thread = threading.Thread(target=read, daemon=True)
        thread.start()

        try:
            yield
        finally:
            stop.set()
            thread.join()
            after = self._energy()
            if before is not None and after is not None:
                readings.energy_j.append((after - before) / 1e3)

    def memory_mib(self) -> float | None:
        """Return the memory in use on the device, by all processes, in MiB."""
        used = self._ask("nvmlDeviceGetMemoryInfo")
        return None if used is None else round(used.used / 2**20, 1)

    def _read(self, readings: Readings) -> None:
        nvml = self._nvml
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:  # what older drivers call it
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        if reasons is not None:
            readings.reasons.append(reasons)

        answers = (
            (readings.power_w, None if milliwatts is None else milliwatts / 1e3),
            (readings.sm_mhz, self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM)),
            (readings.memory_mhz, self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM)),
            (readings.temperature_c, self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)),
            (readings.memory_mib, self.memory_mib()),
        )
        for values, value in answers:
            if value is not None:
                values.append(value)

    def _energy(self) -> int | None:
        return self._ask("nvmlDeviceGetTotalEnergyConsumption")  # millijoules; Volta and newer

    def _ask(self, name: str, *args: Any) -> Any:
        """Call NVML; None where this driver, device or partition does not answer."""
        call = getattr(self._nvml, name, None)
        if call is None:
            return None
        try:
            return call(self._handle, *args)
        except self._nvml.NVMLError:
            return None


def open_meter(module: ModuleType | None = None) -> tuple[Meter | None, str]:
    """Open NVML for the first GPU that this process may use; None and why not where it cannot be read.

    Args:
        module: what speaks NVML (default: nvidia-ml-py, of kdc's extra ``gpu``).
    """
    try:
        nvml = module or importlib.import_module("pynvml")
    except ImportError:
        return None, "nvidia-ml-py is not installed; pip install 'kdc[gpu]'"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    try:
        nvml.nvmlInit()
        if visible.startswith(("GPU-", "MIG-")):
            return Meter(nvml, nvml.nvmlDeviceGetHandleByUUID(visible)), ""
        return Meter(nvml, nvml.nvmlDeviceGetHandleByIndex(int(visible or 0))), ""
    except (nvml.NVMLError, ValueError) as error:
        return None, f"NVML does not answer ({error})"


def throttling(reasons: int) -> list[str]:
    """Name the clock event reasons of NVML or nvidia-smi that are throttling."""
    return [name for bit, name in THROTTLING.items() if reasons & bit]


def summary(readings: Readings, images: int) -> GpuUse | None:
    """Sum up the readings of a backend's turns; None where nothing was read.

    Args:
        readings: what ``Meter.turn`` gathered.
        images: how many went through the network meanwhile.
    """
    count = max(len(values) for values in vars(readings).values())
    if not count:
        return None

    reasons = 0
    for bits in readings.reasons:
        reasons |= bits
    energy = round(sum(readings.energy_j) / images, 5) if readings.energy_j and images else None
    return GpuUse(
        power_w=Spread.of(readings.power_w),
        sm_mhz=Spread.of(readings.sm_mhz),
        memory_mhz=Spread.of(readings.memory_mhz),
        temperature_c=max(readings.temperature_c, default=None),
        memory_mib=max(readings.memory_mib, default=None),
        throttling=throttling(reasons),
        energy_per_image_j=energy,
        readings=count,
    )


def meter_flags(name: str, use: GpuUse | None) -> list[str]:
    """List what on the GPU disturbed the row called ``name``."""
    flags = []
    if use and use.throttling:
        flags.append(f"{name}: the GPU held its clocks back ({', '.join(use.throttling)})")
    clocks = use and use.sm_mhz
    if clocks and clocks.max > 1.05 * clocks.min:
        flags.append(
            f"{name}: the GPU's clock moved between {clocks.min} and {clocks.max} MHz; nvidia-smi -lgc holds it"
        )
    return flags
