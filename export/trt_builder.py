"""The process in which TensorRT builds; see ``kdc.deploy.child``.

It imports neither torch nor numpy, and a crash in native code takes nothing with it.
"""

import ctypes
import importlib
import os
import signal
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..deploy.child import serve
from ..deploy.runtimes.trt.logger import make_logger
from ..distill.errors import ExportError
from ..distill.run.files import write_bytes
from ..distill.run.records import Record

#: prctl option: be killed when the parent dies
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class BuildRequest(Record):
    """What to build, and how: ``BuildFlags`` in TensorRT's names, for a file with its weights inside.

    Attributes:
        profile: shapes of the input by "min", "opt" and "max"; None where the file leaves nothing free.
        parent: number of the process that waits; the builder ends with it.
    """

    flavour: str
    targets: list[str]
    profile: dict[str, list[int]] | None
    workspace_mib: int | None
    opt_level: int | None
    timing_cache: str | None
    parent: int
    flags: list[str]
    tf32: bool
    hardware: str | None
    onnx: str
    engine: str


@dataclass(frozen=True)
class Tensor(Record):
    """An input or output of the network; None in its shape is free."""

    name: str
    dtype: str
    shape: list[int | None]


@dataclass(frozen=True)
class BuildReport(Record):
    """How an engine was really built.

    Attributes:
        notes: for the user.
        warnings: how many the builder gave.
        said: its messages; in a manifest they follow the notes.
    """

    OPTIONAL: ClassVar = ("said",)

    flavour: str
    version: str
    build_seconds: float
    tf32: bool
    opt_level: int
    workspace_mib: int
    layers: int
    inputs: list[Tensor]
    outputs: list[Tensor]
    profile: dict[str, list[int]] | None
    notes: list[str]
    warnings: int
    said: list[str] | None


def build(request: BuildRequest) -> BuildReport:
    """Parse ``request.onnx``, build it and write the plan to ``request.engine``.

    Raises:
        ExportError: the parser or the builder refused it.
    """
    trt: Any = importlib.import_module(request.flavour)
    logger = make_logger(trt)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # from the binding, where the library gave no builder
        raise ExportError(
            f"{request.flavour} cannot start its builder ({logger.last}); tensorrt needs a GPU and its driver, "
            "--flavour tensorrt_rtx builds without one"
        ) from error

    # the network, with the types of its file
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    name = Path(request.onnx).name
    # from memory: the file is self-contained, and native code cannot read every path
    if not parser.parse(Path(request.onnx).read_bytes()):
        problems = "; ".join(dict.fromkeys(_problem(parser.get_error(i)) for i in range(parser.num_errors)))
        raise ExportError(f"TensorRT's parser refused {name}: {problems or logger.last}")

    config = builder.create_builder_config()
    _configure(trt, builder, network, config, request)
    notes: list[str] = []
    cache = _timing_cache(config, request.timing_cache, notes)

    start = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"TensorRT's builder refused {name}: {logger.last}")
    seconds = time.perf_counter() - start
    Path(request.engine).write_bytes(plan)
    if request.timing_cache is not None and cache is not None:
        write_bytes(Path(request.timing_cache), bytes(config.get_timing_cache().serialize()))

    return BuildReport(
        flavour=request.flavour,
        version=str(trt.__version__),
        build_seconds=round(seconds, 3),
        tf32=bool(config.get_flag(trt.BuilderFlag.TF32)),
        opt_level=int(config.builder_optimization_level),
        workspace_mib=int(config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)) >> 20,
        layers=int(network.num_layers),
        inputs=[_tensor(network.get_input(i)) for i in range(network.num_inputs)],
        outputs=[_tensor(network.get_output(i)) for i in range(network.num_outputs)],
        profile=request.profile,
        notes=notes,
        warnings=logger.warnings,
        said=list(logger.messages),
    )


def _configure(trt: Any, builder: Any, network: Any, config: Any, request: BuildRequest) -> None:
    if request.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_mib << 20)
    if request.opt_level is not None:
        config.builder_optimization_level = request.opt_level
    # else the inspector names layers and nothing more, and their precision cannot be checked
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED

    for flag in request.flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if not request.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if request.hardware is not None:
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, request.hardware)

    if request.targets:
        config.num_compute_capabilities = len(request.targets)
        for i, target in enumerate(request.targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), i)
    if request.profile is not None:
        profile = builder.create_optimization_profile()
        profile.set_shape(network.get_input(0).name, *(request.profile[key] for key in ("min", "opt", "max")))
        config.add_optimization_profile(profile)


def _timing_cache(config: Any, path: str | None, notes: list[str]) -> Any:
    if path is None:
        return None
    if Path(path).exists():
        cache = config.create_timing_cache(Path(path).read_bytes())
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
        notes.append(f"{path} is no timing cache of this TensorRT and GPU: the build began without, and wrote it anew")
    cache = config.create_timing_cache(b"")
    config.set_timing_cache(cache, False)
    return cache


def _tensor(tensor: Any) -> Tensor:
    shape = [None if size == -1 else int(size) for size in tensor.shape]
    dtype = str(tensor.dtype).rpartition(".")[2].lower()
    return Tensor(tensor.name, {"float": "float32", "half": "float16"}.get(dtype, dtype), shape)


def _problem(error: Any) -> str:
    node = f"node {error.node_name()} ({error.node_operator()}): " if error.node_name() else ""
    return node + " ".join(error.desc().split())


def _build(values: dict[str, Any]) -> dict[str, Any]:
    """Build, and end with the parent."""
    request = BuildRequest.from_dict(values)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != request.parent:
            sys.exit("the parent is gone")
    return build(request).to_dict()


def main() -> None:
    """Serve requests."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends native code too
    warnings.simplefilter("ignore", DeprecationWarning)
    serve(_build)


if __name__ == "__main__":
    main()
