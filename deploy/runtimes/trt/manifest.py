"""The manifest of an engine, checked before it is deserialised: it is machine code, and runs only if vouched for."""

import platform
import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ....distill import console
from ....distill.errors import ExportError
from ...artefacts.beside import manifest_beside
from ...artefacts.trust import UntrustedError, vouched
from ...gpu.device import Gpu
from ..answer import Port

#: flavour -> the extra that installs it, in the order in which they are taken
FLAVOURS = {"tensorrt": "trt", "tensorrt_rtx": "trt-rtx"}
#: what an engine of TensorRT-RTX without a target runs on, as NVIDIA's page "CPU-Only AOT and TensorRT-RTX Engines"
#: has it: these compute capabilities, and all from 12.0
PORTABLE_SM = ((8, 0), (8, 6), (8, 9))
_PORTS = ("inputs", "outputs")
#: what the manifest keeps of the metadata of the ONNX file, without their ``kdc.``
_NETWORK = ("preprocess", "fit", "classes", "palette", "head", "answer")
#: what a manifest must hold to be compared with a machine
_KEYS = {"flavour": str, "version": str, "onnx": dict, "inputs": list, "outputs": list}


@dataclass(frozen=True)
class OnnxSource:
    """The ONNX file that an engine was built from, in the engine's folder."""

    file: str
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class EngineCard:
    """The parts of an engine's manifest that decide whether and how it runs here.

    Attributes:
        profile: "min", "opt" and "max" shape of the first input; None where no dimension is free.
        targets: compute capabilities that it was built for, such as "sm86".
        flags: of ``kdc export trt``, to build it again.
        target: what it runs on, in words.
        network: what kdc wrote into the ONNX file of preparation and classes.
    """

    flavour: str
    version: str
    onnx: OnnxSource
    inputs: list[Port]
    outputs: list[Port]
    profile: dict[str, list[int]] | None = None
    targets: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    target: str | None = None
    platform: str | None = None
    gpu: str | None = None
    compute_capability: str | None = None
    hardware: str | None = None
    version_compatible: bool = False
    stripped: bool = False
    precision: str = "unknown"
    tf32: bool = False
    network: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "EngineCard":
        """Read a manifest that ``read_manifest`` has found whole, or that was just written."""
        known = {each.name: values[each.name] for each in fields(cls) if values.get(each.name) is not None}
        known |= {key: [Port(p["name"], p["dtype"], tuple(p["shape"])) for p in values[key]] for key in _PORTS}
        known["onnx"] = OnnxSource(values["onnx"]["file"], values["onnx"].get("sha256"))
        known["network"] = {f"kdc.{key}": values[key] for key in _NETWORK if key in values}
        return cls(**known)

    def rebuild(self, path: Path) -> str:
        """Say the command that builds the engine at ``path`` anew."""
        source = path.with_name(self.onnx.file)
        words = ["kdc", "export", "trt", str(source), "--flavour", self.flavour, *self.flags]
        return f"build it again: {shlex.join(words)}"


def read_manifest(path: Path, trust: bool = False) -> EngineCard | None:
    """Return what the manifest of an engine says; with ``trust`` None where none is about it, with a warning.

    Raises:
        WeightsError: there is no such engine.
        UntrustedError: nothing vouches for it.
        ExportError: its manifest is not whole.
    """
    again = f"kdc export trt {path.stem.removesuffix('.fp32')}.onnx"
    try:
        values = vouched(path, "engine", trust=trust).values
    except UntrustedError as error:
        raise UntrustedError(f"{error}; an engine is built by: {again}") from error
    if not values:
        return None

    faults = [key for key, kind in _KEYS.items() if not isinstance(values.get(key), kind)] or _malformed(values)
    if faults or values["flavour"] not in FLAVOURS:
        raise ExportError(
            f"{path.name}.json does not say what an engine of kdc's does ({', '.join(faults) or 'flavour'}); "
            f"build it again: {again}"
        )
    return EngineCard.from_dict(values)


def _malformed(values: dict[str, Any]) -> list[str]:
    """Name the keys of a manifest whose values have another form than they should."""

    def whole(numbers: Any) -> bool:
        return isinstance(numbers, list) and all(n is None or isinstance(n, int) for n in numbers)

    def texts(words: Any) -> bool:
        return isinstance(words, list) and all(isinstance(word, str) for word in words)

    def port(each: Any) -> bool:
        named = isinstance(each, dict) and isinstance(each.get("name"), str) and isinstance(each.get("dtype"), str)
        return named and whole(each.get("shape"))

    profile, source = values.get("profile"), values["onnx"].get("file")
    checks = {
        "onnx": isinstance(source, str) and Path(source).name == source,
        "inputs": all(map(port, values["inputs"])),
        "outputs": all(map(port, values["outputs"])),
        "profile": profile is None or (isinstance(profile, dict) and all(map(whole, profile.values()))),
        "targets": texts(values.get("targets", [])),
        "flags": texts(values.get("flags", [])),
        "classes": texts(values.get("classes", [])),
    }
    return [key for key, good in checks.items() if not good]


def check_fits(card: EngineCard, path: Path, version: str, gpu: Gpu | None) -> None:
    """Refuse an engine that the TensorRT and the GPU of this machine would not load.

    Args:
        card: what its manifest says.
        path: the engine, for the message.
        version: of the installed TensorRT of the engine's flavour.
        gpu: the device it would run on, None where there is none to compare with.

    Raises:
        ExportError: made for another TensorRT, GPU or platform; the message says how to rebuild it.
    """
    built, flavour = card.version, card.flavour
    faults = []
    if built != version:
        newer = _numbers(version) > _numbers(built)
        if not (card.version_compatible and newer):
            may = newer and flavour == "tensorrt"  # TensorRT-RTX knows no such engines
            hint = " (--version-compatible engines also load in newer ones)" if may else ""
            faults.append(f"{flavour} {built} built it, {version} is installed{hint}")
    if card.platform not in (None, here := this_platform()):
        faults.append(f"it was built for {card.platform}, this is {here}")
    if gpu is not None and (fault := _other_gpu(card, gpu)):
        faults.append(fault)

    if faults:
        raise ExportError(f"{path} does not fit this machine: {'; '.join(faults)}; {card.rebuild(path)}")
    if gpu is not None and card.gpu not in (None, str(gpu)) and not card.targets:
        console.warn(f"{path.name} was tuned on {card.gpu} and runs on {gpu}: build it here for the best speed")


def engine_size(path: Path) -> tuple[int, int] | None:
    """Return height and width that an engine was built or tuned for, if anything beside it says so."""
    manifest = manifest_beside(path).values
    try:
        shape = (manifest.get("profile") or {}).get("opt") or manifest["inputs"][0]["shape"]
        height, width = shape[1:3] if shape[3] == 3 and shape[1] != 3 else shape[2:]
    except (LookupError, AttributeError, TypeError, ValueError):
        return None
    return (height, width) if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0 else None


def this_platform() -> str:
    """Name the system and processor that an engine's host code is for."""
    return f"{platform.system()} {platform.machine()}"


def _other_gpu(card: EngineCard, gpu: Gpu) -> str | None:
    """Say why an engine does not run on this GPU; None where it does, or where that is not known."""
    targets, own = list(card.targets), card.compute_capability
    if "current" in targets:  # which capability that was stands in the manifest
        targets.remove("current")
        targets += [f"sm{own.replace('.', '')}"] if own else []

    here = f"this is {gpu}"
    if targets:
        fits = f"sm{gpu.capability[0]}{gpu.capability[1]}" in targets
        return None if fits else f"it was built for {', '.join(targets)}, {here}"
    if card.flavour == "tensorrt_rtx":
        fits = gpu.capability in PORTABLE_SM or gpu.capability >= (12, 0)
        return None if fits else f"it was built for {card.target}, {here}"
    if own is None:
        return None
    if card.hardware == "ampere+":
        return None if gpu.capability >= (8, 0) else f"it was built for compute capability 8.0 and later, {here}"
    return None if _numbers(own) == gpu.capability else f"it was built for compute capability {own}, {here}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
