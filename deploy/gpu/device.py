"""The GPU of this machine: its name, compute capability and memory."""

import ctypes
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """The first GPU: name, compute capability, and the CUDA version of its driver."""

    name: str
    capability: tuple[int, int]
    cuda: str

    def __str__(self) -> str:
        """Name and capability, for people."""
        return f"{self.name} (compute capability {self.capability[0]}.{self.capability[1]})"


def gpu() -> Gpu | None:
    """Ask the driver for the first GPU, None without one; loads neither torch nor TensorRT."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None
    name, device = ctypes.create_string_buffer(128), ctypes.c_int()
    major, minor, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
    calls = (
        lambda: cuda.cuInit(0),
        lambda: cuda.cuDeviceGet(ctypes.byref(device), 0),
        lambda: cuda.cuDeviceGetName(name, 128, device),
        lambda: cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device),
        lambda: cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device),
        lambda: cuda.cuDriverGetVersion(ctypes.byref(version)),
    )
    if any(call() for call in calls):
        return None
    release = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(name.value.decode(), (major.value, minor.value), release)
