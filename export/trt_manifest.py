"""The manifest of a TensorRT engine."""

import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ..deploy.artefacts.beside import Origin, manifest_of
from ..deploy.artefacts.manifest import Manifest
from ..deploy.gpu.device import Gpu
from ..deploy.machine.passport import gpus
from ..deploy.parity.golden import GoldenResult
from ..deploy.runtimes.file_info import FileInfo
from ..deploy.runtimes.trt.inspector import PrecisionShares
from ..deploy.runtimes.trt.manifest import this_platform
from ..distill.run.files import sha256, versions
from ..distill.run.records import Record
from .settings import BuildFlags
from .trt_builder import BuildReport


@dataclass(frozen=True, kw_only=True)
class EngineManifest(Manifest):
    """The manifest of an engine.

    Attributes:
        target: what it runs on, in words.
        targets: compute capabilities that it was built for.
        built: what the builder reported.
        network: what kdc wrote into the ONNX file.
        calibration: how that file was made, where it is a low-precision one.
        flags: of the command line, to build it again.
        proof: see ``PrecisionShares``; None where it did not run here.
        golden: see ``GoldenResult``; None where it did not run here, or no golden image came along.
    """

    MERGED: ClassVar = ("built", "network", "calibration")

    kind: str = "engine"
    bytes: int
    target: str
    targets: list[str]
    built: BuildReport
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
    proof: PrecisionShares | None = None
    golden: GoldenResult | None = None
    ran: Record | None = None
    gate: Record | None = None

    @property
    def runs_here(self) -> bool:
        """Whether it ran."""
        return self.proof is not None


def describe(
    onnx_path: Path,
    path: Path,
    built: BuildReport,
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
        fit=info.fit,
        bytes=path.stat().st_size,
        target=target,
        targets=[each.lower() for each in flags.targets],
        built=replace(built, notes=built.notes + (built.said or []), said=None),
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
        driver=next((each.driver for each in gpus()), None) if device else None,
        host=f"{platform.node()}, {platform.platform()}",
        versions=versions(),
    )
