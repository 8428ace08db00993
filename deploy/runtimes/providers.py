"""The execution providers of ONNX Runtime that kdc knows by name, and what to do where one is missing."""

from ...distill.errors import UsageError

CPU_EP, CUDA_EP = "CPUExecutionProvider", "CUDAExecutionProvider"
TENSORRT_EP, OPENVINO_EP = "TensorrtExecutionProvider", "OpenVINOExecutionProvider"
#: providers that read and write the memory of a CUDA device
ON_GPU = (CUDA_EP, TENSORRT_EP, "NvTensorRTRTXExecutionProvider")
#: options of providers that need to be told a device: the CPU, in float32 unless the graph says less
OPTIONS = {OPENVINO_EP: {"device_type": "CPU", "precision": "FP32"}}
#: what to do where this ONNX Runtime lacks a provider
CURES = {
    CUDA_EP: ": pip uninstall -y onnxruntime, then pip install 'kdc[gpu]'",
    TENSORRT_EP: ": pip uninstall -y onnxruntime, then pip install 'kdc[gpu]'",
    OPENVINO_EP: ", which is in the onnxruntime-openvino wheel alone; --provider openvino runs the file in OpenVINO",
}
#: why an installed provider may not start
LACKS = {
    CUDA_EP: "no GPU, or CUDA's or cuDNN's libraries are missing",
    TENSORRT_EP: "no GPU, or TensorRT 10's libraries are missing (libnvinfer.so.10: pip install 'tensorrt-cu13<11')",
    OPENVINO_EP: "OpenVINO's libraries are missing",
}


def check_provider(provider: str | None, device: str) -> None:
    """Refuse a provider of another device than the one named (UsageError)."""
    runs_on = "cuda" if provider in ON_GPU else "cpu" if provider in (CPU_EP, OPENVINO_EP) else device
    if device != runs_on:
        raise UsageError(f"--provider {provider} goes with --device {runs_on}, not {device}")
