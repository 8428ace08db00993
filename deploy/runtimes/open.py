"""Open any network: the suffix of its file names the runtime."""

from pathlib import Path

from ...distill import console
from ...distill.errors import UsageError, WeightsError
from ...distill.run.folder import Run, find_run
from ...distill.run.seal import check_sealed
from ...distill.run.stale import is_stale, stale
from ..artefacts.beside import ENGINES, MODEL_FILES, TORCH_FILES, weights_beside
from .base import DEVICES, OPENVINO, Runtime
from .said import NOTHING, Said
from .torch_mode import TorchMode


def open_runtime(
    source: "str | Path | Run",
    *,
    device: str = "cpu",
    provider: str | None = None,
    size: tuple[int, int] | None = None,
    threads: int | None = None,
    head: str = "logits",
    trust: bool = False,
    buffers: str = "auto",
    cuda_graph: bool = False,
    torch_mode: str = str(TorchMode()),
    said: Said | None = None,
) -> Runtime:
    """Open a run, a kdc checkpoint, or a file by its suffix.

    ``.onnx`` runs in ONNX Runtime (or OpenVINO, as the provider says), ``.xml`` in OpenVINO, ``.pt2`` as AOTInductor
    compiled it, ``.engine`` and ``.plan`` in TensorRT, ``.safetensors``, ``.pt`` and ``.pth`` in torch.

    Args:
        source: what to open; a name is looked for below ``runs/``.
        device: "cpu" or "cuda".
        provider: an ONNX Runtime execution provider or "openvino", where ``device`` does not say enough.
        size: input height and width, for what is not made for one size: a checkpoint, a dynamic ONNX file.
        threads: CPU threads within an operator (default: OMP_NUM_THREADS, else the runtime's own choice).
        head: "logits" or "argmax", for a checkpoint; a file has the head it was exported with.
        trust: run native code (``.pt2``, engines) that is signed neither by the user nor by a trusted key.
        buffers: library for the GPU memory of an engine: "auto", "pycuda", "cuda-python" or "torch".
        cuda_graph: start an engine as one CUDA graph.
        torch_mode: how torch runs a checkpoint, see ``TorchMode``.
        said: what is known of an exported file that it does not say itself.

    Raises:
        UsageError: no such run, or a flag that does not fit the file.
        WeightsError: the file is missing or broken, or was changed since kdc wrote it.
        ExportError: the runtime, device or provider is not available.
    """
    if device not in DEVICES:
        raise UsageError(f"device '{device}' is not known; accepted: {', '.join(DEVICES)}")

    said = said or NOTHING
    suffix = "" if isinstance(source, Run) else Path(source).suffix.lower()
    path = Path(str(source))
    if provider is not None and suffix != ".onnx":
        raise UsageError(f"--provider {provider} is for ONNX files, and {source} is none")

    if suffix in MODEL_FILES:
        check_sealed(path)
        if (weights := weights_beside(path)) is not None:
            check_sealed(weights)
        if origin := stale(path):
            console.warn(is_stale(path.name, origin))
    if suffix in ENGINES:
        from .trt.trt_runtime import TrtRuntime

        return TrtRuntime(
            path, device=device, size=size, buffers=buffers, cuda_graph=cuda_graph, trust=trust, said=said
        )
    in_openvino = provider is not None and provider.lower() == OPENVINO
    if suffix == ".onnx" and not in_openvino:
        from .ort_runtime import OrtRuntime

        return OrtRuntime(path, device=device, provider=provider, size=size, threads=threads, said=said)
    if suffix == ".xml" or (suffix == ".onnx" and in_openvino):
        from .openvino_runtime import OpenvinoRuntime

        return OpenvinoRuntime(path, device=device, size=size, threads=threads, said=said)
    if suffix == ".pt2":
        from .aoti_runtime import AotiRuntime

        return AotiRuntime(path, device=device, size=size, threads=threads, trust=trust, said=said)

    if suffix in TORCH_FILES and not isinstance(source, Run) and not Path(source).is_file():
        raise WeightsError(f"{source} does not exist")
    from .torch_runtime import TorchRuntime

    weights = source if isinstance(source, Run) or suffix in TORCH_FILES else find_run(source)
    return TorchRuntime(weights, device=device, size=size, threads=threads, head=head, mode=TorchMode.parse(torch_mode))
