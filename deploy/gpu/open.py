"""Choose the library for GPU memory: PyCUDA, cuda-python or torch."""

import importlib
from importlib import metadata

from ...distill import console
from ...distill.errors import ExportError, UsageError, closest
from .buffers import DeviceBuffers
from .device import gpu

#: name -> (what must import, distribution, extra); "auto" takes the first that imports
KINDS = {
    "pycuda": ("pycuda.driver", "pycuda", "pycuda"),
    "cuda-python": ("cuda.bindings.driver", "cuda-bindings", "trt"),
    "torch": ("torch", "torch", "gpu"),
}


def open_buffers(kind: str = "auto", graphs: bool = False) -> DeviceBuffers:
    """Open the first GPU through ``kind``; "auto" takes the first of PyCUDA, cuda-python and torch that imports.

    With ``graphs`` "auto" passes PyCUDA by, which has no CUDA graphs.

    Raises:
        UsageError: an unknown kind.
        ExportError: no GPU, or the library is not installed.
    """
    if kind not in ("auto", *KINDS):
        raise UsageError(f"--buffers {kind!r}: accepted are auto, {', '.join(KINDS)}{closest(kind, KINDS)}")

    device = gpu()
    if device is None:
        raise ExportError("an engine runs on an NVIDIA GPU, and no driver or no GPU is found here; see kdc doctor")

    faults: dict[str, str] = {}
    library = None
    fitting = [name for name in KINDS if not (graphs and name == "pycuda")]
    for name in fitting if kind == "auto" else (kind,):
        if (fault := _fault(name)) is None:
            library = name
            break
        faults[name] = fault
    if library is None:
        extra = KINDS[kind][2] if kind in KINDS else "trt"
        why = "; ".join(f"{name}: {fault}" for name, fault in faults.items())
        raise ExportError(f"no library for GPU memory imports ({why}): pip install 'kdc[{extra}]'")

    if library == "pycuda":
        from .pycuda_buffers import PycudaBuffers as Buffers
    elif library == "torch":
        from .torch_buffers import TorchBuffers as Buffers
    else:
        from .cuda_buffers import CudaBuffers as Buffers
    console.say(f"GPU memory by {library} {metadata.version(KINDS[library][1])}")
    return Buffers(device)


def _fault(kind: str) -> str | None:
    """Say why a library does not import; None where it does."""
    try:
        importlib.import_module(KINDS[kind][0])
    except (ImportError, OSError, RuntimeError) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return None
