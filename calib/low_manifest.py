"""The manifest of a quantised or cast file."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..deploy.artefacts.beside import Origin, artefact_bytes, weights_of
from ..deploy.artefacts.manifest import Manifest
from ..deploy.runtimes.file_info import FileInfo
from ..deploy.runtimes.openvino_file import read_ir
from ..deploy.runtimes.ort_runtime import read_info
from ..distill.run.files import sha256, versions
from ..distill.run.records import Record
from .low_precision import Form


@dataclass(frozen=True, kw_only=True)
class LowPrecisionManifest(Manifest):
    """The manifest of a quantised or cast file; ``facts`` are how it was made: ``calibration``, ``sensitivity``, ..."""

    MERGED: ClassVar = ("facts",)

    precision: str
    target: str
    source: Origin
    gate: Record | None = None
    weights: Origin | None
    bytes: int
    versions: dict[str, str]
    time: str
    contract: FileInfo
    facts: dict[str, Any]
    left_high: list[str]

    @classmethod
    def of(
        cls, path: Path, source: Path, form: Form, facts: dict[str, Any], left_high: list[str]
    ) -> "LowPrecisionManifest":
        """Describe a file that was made from a float32 one."""
        info = read_ir(path) if form.target == "openvino" else read_info(path)
        return cls(
            file=path.name,
            sha256=sha256(path),
            kind="openvino" if form.target == "openvino" else "onnx",
            fit=info.fit,
            precision=form.precision,
            target=form.target,
            source=Origin(file=source.name, sha256=sha256(source)),
            weights=weights_of(path),
            bytes=artefact_bytes(path),
            versions=versions(),
            time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            contract=info,
            facts=facts,
            left_high=left_high,
        )
