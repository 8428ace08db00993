"""What this machine has for kdc, what it lacks, and the command that cures it."""

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from ...distill import console
from ...distill.run.records import Record
from ..machine.passport import Gpu, Passport, gpus, has_vnni, passport, version
from ..runtimes.signal_stack import signal_stack_kept
from . import gpu
from .check import Check


@dataclass(frozen=True)
class Examination(Record):
    """The findings about a machine, whether all that is not optional is installed, and its device passport."""

    ok: bool
    checks: list[Check]
    passport: Passport


def examine() -> Examination:
    """Look at this machine."""
    machine = passport()
    checks = [
        Check("python", "ok", platform.python_version()),
        _cpu(machine),
        _memory(machine),
        _torch(),
        *_gpus(machine.gpus),
        _onnxruntime(),
        gpu.tensorrt(),
        gpu.memory(),
        gpu.nvml(),
        gpu.modelopt(),
        _openvino(),
        _compiler(),
        _tritonclient(),
        _opencv(),
    ]
    return Examination(all(check.state != "missing" for check in checks), checks, machine)


def show_examination(result: Examination) -> None:
    """Print the findings for people."""
    rows = [[check.what, check.state, check.found] for check in result.checks]
    console.table("kdc doctor", ["what", "state", "found"], rows)
    for check in result.checks:
        if check.cure:
            console.say(f"{check.what}: {check.cure}")
    console.say(
        "all that kdc needs is here" if result.ok else "something is missing; the lines above say what cures it"
    )


def _cpu(machine: Passport) -> Check:
    cpu, vnni = machine.cpu, has_vnni()
    text = f"{cpu.model}, {cpu.cores} cores, load {cpu.load}"
    if vnni is False:
        return Check("cpu", "note", text, "no VNNI: INT8 uses 7-bit weights here and gains less")
    return Check("cpu", "ok", f"{text}, VNNI" if vnni else text)


def _memory(machine: Passport) -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    text = f"{machine.memory_gib} GiB memory, {free:.0f} GiB disk free here"
    if free < 2:
        cure = "runs need a few GiB of disk: free some, or work in another folder"
        return Check("memory, disk", "missing", text, cure)
    return Check("memory, disk", "ok", text)


def _torch() -> Check:
    try:
        import torch
    except ImportError as error:
        return Check("torch", "missing", f"cannot be imported ({error})", "pip install 'torch>=2.11' torchvision")

    cuda, installed = torch.version.cuda, gpus()
    text = f"{torch.__version__}, " + (f"CUDA {cuda}" if cuda else "CPU build")
    if torch.cuda.is_available():
        return Check("torch", "ok", f"{text}, {torch.cuda.device_count()} GPU")
    if not installed:
        return Check("torch", "ok", f"{text}, no GPU seen")

    if not cuda:
        cure = "install a CUDA build: https://pytorch.org/get-started/locally"
        return Check("torch", "missing", f"{text}, but there is a GPU", cure)
    cure = f"driver {installed[0].driver} is too old for CUDA {cuda}: update the driver"
    return Check("torch", "missing", f"{text}, but it cannot use the GPU", cure)


def _gpus(installed: list[Gpu]) -> list[Check]:
    texts = [f"{one.name}, driver {one.driver}, {one.memory_mib} MiB, sm {one.capability}" for one in installed]
    if not texts:
        cure = "GPU rows of bench stay 'not measured'"
        return [Check("GPU", "note", "none (nvidia-smi finds no NVIDIA GPU)", cure)]
    return [Check(f"GPU {i}", "ok", text) for i, text in enumerate(texts)]


def _onnxruntime() -> Check:
    name = "onnxruntime"
    for_cpu, for_gpu, has_gpu = version(name), version("onnxruntime-gpu"), bool(gpus())
    if for_cpu and for_gpu:
        cure = f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime{'-gpu' if has_gpu else ''}"
        text = f"onnxruntime {for_cpu} and onnxruntime-gpu {for_gpu} are installed over each other"
        return Check(name, "missing", text, cure)
    if not (for_cpu or for_gpu):
        return Check(name, "missing", "not installed", f"pip install 'kdc[{'gpu' if has_gpu else 'cpu'}]'")

    try:
        import onnxruntime
    except ImportError as error:
        cure = "pip install --force-reinstall onnxruntime"
        return Check(name, "missing", f"cannot be imported ({error})", cure)

    providers = [each.removesuffix("ExecutionProvider") for each in onnxruntime.get_available_providers()]
    text = f"{f'onnxruntime-gpu {for_gpu}' if for_gpu else for_cpu}, built with {', '.join(providers)}"
    if has_gpu and not for_gpu:
        cure = "for the GPU: pip uninstall -y onnxruntime && pip install 'kdc[gpu]'"
        return Check(name, "note", f"{text}, no CUDA", cure)
    if for_gpu and not has_gpu:
        return Check(name, "note", text, "its CUDA provider needs a GPU; kdc refuses its silent fall back to the CPU")
    return Check(name, "ok", text)


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
        text = f"{runtime}, {', '.join(core.available_devices)}"
        bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if bf16:
        text += " (would take bfloat16 by itself; kdc asks for float32)"
    if not nncf:
        return Check("OpenVINO", "note", f"{text}, no nncf", cure)
    return Check("OpenVINO", "ok", f"{text}, nncf {nncf}")


def _compiler() -> Check:
    variable = os.environ.get("CXX")
    compiler = next((name for name in ([variable] if variable else ["g++", "clang++"]) if shutil.which(name)), None)
    if compiler:
        return Check("C++ compiler", "ok", compiler)
    cure = "for kdc export aoti and torch.compile: apt-get install g++ (macOS: xcode-select --install)"
    return Check("C++ compiler", "note", f"{variable} is missing" if variable else "none", cure)


def _tritonclient() -> Check:
    if installed := version("tritonclient"):
        return Check("tritonclient", "ok", installed)
    cure = "only to talk to a server: pip install 'kdc[triton]'; kdc export triton works without"
    return Check("tritonclient", "note", "not installed", cure)


def _opencv() -> Check:
    names = ("opencv-python", "opencv-python-headless")
    builds = [f"{name} {installed}" for name in names if (installed := version(name))]
    if len(builds) > 1:
        cure = "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless"
        return Check("opencv", "missing", f"{' and '.join(builds)} are installed over each other", cure)
    try:
        import cv2
    except ImportError as error:
        return Check("opencv", "missing", f"cannot be imported ({error})", "pip install opencv-python-headless")
    return Check("opencv", "ok", builds[0] if builds else cv2.__version__)
