"""What ``kdc doctor`` says of the software for a GPU: TensorRT, what keeps its memory, NVML, ModelOpt."""

import importlib.util
import shutil

from ..child import ChildDiedError, call
from ..machine.passport import gpus, version
from .check import Check

TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
RTX = ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12")


def tensorrt() -> Check:
    """Say which TensorRT is installed and whether it loads."""
    name = "TensorRT"
    installed = {each: number for each in (*TENSORRT, *RTX) if (number := version(each))}
    if not installed:
        cure = "for engines: pip install 'kdc[trt]' on a GPU machine, or 'kdc[trt-rtx]', which builds without a GPU"
        return Check(name, "missing", "not installed", cure)

    text = ", ".join(f"{each} {number}" for each, number in installed.items())
    for family in (TENSORRT, RTX):
        if {f"{family[0]}-cu12", f"{family[0]}-cu13"} <= installed.keys():
            cure = f"pip uninstall -y {' '.join(family)} && pip install {family[0]}"
            return Check(name, "missing", f"{text}: the builds for CUDA 12 and 13 are installed over each other", cure)
    for module, family in (("tensorrt", TENSORRT), ("tensorrt_rtx", RTX)):
        if not installed.keys().isdisjoint(family) and (fault := unloadable(module)):
            cure = f"pip install --force-reinstall {family[0]}"
            return Check(name, "missing", f"{text}; {module} does not load ({fault})", cure)

    own = version("onnxruntime-gpu")
    if own and installed.get("tensorrt", "").partition(".")[0] not in ("", "10"):
        cure = "only for --provider TensorrtExecutionProvider: pip install 'tensorrt>=10.12,<11'"
        text += f"; the TensorRT provider of onnxruntime-gpu {own} is made for TensorRT 10"
        return Check(name, "note", text, cure)
    return Check(name, "ok", text)


def memory() -> Check:
    """Say what ``--buffers`` can choose from, and what compiles the kernels."""
    pycuda, cuda = version("pycuda"), version("cuda-bindings")
    compilers = ["nvcc"] if shutil.which("nvcc") else []
    if cuda and not unloadable("cuda.bindings.nvrtc", "nvrtcVersion"):
        compilers.append("NVRTC")
    names = [f"{name} {number}" for name, number in (("pycuda", pycuda), ("cuda-python", cuda)) if number]
    text = ", ".join([*names, "torch"])
    if not compilers:
        cure = "for masks and normalisation on the GPU: pip install 'kdc[trt]' brings cuda-python and NVRTC"
        return Check("GPU memory", "note", f"{text}; no compiler for kernels", cure)
    return Check("GPU memory", "ok", f"{text}; kernels by {', '.join(compilers)}")


def nvml() -> Check:
    """Say whether power, clocks and throttling can be read."""
    installed = version("nvidia-ml-py")
    if not installed:
        return Check(
            "NVML", "note", "not installed", "for power, clocks and throttling in kdc bench: pip install 'kdc[gpu]'"
        )
    text = f"nvidia-ml-py {installed}"
    if not gpus():
        return Check("NVML", "ok", f"{text}, no GPU seen")
    from ..machine.gpu_meter import open_meter

    meter, why = open_meter()
    if meter is None:
        cure = "the driver's libnvidia-ml.so.1 is needed: install the driver"
        return Check("NVML", "note", f"{text}: {why}", cure)
    return Check("NVML", "ok", text)


def modelopt() -> Check:
    """Say who casts to half precision."""
    if installed := version("nvidia-modelopt"):
        return Check("ModelOpt", "ok", f"{installed}: its AutoCast makes FP16 and BF16 files with --caster modelopt")
    cure = "for its AutoCast: pip install 'kdc[modelopt]'"
    return Check("ModelOpt", "note", "not installed: kdc's own pass makes FP16 and BF16 files", cure)


def unloadable(module: str, function: str = "") -> str:
    """Import a module, and call a function of it, in a process of its own, which may crash; say what went wrong."""
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        return "it is missing"
    try:
        return call("deploy.doctor.load", {"module": module, "function": function}, timeout=60)["fault"]
    except TimeoutError:
        return "no answer within 60 s"
    except ChildDiedError as error:
        return error.end
