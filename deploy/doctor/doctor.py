"""What this machine has for kdc, what it lacks, and the command that cures it."""

import os
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...distill import console
from ..machine.passport import gpus, has_vnni, passport, version
from ..runtimes.signal_stack import signal_stack_kept
from . import gpu


@dataclass(frozen=True)
class Check:
    """One finding: ``state`` is "ok", "note" (works without) or "missing" (something kdc offers will not work)."""

    what: str
    state: str
    found: str
    cure: str = ""


def examine() -> dict[str, Any]:
    """Look at this machine: the findings, whether all that is not optional is there, and the device passport."""
    card = passport()
    checks = [
        Check("python", "ok", platform.python_version()),
        _cpu(card),
        _memory(card),
        _torch(),
        *_gpus(card),
        _onnxruntime(),
        Check("TensorRT", *gpu.tensorrt()),
        Check("GPU memory", *gpu.memory()),
        Check("NVML", *gpu.nvml()),
        Check("ModelOpt", *gpu.modelopt()),
        _openvino(),
        _compiler(),
        _tritonclient(),
        _opencv(),
    ]
    ok = all(check.state != "missing" for check in checks)
    return {"ok": ok, "checks": [asdict(check) for check in checks], "passport": card}


def show(result: dict[str, Any]) -> None:
    """Print the findings for people."""
    rows = [[check["what"], check["state"], check["found"]] for check in result["checks"]]
    console.table("kdc doctor", ["what", "state", "found"], rows)
    for check in result["checks"]:
        if check["cure"]:
            console.say(f"{check['what']}: {check['cure']}")
    console.say(
        "all that kdc needs is here" if result["ok"] else "something is missing; the lines above say what cures it"
    )


def _cpu(card: dict[str, Any]) -> Check:
    cpu = card["cpu"]
    found = f"{cpu['model']}, {cpu['cores']} cores, load {cpu['load']}"
    if has_vnni() is False:
        return Check("cpu", "note", found, "no VNNI: INT8 uses 7-bit weights here and gains less")
    return Check("cpu", "ok", f"{found}, VNNI" if has_vnni() else found)


def _memory(card: dict[str, Any]) -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    found = f"{card['memory_gib']} GiB memory, {free:.0f} GiB disk free here"
    if free < 2:
        return Check(
            "memory, disk", "missing", found, "runs need a few GiB of disk: free some, or work in another folder"
        )
    return Check("memory, disk", "ok", found)


def _torch() -> Check:
    try:
        import torch
    except ImportError as error:
        return Check("torch", "missing", f"cannot be imported ({error})", "pip install 'torch>=2.11' torchvision")
    cuda = torch.version.cuda
    found = f"{torch.__version__}, " + (f"CUDA {cuda}" if cuda else "CPU build")
    if torch.cuda.is_available():
        return Check("torch", "ok", f"{found}, {torch.cuda.device_count()} GPU")
    if not gpus():
        return Check("torch", "ok", f"{found}, no GPU seen")
    if not cuda:
        return Check(
            "torch",
            "missing",
            f"{found}, but there is a GPU",
            "install a CUDA build: https://pytorch.org/get-started/locally",
        )
    driver = gpus()[0]["driver"]
    return Check(
        "torch",
        "missing",
        f"{found}, but it cannot use the GPU",
        f"driver {driver} is too old for CUDA {cuda}: update the driver",
    )


def _gpus(card: dict[str, Any]) -> list[Check]:
    found = [
        Check(
            f"GPU {i}", "ok", f"{gpu['name']}, driver {gpu['driver']}, {gpu['memory_mib']} MiB, sm {gpu['capability']}"
        )
        for i, gpu in enumerate(card["gpus"])
    ]
    return found or [
        Check("GPU", "note", "none (nvidia-smi finds no NVIDIA GPU)", "GPU rows of bench stay 'not measured'")
    ]


def _onnxruntime() -> Check:
    cpu, gpu = version("onnxruntime"), version("onnxruntime-gpu")
    if cpu and gpu:
        return Check(
            "onnxruntime",
            "missing",
            f"onnxruntime {cpu} and onnxruntime-gpu {gpu} lie over each other",
            f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime{'-gpu' if gpus() else ''}",
        )
    if not (cpu or gpu):
        extra = "gpu" if gpus() else "cpu"
        return Check("onnxruntime", "missing", "not installed", f"pip install 'kdc[{extra}]'")
    try:
        import onnxruntime
    except ImportError as error:
        return Check(
            "onnxruntime", "missing", f"cannot be imported ({error})", "pip install --force-reinstall onnxruntime"
        )
    names = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    found = f"{'onnxruntime-gpu ' + gpu if gpu else cpu}, built with {', '.join(names)}"
    if gpus() and not gpu:
        return Check(
            "onnxruntime",
            "note",
            f"{found}, no CUDA",
            "for the GPU: pip uninstall -y onnxruntime && pip install 'kdc[gpu]'",
        )
    if gpu and not gpus():
        return Check(
            "onnxruntime", "note", found, "its CUDA provider needs a GPU; kdc refuses its silent fall back to the CPU"
        )
    return Check("onnxruntime", "ok", found)


def _openvino() -> Check:
    runtime, nncf = version("openvino"), version("nncf")
    cure = "for OpenVINO's files and their INT8 form: pip install 'kdc[openvino]'"
    if not runtime:
        return Check("OpenVINO", "note", "not installed", cure)
    try:
        import openvino
    except ImportError as error:
        again = "pip install --force-reinstall openvino"
        return Check("OpenVINO", "missing", f"{runtime} cannot be imported ({error})", again)
    with signal_stack_kept():
        core = openvino.Core()
        found = f"{runtime}, {', '.join(core.available_devices)}"
        bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if bf16:
        found += " (would take bfloat16 by itself; kdc asks for float32)"
    if not nncf:
        return Check("OpenVINO", "note", f"{found}, no nncf", cure)
    return Check("OpenVINO", "ok", f"{found}, nncf {nncf}")


def _compiler() -> Check:
    named = os.environ.get("CXX")
    found = next((name for name in ([named] if named else ["g++", "clang++"]) if shutil.which(name)), None)
    if found:
        return Check("C++ compiler", "ok", found)
    cure = "for kdc export aoti and torch.compile: apt-get install g++ (macOS: xcode-select --install)"
    return Check("C++ compiler", "note", f"{named} is not there" if named else "none", cure)


def _tritonclient() -> Check:
    if found := version("tritonclient"):
        return Check("tritonclient", "ok", found)
    cure = "only to talk to a server: pip install 'kdc[triton]'; kdc export triton works without"
    return Check("tritonclient", "note", "not installed", cure)


def _opencv() -> Check:
    there = [f"{name} {found}" for name in ("opencv-python", "opencv-python-headless") if (found := version(name))]
    if len(there) > 1:
        cure = "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless"
        return Check("opencv", "missing", f"{' and '.join(there)} lie over each other", cure)
    try:
        import cv2
    except ImportError as error:
        return Check("opencv", "missing", f"cannot be imported ({error})", "pip install opencv-python-headless")
    return Check("opencv", "ok", there[0] if there else cv2.__version__)
