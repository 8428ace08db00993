"""What a GPU did while it was measured, read through NVML: power, energy, clocks, temperature, throttling, memory."""

import contextlib
import importlib
import os
import statistics
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

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


class Meter:
    """Reads one GPU in a thread of its own while a backend works on it."""

    def __init__(self, nvml: ModuleType, handle: Any) -> None:
        """Take an initialised NVML module and a device handle of it."""
        self._nvml, self._handle = nvml, handle

    @contextlib.contextmanager
    def turn(self, into: dict[str, list[Any]]) -> Iterator[None]:
        """Read while the block runs, and add what was read to ``into``."""
        stop = threading.Event()

        def read() -> None:
            while True:
                for key, value in self._read().items():
                    into.setdefault(key, []).append(value)
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
                into.setdefault("energy_j", []).append((after - before) / 1e3)

    def memory_mib(self) -> float | None:
        """Return the memory in use on the device, everybody's, in MiB."""
        used = self._ask("nvmlDeviceGetMemoryInfo")
        return None if used is None else round(used.used / 2**20, 1)

    def _read(self) -> dict[str, Any]:
        nvml = self._nvml
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:  # what older drivers call it
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        found = {
            "power_w": None if milliwatts is None else milliwatts / 1e3,
            "sm_mhz": self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            "memory_mhz": self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
            "temperature_c": self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            "reasons": reasons,
            "memory_mib": self.memory_mib(),
        }
        return {key: value for key, value in found.items() if value is not None}

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
    """Name the bits of NVML's, or nvidia-smi's, clock event reasons that are throttling."""
    return [name for bit, name in THROTTLING.items() if reasons & bit]


def summary(read: dict[str, list[Any]], images: int) -> dict[str, Any] | None:
    """Sum up the readings of a backend's turns; None where nothing was read.

    Args:
        read: what ``Meter.turn`` gathered.
        images: how many went through the network while it read.

    Returns:
        ``power_w``, ``sm_mhz`` and ``memory_mhz`` with min, median and max, ``temperature_c`` and ``memory_mib`` at
        most, ``throttling`` in words, and ``energy_per_image_j``: of the whole board, None where it is not counted.
    """
    if not read:
        return None
    spread = {
        key: {"min": min(values), "median": statistics.median(values), "max": max(values)}
        for key in ("power_w", "sm_mhz", "memory_mhz")
        if (values := read.get(key))
    }
    most = {key: max(values) for key in ("temperature_c", "memory_mib") if (values := read.get(key))}
    reasons = 0
    for one in read.get("reasons", ()):
        reasons |= one
    energy = sum(read["energy_j"]) / images if read.get("energy_j") and images else None
    return {
        **spread,
        **most,
        "throttling": throttling(reasons),
        "energy_per_image_j": None if energy is None else round(energy, 5),
        "readings": max(len(values) for values in read.values()),
    }


def meter_flags(rows: list[dict[str, Any]]) -> list[str]:
    """Say what on the GPU disturbed which rows."""
    said = []
    for row in rows:
        read = row.get("gpu")
        if not read:
            continue
        if read["throttling"]:
            said.append(f"{row['name']}: the GPU held its clocks back ({', '.join(read['throttling'])})")
        clocks = read.get("sm_mhz")
        if clocks and clocks["max"] > 1.05 * clocks["min"]:
            said.append(
                f"{row['name']}: the GPU's clock moved between {clocks['min']} and {clocks['max']} MHz; "
                "nvidia-smi -lgc holds it"
            )
    return said
