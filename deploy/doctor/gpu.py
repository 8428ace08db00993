"""What ``kdc doctor`` says of the software for a GPU: TensorRT, what keeps its memory, NVML, ModelOpt."""

import importlib.util
import shutil

from ..child import ChildDiedError, call
from ..machine.passport import gpus, version

TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
RTX = ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12")
#: state, what was found, cure
Finding = tuple[str, str, str]


def tensorrt() -> Finding:
    """Say which TensorRT is installed and whether it loads."""
    there = {name: found for name in (*TENSORRT, *RTX) if (found := version(name))}
    if not there:
        cure = "for engines: pip install 'kdc[trt]' on a GPU machine, or 'kdc[trt-rtx]', which builds without a GPU"
        return "missing", "not installed", cure
    found = ", ".join(f"{name} {number}" for name, number in there.items())
    for family in (TENSORRT, RTX):
        if {f"{family[0]}-cu12", f"{family[0]}-cu13"} <= there.keys():
            cure = f"pip uninstall -y {' '.join(family)} && pip install {family[0]}"
            return "missing", f"{found}: the builds for CUDA 12 and 13 lie over each other", cure
    for module, family in (("tensorrt", TENSORRT), ("tensorrt_rtx", RTX)):
        if not there.keys().isdisjoint(family) and (fault := unloadable(module)):
            return "missing", f"{found}; {module} does not load ({fault})", f"pip install --force-reinstall {family[0]}"
    own = version("onnxruntime-gpu")
    if own and there.get("tensorrt", "").partition(".")[0] not in ("", "10"):
        cure = "only for --provider TensorrtExecutionProvider: pip install 'tensorrt>=10.12,<11'"
        return "note", f"{found}; the TensorRT provider of onnxruntime-gpu {own} is made for TensorRT 10", cure
    return "ok", found, ""


def memory() -> Finding:
    """Say what ``--buffers`` can choose from, and what compiles the kernels."""
    pycuda, cuda = version("pycuda"), version("cuda-bindings")
    compilers = ["nvcc"] if shutil.which("nvcc") else []
    if cuda and not unloadable("cuda.bindings.nvrtc", "nvrtcVersion"):
        compilers.append("NVRTC")
    names = [f"{name} {number}" for name, number in (("pycuda", pycuda), ("cuda-python", cuda)) if number]
    found = ", ".join([*names, "torch"])
    if not compilers:
        cure = "for masks and normalisation on the GPU: pip install 'kdc[trt]' brings cuda-python and NVRTC"
        return "note", f"{found}; no compiler for kernels", cure
    return "ok", f"{found}; kernels by {', '.join(compilers)}", ""


def nvml() -> Finding:
    """Say whether power, clocks and throttling can be read."""
    found = version("nvidia-ml-py")
    if not found:
        return "note", "not installed", "for power, clocks and throttling in kdc bench: pip install 'kdc[gpu]'"
    if not gpus():
        return "ok", f"nvidia-ml-py {found}, no GPU seen", ""
    from ..machine.gpu_meter import open_meter

    meter, why = open_meter()
    if meter is None:
        return "note", f"nvidia-ml-py {found}: {why}", "the driver's libnvidia-ml.so.1 is needed: install the driver"
    return "ok", f"nvidia-ml-py {found}", ""


def modelopt() -> Finding:
    """Say who casts to half precision."""
    if found := version("nvidia-modelopt"):
        return "ok", f"{found}: its AutoCast makes FP16 and BF16 files with --caster modelopt", ""
    cure = "for its AutoCast: pip install 'kdc[modelopt]'"
    return "note", "not installed: kdc's own pass makes FP16 and BF16 files", cure


def unloadable(module: str, function: str = "") -> str:
    """Import a module, and call a function of it, in a process of its own, which may crash; say what went wrong."""
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        return "it is not there"
    try:
        return call("deploy.doctor.load", {"module": module, "function": function}, timeout=60)["fault"]
    except TimeoutError:
        return "no answer within 60 s"
    except ChildDiedError as error:
        return error.end
