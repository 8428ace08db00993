"""How a TensorRT engine is built, and what its manifest says."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..deploy.artefacts.beside import Origin, manifest_of
from ..deploy.artefacts.manifest import Manifest, Record
from ..deploy.gpu.device import Gpu
from ..deploy.machine.passport import gpus
from ..deploy.runtimes.file_info import FileInfo, Port
from ..deploy.runtimes.trt.inspector import Proof
from ..deploy.runtimes.trt.manifest import this_platform
from ..distill.run.files import sha256, versions
from .trt_shapes import Sizes


@dataclass(frozen=True)
class BuildFlags:
    """How an engine is built.

    Attributes:
        flavour_name: "tensorrt" or "tensorrt_rtx"; None takes what is there.
        targets: compute capabilities such as "sm86", for tensorrt_rtx; none = its portable default.
        batches: min, opt, max of the profile where the batch is free (default 1, 4, 16).
        sizes: min, opt, max (H, W) in pixels of the profile, where height and width are free.
        workspace_mib: scratch memory that the engine may use.
        opt_level: 0 to 5, for tensorrt; its default is 3.
        timing_cache: read and written there, for tensorrt.
        version_compatible: newer TensorRTs may load the engine too.
        hardware: "ampere+" (any GPU from compute capability 8.0) or "same" (of the same one), for tensorrt.
        refit: its weights can be replaced.
        strip_weights: leave them out; they come back from the ONNX file beside the engine when it is opened.
        tf32: products of float32 may be computed in TF32, as is TensorRT's default.
    """

    flavour_name: str | None = None
    targets: Sequence[str] = ()
    batches: Sequence[int] | None = None
    sizes: Sizes | None = None
    workspace_mib: int | None = None
    opt_level: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware: str | None = None
    refit: bool = False
    strip_weights: bool = False
    tf32: bool = True

    @property
    def builder_flags(self) -> dict[str, str]:
        """TensorRT's name of each builder flag that is on, by the flag of the command line."""
        flags = {"--version-compatible": ("VERSION_COMPATIBLE", self.version_compatible)}
        flags |= {"--refit": ("REFIT", self.refit), "--strip-weights": ("STRIP_PLAN", self.strip_weights)}
        return {word: name for word, (name, on) in flags.items() if on}

    def words(self) -> list[str]:
        """Return the flags of the command line that ask for this; the timing cache, of this machine, is left out."""
        sizes = self.sizes and ",".join(f"{h}x{w}" for h, w in self.sizes)
        valued = {"--batches": self.batches and ",".join(map(str, self.batches)), "--sizes": sizes}
        valued |= {"--workspace": self.workspace_mib, "--opt-level": self.opt_level, "--hardware": self.hardware}
        words = [word for target in self.targets for word in ("--target", target.lower())]
        words += [word for key, value in valued.items() if value is not None for word in (key, str(value))]
        return [*words, *self.builder_flags, *([] if self.tf32 else ["--no-tf32"])]


@dataclass(frozen=True, kw_only=True)
class EngineManifest(Manifest):
    """The manifest of an engine.

    Attributes:
        target: what it runs on, in words.
        targets: compute capabilities that it was built for.
        notes: what the builder said.
        warnings: how many it gave.
        network: what kdc wrote into the ONNX file.
        calibration: how that file was made, where it is a low-precision one.
        flags: of the command line, to build it again.
        proof: see ``Proof``; None where it did not run here.
        golden: see ``GoldenResult``; None where it did not run here, or no golden image came along.
    """

    spread = ("network", "calibration")

    kind: str = "engine"
    bytes: int
    target: str
    targets: list[str]
    flavour: str
    version: str
    build_seconds: float
    tf32: bool
    opt_level: int
    workspace_mib: int
    layers: int
    inputs: list[Port]
    outputs: list[Port]
    profile: dict[str, list[int]] | None
    notes: list[str]
    warnings: int
    network: dict[str, Any]
    calibration: dict[str, Any]
    precision: str
    source: Origin | None
    onnx: Origin
    flags: list[str]
    version_compatible: bool
    hardware: str | None
    refit: bool
    stripped: bool
    gpu: str | None
    platform: str
    compute_capability: str | None
    cuda: str | None
    driver: str | None
    host: str
    versions: dict[str, str]
    proof: Proof | None = None
    golden: dict[str, Any] | None = None
    ran: Record | None = None
    gate: Record | None = None

    @property
    def runs_here(self) -> bool:
        """Whether it ran."""
        return self.proof is not None


def describe(
    onnx_path: Path,
    path: Path,
    built: dict[str, Any],
    flags: BuildFlags,
    info: FileInfo,
    device: Gpu | None,
    target: str,
) -> EngineManifest:
    """Describe a new engine.

    Args:
        onnx_path: what it was built from.
        path: the engine.
        built: what the builder reported.
        flags: how it was built.
        info: of the ONNX file.
        device: the GPU of this machine.
        target: what it runs on, in words.
    """
    made_from = manifest_of(onnx_path)
    calibration = ("calibration", "sensitivity", "left_high", "qat")
    return EngineManifest(
        file=path.name,
        sha256=sha256(path),
        bytes=path.stat().st_size,
        target=target,
        targets=[each.lower() for each in flags.targets],
        **built,
        network={key.removeprefix("kdc."): value for key, value in info.metadata.items()},
        calibration={key: made_from.values[key] for key in calibration if key in made_from.values},
        precision=info.precision,
        source=made_from.source,
        onnx=Origin(file=onnx_path.name, sha256=sha256(onnx_path)),
        flags=flags.words(),
        version_compatible=flags.version_compatible,
        hardware=flags.hardware,
        refit=flags.refit or flags.strip_weights,
        stripped=flags.strip_weights,
        gpu=device and str(device),
        platform=this_platform(),
        compute_capability=device and "{}.{}".format(*device.capability),
        cuda=device and device.cuda,
        driver=next((each["driver"] for each in gpus()), None) if device else None,
        host=f"{platform.node()}, {platform.platform()}",
        versions=versions(),
    )
