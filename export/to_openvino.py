"""From a run's ONNX file to OpenVINO's own form (.xml with .bin beside), gated on OpenVINO itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..deploy.artefacts.beside import Origin, StoredManifest, artefact_bytes, manifest_of, manifest_path, weights_of
from ..deploy.artefacts.lock import alone
from ..deploy.artefacts.manifest import Manifest, run_of
from ..deploy.machine.passport import version
from ..deploy.parity.produce import Trial, gate_present, produce
from ..deploy.parity.tolerances import tolerances
from ..deploy.runtimes.answer import Port
from ..deploy.runtimes.openvino_file import read_ir
from ..deploy.runtimes.ort_runtime import read_info
from ..distill import console
from ..distill.errors import ExportError, UsageError, closest, need
from ..distill.run.files import sha256, versions
from ..distill.run.folder import Run
from ..distill.run.records import Record
from ..distill.units import file_size
from .settings import DEFAULTS, ExportSettings
from .to_onnx import gated_onnx

#: precision -> what stands before ``.xml``; "fp16" compresses the weights only, OpenVINO computes them in float32
SUFFIXES = {"fp32": "", "fp16": ".fp16", "int8": ".int8.openvino"}
CURES = {
    "fp32": "OpenVINO computes something else, please report it with the model's name and size",
    "fp16": "--precision fp32 keeps the weights whole, --agreement SHARE lowers the bar",
    "int8": "calibrate it again with more --images: kdc calib --to int8 --for openvino",
}


@dataclass(frozen=True, kw_only=True)
class OpenvinoManifest(Manifest):
    """The manifest of an OpenVINO file; ``network`` is what kdc wrote into the file itself."""

    MERGED: ClassVar = ("network",)

    precision: str
    weights: Origin | None
    bytes: int
    network: dict[str, Any]
    inputs: list[Port]
    onnx: Origin
    source: Origin | None
    openvino: str | None
    versions: dict[str, str]
    ran: Record | None = None
    gate: Record | None = None

    @classmethod
    def of(cls, path: Path, precision: str, onnx_path: Path) -> "OpenvinoManifest":
        """Describe a file that was made from an ONNX file."""
        info = read_ir(path)
        facts = {key.removeprefix("kdc."): value for key, value in info.metadata.items() if key != "kdc.precision"}
        return cls(
            file=path.name,
            sha256=sha256(path),
            kind="openvino",
            fit=info.fit,
            precision=precision,
            weights=weights_of(path),
            bytes=artefact_bytes(path),
            network=facts,
            inputs=[Port(info.input, info.dtype, info.shape)],
            onnx=Origin(file=onnx_path.name, sha256=sha256(onnx_path)),
            source=manifest_of(onnx_path).source,
            openvino=version("openvino"),
            versions=versions(),
        )


def write_ir(onnx_path: Path, path: Path, *, compress: bool = False) -> Path:
    """Write an ONNX file as ``path`` (.xml) and the .bin beside it; kdc's metadata go along.

    Args:
        onnx_path: a float32 file.
        path: where the .xml goes, and the .bin beside it.
        compress: store the weights as float16.

    Raises:
        ExportError: OpenVINO is not installed or refused the file.
    """
    ov = need("openvino", "openvino")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # not convert_model, which reports its use over the network
        ov.save_model(ov.Core().read_model(str(onnx_path)), str(path), compress_to_fp16=compress)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO {ov.__version__} cannot convert {onnx_path}: {error}") from error
    return path


@alone
def export_openvino(
    source: Run | Path,
    *,
    precisions: Sequence[str] = ("fp32",),
    settings: ExportSettings = DEFAULTS,
) -> list[StoredManifest | OpenvinoManifest]:
    """Write a run's network for OpenVINO; every file is compared on OpenVINO with the ONNX file on real images.

    Args:
        source: a run, whose ONNX file is written first where it is missing; or one of its float32 ONNX files.
        precisions: "fp32", "fp16" (weights only) and "int8", which is what ``kdc calib --for openvino`` left.
        settings: of every gate, and for a run of its ONNX file.

    Returns:
        The manifests.

    Raises:
        UsageError: an unknown precision, or a file of no run.
        ExportError: OpenVINO is missing, or there is no INT8 file yet.
        NumbersError: a gate failed; that file is not kept, an earlier one of its name stays.
    """
    for precision in precisions:
        if precision not in SUFFIXES:
            raise UsageError(
                f"--precision {precision!r}: accepted are {', '.join(SUFFIXES)}{closest(precision, SUFFIXES)}"
            )
    if isinstance(source, Path) and source.suffix.lower() != ".onnx":
        raise UsageError(f"{source}: OpenVINO's files are made from an ONNX file; name one, or the run")
    need("openvino", "openvino")
    run = source if isinstance(source, Run) else run_of(source)
    onnx_path = gated_onnx(run, settings) if isinstance(source, Run) else source
    if (own := read_info(onnx_path).precision) != "fp32":
        raise UsageError(f"{onnx_path} is {own}; OpenVINO's files are made from the float32 one")
    return [_export(run, onnx_path, precision, settings) for precision in precisions]


def ir_path(onnx_path: Path, precision: str) -> Path:
    """Name the OpenVINO file of an ONNX file: ``model.xml``, ``model.fp16.xml``, ``model.int8.openvino.xml``."""
    return onnx_path.with_name(f"{onnx_path.name.removesuffix('.onnx')}{SUFFIXES[precision]}.xml")


def _export(run: Run, onnx_path: Path, precision: str, settings: ExportSettings) -> StoredManifest | OpenvinoManifest:
    final = ir_path(onnx_path, precision)
    if precision == "int8":
        if not final.is_file():
            raise ExportError(f"{final.name} is missing; make it with: kdc calib {run.spec} --to int8 --for openvino")
        if (known := manifest_of(final)).gated:
            console.say(f"{final.name} passed its gate when it was calibrated")
            return known
        if not final.with_suffix(".bin").is_file():
            raise ExportError(
                f"{final.name} lacks its weights, {final.with_suffix('.bin').name}; make it again with: "
                f"kdc calib {run.spec} --to int8 --for openvino"
            )
    limits = tolerances(precision, run, agreement=settings.agreement)
    trial = Trial(onnx_path, limits, CURES[precision], settings.images)

    def write(path: Path) -> OpenvinoManifest:
        write_ir(onnx_path, path, compress=precision == "fp16")
        return OpenvinoManifest.of(path, precision, onnx_path)

    if precision == "int8":
        manifest = gate_present(run, final, OpenvinoManifest.of(final, precision, onnx_path), trial).manifest
    else:
        manifest = produce(run, final, write, trial).manifest
    console.say(f"{final} ({file_size(manifest.bytes)} with its .bin), manifest {manifest_path(final).name}")
    return manifest
