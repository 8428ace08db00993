"""The device passport: on what a number was measured, and what may have disturbed it."""

import os
import platform
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from ...distill.run.files import versions
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
_GPU = {
    "name": "name",
    "driver": "driver_version",
    "memory_mib": "memory.total",
    "memory_used_mib": "memory.used",
    "sm_mhz": "clocks.sm",
    "sm_max_mhz": "clocks.max.sm",
    "memory_mhz": "clocks.mem",
    "power_w": "power.draw",
    "power_limit_w": "power.limit",
    "temperature_c": "temperature.gpu",
    "persistence": "persistence_mode",
    "ecc": "ecc.mode.current",
    "mig": "mig.mode.current",
    "capability": "compute_cap",
    "uuid": "uuid",
    "throttle": "clocks_throttle_reasons.active",
}
#: what newer drivers call it; nvidia-smi answers nothing at all when it does not know one name
_RENAMED = {"throttle": "clocks_event_reasons.active"}


def passport() -> dict[str, Any]:
    """Describe this machine and its software; what cannot be known is None."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "os": platform.platform(),
        "cpu": {
            "model": _cpu_model(),
            "cores": cores(),
            "logical": os.cpu_count(),
            "features": cpu_features(),
            "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            "load": load(),
        },
        "memory_gib": memory_gib(),
        "gpus": gpus(),
        "versions": versions() | {name: found for name in _ALSO if (found := version(name))},
    }


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
    """Name those of ``FEATURES`` that this CPU has; an empty list where the system does not tell."""
    words: set[str] = set()
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            words = set(value.split())
            break
    return [feature for feature in FEATURES if feature in words]


def has_vnni() -> bool | None:
    """Tell whether 8-bit products are summed without saturating in hardware; None where the system does not tell."""
    if not Path("/proc/cpuinfo").exists():
        return None
    return bool({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"} & set(cpu_features()))


def load() -> float:
    """Return the load average of the last minute."""
    return round(psutil.getloadavg()[0], 2)


def memory_gib() -> float:
    """Return the machine's memory."""
    return round(psutil.virtual_memory().total / 2**30, 1)


def gpus() -> list[dict[str, Any]]:
    """Ask nvidia-smi about every GPU; an empty list without a driver."""
    names = (_GPU, _GPU | _RENAMED)
    rows = next((rows for each in names if (rows := _smi(f"--query-gpu={','.join(each.values())}"))), [])
    found = [{key: _number(value) for key, value in zip(_GPU, row, strict=False)} for row in rows]
    users = [row[0] for row in _smi("--query-compute-apps=gpu_uuid,pid")] if found else []
    for gpu in found:
        gpu["processes"] = users.count(gpu["uuid"])
    return found


def first_gpu(found: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the GPU that CUDA calls device 0: the first that CUDA_VISIBLE_DEVICES leaves; None without one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"
    return next((gpu for i, gpu in enumerate(found) if visible in (str(i), gpu.get("uuid"))), None)


def gpu_flags(found: list[dict[str, Any]], own: int = 0) -> list[str]:
    """Say what on the first GPU, which is the one measured, may have disturbed ``own`` processes on it."""
    gpu = first_gpu(found)
    if gpu is None:
        return []
    flags = []
    reasons = str(gpu.get("throttle") or "0x0")
    if held := throttling(int(reasons, 16)) if reasons.lower().startswith("0x") else []:
        flags.append(f"{gpu['name']}: clocks are held back ({', '.join(held)}, as nvidia-smi says)")
    if (others := gpu.get("processes", 0) - own) > 0:
        flags.append(f"{gpu['name']}: other processes compute on it ({others})")
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
