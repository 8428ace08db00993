"""From an ONNX file to a TensorRT engine, through whichever TensorRT is installed; types come from the file alone.

One path serves ``tensorrt`` 10.12+ and 11 and ``tensorrt_rtx`` (which builds without a GPU): strongly typed networks,
no precision flags. The builder is native code that can die or take minutes, so it works in a process of its own.
"""

import contextlib
import ctypes
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from ..deploy.ort_runtime import read_info
from ..deploy.parity import manifest_path
from ..distill import console
from ..distill.errors import ExportError, ResourceError, UsageError, closest
from ..distill.run import replacing, sha256, versions, write_json

#: in the order in which they are taken
FLAVOURS = ("tensorrt", "tensorrt_rtx")
OLDEST = (10, 12)
#: min, opt and max batch of an engine from a file with a free batch
BATCHES = (1, 4, 16)
#: TensorRT-RTX without a target, as NVIDIA's page "CPU-Only AOT and TensorRT-RTX Engines" has it
PORTABLE = "any GPU of compute capability 8.0, 8.6, 8.9, 12.0 and later"


def flavour(wanted: str | None = None) -> tuple[ModuleType, str, str]:
    """Import the TensorRT that is there: module, name, version.

    ``tensorrt`` needs a GPU to build, so without one ``tensorrt_rtx`` goes first where both are installed.

    Raises:
        ExportError: none is installed (the message says what to do), or it is too old.
        UsageError: ``wanted`` is no flavour.
    """
    if wanted not in (None, *FLAVOURS):
        raise UsageError(f"--flavour {wanted!r}: accepted are {' and '.join(FLAVOURS)}{closest(wanted, FLAVOURS)}")
    order = [wanted] if wanted else sorted(FLAVOURS, key=lambda name: name == "tensorrt" and gpu() is None)
    for name in order:
        if find_spec(name) is None:
            continue
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as error:
            raise ExportError(
                f"{name} is installed but does not load ({error}); install it again, or take the other --flavour"
            ) from error
        version = str(module.__version__)
        if name == "tensorrt" and tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
            raise ExportError(
                f"tensorrt {version} is too old: {OLDEST[0]}.{OLDEST[1]} or newer is needed; pip install -U 'kdc[trt]'"
            )
        return module, name, version
    raise ExportError(
        f"no engine was built, {' or '.join(sorted(order))} is not installed: pip install 'kdc[trt-rtx]' builds "
        "without a GPU; or take the ONNX files to the target: pip install 'kdc[trt]' && kdc export trt FILE.onnx"
    )


def gpu() -> str | None:
    """Return name and compute capability of the first GPU, None without one; loads neither torch nor TensorRT."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None
    name, major, minor = ctypes.create_string_buffer(128), ctypes.c_int(), ctypes.c_int()
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
    calls = (
        lambda: cuda.cuInit(0),
        lambda: cuda.cuDeviceGetName(name, 128, 0),
        lambda: cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, 0),
        lambda: cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, 0),
    )
    return (
        None
        if any(call() for call in calls)
        else f"{name.value.decode()} (compute capability {major.value}.{minor.value})"
    )


def build_engine(
    onnx_path: Path,
    engine_path: Path,
    *,
    flavour_name: str | None = None,
    targets: Sequence[str] = (),
    batches: tuple[int, int, int] | None = None,
    workspace_mib: int | None = None,
    opt_level: int | None = None,
    timing_cache: Path | None = None,
) -> dict[str, Any]:
    """Build an engine in a process of its own and write it with its manifest ``<engine>.json``.

    Args:
        onnx_path: a file with the types as they shall run.
        engine_path: where the engine goes, atomically.
        flavour_name: "tensorrt" or "tensorrt_rtx"; None takes what is there.
        targets: compute capabilities such as "sm86", for tensorrt_rtx; none = its portable default.
        batches: min, opt, max of the optimisation profile where the batch is free (default ``BATCHES``).
        workspace_mib: scratch memory that the engine may use.
        opt_level: 0 to 5, for tensorrt; its default is 3.
        timing_cache: read and written there, for tensorrt.

    Returns:
        The manifest.

    Raises:
        ExportError: no TensorRT, the parser or builder refused the file, or the builder died.
        UsageError: a flag that the flavour or the file has no use for.
        WeightsError: the file is missing or no segmentation network.
        ResourceError: the builder was killed, as when memory runs out.
    """
    info = read_info(onnx_path)
    if batches is not None and info.shape[0] is not None:
        raise UsageError(
            f"--batches does nothing for {onnx_path}, which is made for a batch of {info.shape[0]}; leave it out"
        )
    name, version = check_flags(
        flavour_name,
        targets=targets,
        batches=batches,
        workspace_mib=workspace_mib,
        opt_level=opt_level,
        timing_cache=timing_cache,
    )
    targets = [each.lower() for each in targets]
    device = gpu()
    default = PORTABLE if name == "tensorrt_rtx" else device or "the GPU of this machine"
    target = ", ".join(targets) or default
    console.warn(f"{name} {version} builds {engine_path.name} for {target}")
    request: dict[str, Any] = {"onnx": str(onnx_path), "flavour": name, "targets": targets}
    request |= {"batches": list(batches or BATCHES)}
    request |= {"workspace_mib": workspace_mib, "opt_level": opt_level}
    request |= {"timing_cache": timing_cache and str(timing_cache), "parent": os.getpid()}
    engine_path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(engine_path) as beside:
        built = _in_child(request | {"engine": str(beside)})
    for text in built["notes"]:
        console.warn(text)
    if built["warnings"]:
        console.warn(f"{name} warned {built['warnings']} times; see notes in {manifest_path(engine_path).name}")
    built["notes"] += built.pop("said")
    manifest: dict[str, Any] = {"file": engine_path.name, "sha256": sha256(engine_path), "kind": "engine"}
    manifest |= {"bytes": engine_path.stat().st_size, "target": target, "targets": targets, **built}
    manifest |= {key.removeprefix("kdc."): value for key, value in info.metadata.items()}
    manifest |= {"precision": info.precision, "source": _source(onnx_path)}
    manifest |= {"onnx": {"file": onnx_path.name, "sha256": sha256(onnx_path)}}
    manifest |= {"host": f"{platform.node()}, {platform.platform()}", "gpu": device, "versions": versions()}
    write_json(manifest_path(engine_path), manifest)
    size, seconds = manifest["bytes"] / 2**20, built["build_seconds"]
    console.say(f"{engine_path.name}: {info.precision}, {size:.1f} MiB, built in {seconds:.1f} s (not run here)")
    return manifest


def _source(onnx_path: Path) -> Any:
    """Return which checkpoint the ONNX file came from, where its manifest fits it."""
    with contextlib.suppress(OSError, ValueError):
        values = json.loads(manifest_path(onnx_path).read_text())
        if values.get("sha256") == sha256(onnx_path):
            return values.get("source")
    return None


def check_flags(
    flavour_name: str | None = None,
    *,
    targets: Sequence[str] = (),
    batches: Sequence[int] | None = None,
    workspace_mib: int | None = None,
    opt_level: int | None = None,
    timing_cache: Path | None = None,
) -> tuple[str, str]:
    """Return name and version of the TensorRT that ``build_engine`` would take, if every flag means something to it.

    Raises:
        ExportError: see ``flavour``.
        UsageError: a value that is not accepted, or that this flavour has no use for.
    """
    batches, targets = batches or BATCHES, [each.lower() for each in targets]
    if len(batches) != 3 or not 1 <= batches[0] <= batches[1] <= batches[2]:
        raise UsageError(
            f"--batches {','.join(map(str, batches))}: smallest, usual and largest batch are needed, such as 1,4,16"
        )
    if workspace_mib is not None and workspace_mib < 1:
        raise UsageError(f"--workspace {workspace_mib}: at least 1 MiB is needed")
    if opt_level is not None and not 0 <= opt_level <= 5:
        raise UsageError(f"--opt-level {opt_level}: accepted are 0 (quick build) to 5 (quick engine)")
    module, name, version = flavour(flavour_name)
    if name == "tensorrt_rtx" and (timing_cache is not None or opt_level is not None):
        idle = "--timing-cache" if opt_level is None else "--opt-level"
        raise UsageError(f"{idle} does nothing in tensorrt_rtx, which tries no kernels while it builds; leave it out")
    if name == "tensorrt" and targets:
        raise UsageError("--target is for tensorrt_rtx; tensorrt builds for the GPU of its machine")
    if targets:
        known = [key.lower() for key in module.ComputeCapability.__members__ if key != "NONE"]
        for target in targets:
            if target not in known:
                raise UsageError(f"--target {target!r}: {name} builds for {', '.join(known)}{closest(target, known)}")
    return name, version


def _in_child(request: dict[str, Any]) -> dict[str, Any]:
    """Build in a child process and return what it reports; if it dies, its last words are told."""
    command = [sys.executable, "-m", f"{__package__}._trt_builder", json.dumps(request)]
    # the child must find this very package, however the parent came by it
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, errors="replace"
    )
    try:
        answer, words = child.communicate()
    finally:
        if child.poll() is None:  # interrupted: native code does not listen, so it is ended
            child.kill()
            child.wait()
    report: dict[str, Any] = {}
    with contextlib.suppress(ValueError, IndexError):
        report = json.loads(answer.strip().splitlines()[-1])
    if child.returncode == 0 and report:
        return report
    if "error" in report:
        raise ExportError(report["error"])
    said = [" ".join(line.split()) for line in words.splitlines() if line.strip()]
    ended = (
        f"signal {signal.Signals(-child.returncode).name}" if child.returncode < 0 else f"exit code {child.returncode}"
    )
    last = said[-1] if said else "none"
    told = f"the {request['flavour']} builder died on {request['onnx']} ({ended}); its last message: {last}"
    if -child.returncode == signal.SIGKILL:
        raise ResourceError(f"{told}; most likely memory ran out: give it more, or export a smaller --size")
    raise ExportError(told)
