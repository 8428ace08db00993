"""The device passport: the machine that a number was measured on, and what may have disturbed it."""

import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from ...distill.run.files import versions
from ...distill.run.records import Record
from .gpu_meter import throttling

#: CPU features that decide how fast integer and half-precision networks run.
FEATURES = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
)
_ALSO = ("onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "openvino", "triton")
#: what nvidia-smi calls the fields of ``Gpu``, in their order
_QUERY = (
    "name,driver_version,memory.total,memory.used,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,"
    "temperature.gpu,persistence_mode,ecc.mode.current,mig.mode.current,compute_cap,uuid,clocks_throttle_reasons.active"
)
#: as newer drivers call it; nvidia-smi answers nothing at all when it does not know one name
_RENAMED = _QUERY.replace("clocks_throttle_reasons", "clocks_event_reasons")


@dataclass(frozen=True)
class Cpu(Record):
    """The processor; None is not known."""

    model: str
    #: that this process may use, and that the machine has
    cores: int
    logical: int | None
    features: list[str]
    governor: str | None
    #: average of the last minute
    load: float


@dataclass(frozen=True)
class Gpu(Record):
    """A GPU as nvidia-smi describes it; None is not known."""

    name: str
    driver: str | None = None
    memory_mib: int | None = None
    memory_used_mib: int | None = None
    sm_mhz: int | None = None
    sm_max_mhz: int | None = None
    memory_mhz: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: int | None = None
    persistence: str | None = None
    ecc: str | None = None
    mig: str | None = None
    capability: float | None = None
    uuid: str | None = None
    #: bits of ``gpu_meter.THROTTLING`` and others, as hexadecimal text
    throttle: str | int | None = None
    #: how many compute on it
    processes: int = 0


@dataclass(frozen=True)
class Passport(Record):
    """This machine and its software at one moment."""

    time: str
    os: str
    cpu: Cpu
    memory_gib: float
    gpus: list[Gpu]
    versions: dict[str, str]


def passport() -> Passport:
    """Describe this machine and its software."""
    return Passport(
        time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        os=platform.platform(),
        cpu=Cpu(
            model=_cpu_model(),
            cores=cores(),
            logical=os.cpu_count(),
            features=cpu_features(),
            governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            load=load(),
        ),
        memory_gib=memory_gib(),
        gpus=gpus(),
        versions=versions() | {name: installed for name in _ALSO if (installed := version(name))},
    )


def version(distribution: str) -> str | None:
    """Return the installed version of a distribution without importing it."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def cores() -> int:
    """Count the cores this process may use: affinity, cgroup quota and hyper-threads taken into account."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if _read("/sys/devices/system/cpu/smt/active") == "1":
        usable = max(1, usable // 2)
    quota, _, period = (_read("/sys/fs/cgroup/cpu.max") or "max").partition(" ")
    if quota.isdigit() and period.isdigit():
        usable = max(1, min(usable, round(int(quota) / int(period))))
    return usable


def cpu_features() -> list[str]:
    """Name those of ``FEATURES`` that this CPU has; an empty list where the system does not say."""
    words: set[str] = set()
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            words = set(value.split())
            break
    return [feature for feature in FEATURES if feature in words]


def has_vnni() -> bool | None:
    """Tell whether 8-bit products are summed without saturating in hardware; None where the system does not say.

    ``KDC_NO_VNNI=1`` in the environment hides it: files are then made as on a CPU without, with weights of 7 bits.
    """
    if os.environ.get("KDC_NO_VNNI", "0") not in ("", "0"):
        return False
    if not Path("/proc/cpuinfo").exists():
        return None
    return bool({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"} & set(cpu_features()))


def load() -> float:
    """Return the load average of the last minute."""
    return round(psutil.getloadavg()[0], 2)


def memory_gib() -> float:
    """Return the machine's memory."""
    return round(psutil.virtual_memory().total / 2**30, 1)


def gpus() -> list[Gpu]:
    """Ask nvidia-smi about every GPU; an empty list without a driver."""
    rows = _smi(f"--query-gpu={_QUERY}") or _smi(f"--query-gpu={_RENAMED}")
    described = [Gpu(*map(_number, row)) for row in rows]
    users = [row[0] for row in _smi("--query-compute-apps=gpu_uuid,pid")] if described else []
    return [replace(gpu, processes=users.count(str(gpu.uuid))) for gpu in described]


def first_gpu(installed: list[Gpu]) -> Gpu | None:
    """Return the GPU that CUDA calls device 0: the first that CUDA_VISIBLE_DEVICES leaves; None without one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"
    return next((gpu for i, gpu in enumerate(installed) if visible in (str(i), gpu.uuid)), None)


def gpu_flags(installed: list[Gpu], own: int = 0) -> list[str]:
    """List what may have disturbed ``own`` processes on the first GPU, which is the one measured."""
    gpu = first_gpu(installed)
    if gpu is None:
        return []
    flags = []
    bits = str(gpu.throttle or "0x0")
    if reasons := throttling(int(bits, 16)) if bits.lower().startswith("0x") else []:
        flags.append(f"{gpu.name}: clocks are held back ({', '.join(reasons)}, as nvidia-smi says)")
    if (others := gpu.processes - own) > 0:
        flags.append(f"{gpu.name}: other processes compute on it ({others})")
    return flags


def _smi(query: str) -> list[list[str]]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return [[cell.strip() for cell in line.split(",")] for line in lines if line.strip()]


def _number(text: str) -> Any:
    if text.startswith("[") or text in ("N/A", ""):
        return None
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


def _cpu_model() -> str:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    if sys.platform == "darwin":
        done = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
        return done.stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
