"""What is checked before an engine is deserialised: it is machine code, so it runs only where its manifest vouches."""

import platform
import shlex
from pathlib import Path
from typing import Any

from ....distill import console
from ....distill.errors import ExportError
from ...artefacts.trust import vouched
from ...gpu.device import Gpu
from ..file_info import Port

#: flavour -> the extra that installs it, in the order in which they are taken
FLAVOURS = {"tensorrt": "trt", "tensorrt_rtx": "trt-rtx"}
#: what an engine of TensorRT-RTX without a target runs on, as NVIDIA's page "CPU-Only AOT and TensorRT-RTX Engines"
#: has it: these compute capabilities, and all from 12.0
PORTABLE_SM = ((8, 0), (8, 6), (8, 9))
#: what a manifest must hold to be compared with a machine
_KEYS = {"flavour": str, "version": str, "onnx": dict, "inputs": list, "outputs": list}


def read_manifest(path: Path, trust: bool = False) -> dict[str, Any]:
    """Return the manifest of an engine; with ``trust`` an empty one where none vouches for it, said loudly.

    Raises:
        WeightsError: there is no such engine.
        ExportError: no manifest of kdc's, one that describes another file, or one that is not whole.
    """
    again = f"kdc export trt {path.stem.removesuffix('.fp32')}.onnx"
    try:
        values = vouched(path, "engine", trust=trust)
    except ExportError as error:
        raise ExportError(f"{error}; an engine is built by: {again}") from error
    lacking = [key for key, kind in _KEYS.items() if values and not isinstance(values.get(key), kind)]
    lacking += [] if lacking or not values else _odd(values)
    if lacking or (values and values["flavour"] not in FLAVOURS):
        raise ExportError(
            f"{path.name}.json does not say what an engine of kdc's does ({', '.join(lacking) or 'flavour'}); "
            f"build it again: {again}"
        )
    return values


def _odd(values: dict[str, Any]) -> list[str]:
    """Name the keys of a manifest that hold something else than they should."""

    def whole(numbers: Any) -> bool:
        return isinstance(numbers, list) and all(n is None or isinstance(n, int) for n in numbers)

    def texts(words: Any) -> bool:
        return isinstance(words, list) and all(isinstance(word, str) for word in words)

    def port(each: Any) -> bool:
        named = isinstance(each, dict) and isinstance(each.get("name"), str) and isinstance(each.get("dtype"), str)
        return named and whole(each.get("shape"))

    profile, source = values.get("profile"), values["onnx"].get("file")
    fine = {
        "onnx": isinstance(source, str) and Path(source).name == source,
        "inputs": all(map(port, values["inputs"])),
        "outputs": all(map(port, values["outputs"])),
        "profile": profile is None or (isinstance(profile, dict) and all(map(whole, profile.values()))),
        "targets": texts(values.get("targets", [])),
        "flags": texts(values.get("flags", [])),
        "classes": texts(values.get("classes", [])),
    }
    return [key for key, good in fine.items() if not good]


def check_fits(manifest: dict[str, Any], path: Path, version: str, gpu: Gpu | None) -> None:
    """Refuse an engine that the TensorRT and the GPU of this machine would not load.

    Args:
        manifest: what ``read_manifest`` gave.
        path: the engine, for the message.
        version: of the installed TensorRT of the manifest's flavour.
        gpu: the device it would run on, None where there is none to compare with.

    Raises:
        ExportError: made for another TensorRT, GPU or platform; the message says how to rebuild it.
    """
    built, flavour = manifest["version"], manifest["flavour"]
    faults = []
    if built != version:
        newer = _numbers(version) > _numbers(built)
        if not (manifest.get("version_compatible") and newer):
            may = newer and flavour == "tensorrt"  # TensorRT-RTX knows no such engines
            hint = " (--version-compatible engines also load in newer ones)" if may else ""
            faults.append(f"{flavour} {built} built it, {version} is installed{hint}")
    if (here := this_platform()) != manifest.get("platform", here):
        faults.append(f"it was built for {manifest['platform']}, this is {here}")
    if gpu is not None and (fault := _other_gpu(manifest, gpu)):
        faults.append(fault)
    if faults:
        raise ExportError(f"{path} does not fit this machine: {'; '.join(faults)}; {rebuild(manifest, path)}")
    if gpu is not None and manifest.get("gpu") not in (None, str(gpu)) and not manifest.get("targets"):
        console.warn(f"{path.name} was tuned on {manifest['gpu']} and runs on {gpu}: build it here for the best speed")


def ports(manifest: dict[str, Any], which: str) -> list[Port]:
    """Return the "inputs" or "outputs" that a manifest names."""
    return [Port(each["name"], each["dtype"], tuple(each["shape"])) for each in manifest[which]]


def engine_size(manifest: dict[str, Any]) -> tuple[int, int] | None:
    """Return height and width that an engine was built or tuned for, from whatever a manifest says; None if nothing."""
    try:
        shape = (manifest.get("profile") or {}).get("opt") or manifest["inputs"][0]["shape"]
        height, width = shape[1:3] if shape[3] == 3 and shape[1] != 3 else shape[2:]
    except (LookupError, AttributeError, TypeError, ValueError):
        return None
    return (height, width) if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0 else None


def rebuild(manifest: dict[str, Any], path: Path) -> str:
    """Say the command that builds an engine anew."""
    source = path.with_name(manifest["onnx"]["file"])
    words = ["kdc", "export", "trt", str(source), "--flavour", manifest["flavour"], *manifest.get("flags", [])]
    return f"build it again: {shlex.join(words)}"


def this_platform() -> str:
    """Name the system and processor that an engine's host code is for."""
    return f"{platform.system()} {platform.machine()}"


def _other_gpu(manifest: dict[str, Any], gpu: Gpu) -> str | None:
    """Say why an engine does not run on this GPU; None where it does, or where nobody knows."""
    targets, own = list(manifest.get("targets", ())), manifest.get("compute_capability")
    if "current" in targets:  # what that was stands beside it
        targets.remove("current")
        targets += [f"sm{own.replace('.', '')}"] if own else []
    here = f"this is {gpu}"
    if targets:
        fits = f"sm{gpu.capability[0]}{gpu.capability[1]}" in targets
        return None if fits else f"it was built for {', '.join(targets)}, {here}"
    if manifest["flavour"] == "tensorrt_rtx":
        fits = gpu.capability in PORTABLE_SM or gpu.capability >= (12, 0)
        return None if fits else f"it was built for {manifest.get('target')}, {here}"
    if own is None:
        return None
    if manifest.get("hardware") == "ampere+":
        return None if gpu.capability >= (8, 0) else f"it was built for compute capability 8.0 and later, {here}"
    return None if _numbers(own) == gpu.capability else f"it was built for compute capability {own}, {here}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
