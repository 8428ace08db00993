"""From an ONNX file to OpenVINO's own form (.xml with .bin beside), gated on OpenVINO itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..deploy.artefacts.beside import (
    Origin,
    StoredManifest,
    artefact_bytes,
    manifest_of,
    manifest_path,
    owner,
    weights_of,
)
from ..deploy.artefacts.lock import alone
from ..deploy.artefacts.manifest import Manifest
from ..deploy.machine.passport import version
from ..deploy.parity.produce import Trial, check_writable, gate_present, images_of, produce
from ..deploy.parity.tolerances import tolerances
from ..deploy.runtimes.adopt import adopted
from ..deploy.runtimes.answer import Port
from ..deploy.runtimes.openvino_file import read_ir
from ..deploy.runtimes.ort_runtime import read_info
from ..deploy.runtimes.said import NOTHING, Said
from ..distill import console
from ..distill.data import Dataset
from ..distill.errors import ExportError, UsageError, WeightsError, closest, need
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
    said: Said = NOTHING,
    data: str | None = None,
    out: Path | None = None,
) -> list[StoredManifest | OpenvinoManifest]:
    """Write a network for OpenVINO; every file is compared on OpenVINO with the ONNX file on real images.

    Args:
        source: a run, whose ONNX file is written first where it is missing; or a float32 ONNX file of any maker.
        precisions: "fp32", "fp16" (weights only) and "int8", which is what ``kdc calib --for openvino`` left.
        settings: of every gate, and for a run of its ONNX file; of a file that leaves its size free the size.
        said: what is known of a file of another maker that it does not say itself.
        data: name or folder whose images the gates see (default: the run's own).
        out: folder of the new files (default: that of the ONNX file).

    Returns:
        The manifests.

    Raises:
        UsageError: an unknown precision, or a file of no run without data.
        WeightsError: the ONNX file is missing, broken, or segments no images.
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
    if isinstance(source, Path) and not source.is_file():
        raise WeightsError(f"{source} does not exist")
    need("openvino", "openvino")

    run = source if isinstance(source, Run) else owner(source)
    onnx_path = gated_onnx(source, settings) if isinstance(source, Run) else source
    if (own := read_info(onnx_path).precision) != "fp32":
        raise UsageError(f"{onnx_path} is {own}; OpenVINO's files are made from the float32 one")
    check_writable(out or onnx_path.parent)
    dataset = images_of(onnx_path, run, data)
    with adopted(onnx_path, None if isinstance(source, Run) else settings.size, said.for_data(dataset)) as full:
        work = _Work(run, onnx_path, full, dataset, out, settings)
        return [_export(work, precision) for precision in precisions]


def ir_path(onnx_path: Path, precision: str, out: Path | None = None) -> Path:
    """Name the OpenVINO file of an ONNX file: ``model.xml``, ``model.fp16.xml``, ``model.int8.openvino.xml``."""
    return (out or onnx_path.parent) / f"{onnx_path.name.removesuffix('.onnx')}{SUFFIXES[precision]}.xml"


@dataclass(frozen=True)
class _Work:
    """An ONNX file to convert: ``full`` is what it was made ready as, ``data`` what the gates see."""

    run: Run | None
    onnx: Path
    full: Path
    data: Dataset
    out: Path | None
    settings: ExportSettings

    def trial(self, precision: str) -> Trial:
        """Return the gate of a file."""
        limits = tolerances(precision, self.run, agreement=self.settings.agreement)
        return Trial(self.full, limits, CURES[precision], self.settings.images, data=self.data)


def _export(work: _Work, precision: str) -> StoredManifest | OpenvinoManifest:
    final = ir_path(work.onnx, precision, work.out)
    if precision == "int8":
        return _present(work, final)

    def write(path: Path) -> OpenvinoManifest:
        write_ir(work.full, path, compress=precision == "fp16")
        return OpenvinoManifest.of(path, precision, work.onnx)

    home = None if work.out else work.run
    return _said_of(final, produce(home, final, write, work.trial(precision)).manifest)


def _present(work: _Work, final: Path) -> StoredManifest | OpenvinoManifest:
    """Return the INT8 file that calibration left; one of a run that has passed no gate goes through it."""
    run = work.run
    again = f"kdc calib {run.spec if run else f'{work.onnx} --data NAME|DIR'} --to int8 --for openvino"
    if not final.is_file():
        raise ExportError(f"{final.name} is missing; make it with: {again}")
    if (known := manifest_of(final)).gated:
        console.say(f"{final.name} passed its gate when it was calibrated")
        return known
    if not final.with_suffix(".bin").is_file():
        raise ExportError(
            f"{final.name} lacks its weights, {final.with_suffix('.bin').name}; make it again with: {again}"
        )
    if run is None:
        raise ExportError(f"{final.name} has passed no gate; make it again with: {again}")
    made = OpenvinoManifest.of(final, "int8", work.onnx)
    return _said_of(final, gate_present(run, final, made, work.trial("int8")).manifest)


def _said_of(final: Path, manifest: OpenvinoManifest) -> OpenvinoManifest:
    console.say(f"{final} ({file_size(manifest.bytes)} with its .bin), manifest {manifest_path(final).name}")
    return manifest
