"""From an ONNX file of any maker to one that says of itself all that kdc settled of it, so that it is said once."""

import shutil
from pathlib import Path

from ..calib.calibrate import LowPrecisionManifest, Settings, calibrate_file, calibrate_run
from ..calib.low_precision import check_caster
from ..deploy.artefacts.beside import Origin, owner
from ..deploy.artefacts.lock import alone
from ..deploy.parity.produce import Product, Trial, check_writable, images_of, produce
from ..deploy.parity.tolerances import tolerances
from ..deploy.runtimes.adopt import adopted
from ..deploy.runtimes.ort_runtime import read_info
from ..deploy.runtimes.said import NOTHING, Said
from ..distill import console
from ..distill.errors import UsageError
from ..distill.run.files import sha256
from .settings import DEFAULTS, ExportSettings
from .to_onnx import OnnxManifest

CURE = "the file computes something else than before, please report it"


def written_path(source: Path, out: Path | None = None) -> Path:
    """Name what is made of a file: ``net.kdc.onnx``."""
    return (out or source.parent) / f"{source.name.removesuffix('.onnx')}.kdc.onnx"


@alone
def export_file(
    source: Path,
    settings: ExportSettings = DEFAULTS,
    *,
    said: Said = NOTHING,
    data: str | None = None,
    out: Path | None = None,
) -> list[Product[OnnxManifest] | Product[LowPrecisionManifest]]:
    """Write an ONNX file of another maker with its size, its answer and its preparation of images in its metadata.

    Args:
        source: a float32 file; one of kdc's own says all that already.
        settings: size of a file that leaves it free, fit, precisions and gate.
        said: what is known of it that it does not say itself.
        data: name or folder whose images the gates see (default: those of the run that it lies in).
        out: folder of the new file (default: that of the source).

    Raises:
        UsageError: a file of kdc's own, or one without data.
        WeightsError: the file is missing, broken, or segments no images.
        NumbersError: a gate failed; that file is not kept.
    """
    info, run = read_info(source), owner(source)
    if info.own:
        raise UsageError(
            f"{source} was exported by kdc and says all of itself; name the run to export another, or make a smaller "
            f"one: kdc calib {source} --to fp16 --data NAME|DIR"
        )
    if info.precision != "fp32":
        raise UsageError(f"{source} is {info.precision}; name the float32 file")
    check_caster(settings.caster)
    final = written_path(source, out)
    check_writable(final.parent)
    dataset, home = images_of(source, run, data), None if out else run

    with adopted(source, settings.size, said.for_data(dataset), settings.fit) as full:

        def write(path: Path) -> OnnxManifest:
            shutil.copyfile(full, path)
            return OnnxManifest.of(path, Origin(file=source.name, sha256=sha256(source)))

        limits = tolerances("fp32", home, agreement=settings.agreement)
        made = produce(home, final, write, Trial(full, limits, CURE, settings.images, data=dataset))
    console.say(f"{final}, manifest {final.name}.json; no flag need be said of it any more")

    exported: list[Product[OnnxManifest] | Product[LowPrecisionManifest]] = [made]
    if "fp16" in settings.precisions:
        low = Settings(
            to="fp16",
            source=final,
            keep=settings.block_nodes,
            allow_partial=settings.allow_partial,
            caster=settings.caster,
            data=data,
            gate_images=settings.images,
            agreement=settings.agreement,
        )
        exported.append(calibrate_run(home, low) if home else calibrate_file(final, low))
    return exported
