"""From a gated ONNX file to one zip that runs anywhere with numpy and ONNX Runtime, and can check itself there."""

import hashlib
import io
import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..deploy.artefacts.beside import GateRow, Origin, golden_path, manifest_of, owner
from ..deploy.artefacts.ledger import read_gates
from ..deploy.artefacts.lock import alone
from ..deploy.artefacts.manifest import Manifest, write_manifest
from ..deploy.artefacts.safe_onnx import whole
from ..deploy.parity.golden import Golden, GoldenFacts, capture, read_golden
from ..deploy.parity.tolerances import tolerances
from ..deploy.runtimes.adopt import adopted
from ..deploy.runtimes.base import Runtime, answers
from ..deploy.runtimes.open import open_runtime
from ..deploy.runtimes.ort_runtime import read_info
from ..deploy.runtimes.said import NOTHING, Said
from ..distill import console
from ..distill.errors import ExportError, UsageError, WeightsError
from ..distill.run.files import sha256, versions, write_bytes
from ..distill.run.folder import Run
from ..distill.run.records import Record, plain
from ..distill.run.stale import refuse_stale
from .runner import network as runner

#: the files of the runner
RUNNER = Path(runner.__file__).parent
#: what starts it
RUN = '''"""Segment an image with the network beside this file; numpy and onnxruntime are all it needs.

    python run.py IMAGE --out mask.png     class numbers of every pixel: .png (coloured), .pgm or .npy
    python run.py --check                  segment the golden image and compare with its known mask

Images: .npy (uint8, height x width x 3, RGB) and .ppm are read by numpy, others by cv2 or PIL if one is installed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from runner.main import main

main()
'''
_SMALLER = "smaller ones are padded to the right and below"
#: what the runner does with images of other sizes, for the README
_FITS: dict[str, str] = {
    "pad": f"{_SMALLER}, larger ones are shrunk until they fit",
    "resize": "others are resized, and their masks back",
    "tile": f"{_SMALLER}, larger ones are cut into overlapping windows",
}
#: the oldest onnxruntime that kdc itself is tested with
REQUIREMENTS = "numpy>=1.26\nonnxruntime>=1.24.1\n"


@dataclass(frozen=True, kw_only=True)
class BundleManifest(Manifest):
    """The manifest of a bundle."""

    bytes: int
    onnx: Origin
    golden: runner.GoldenFacts
    source: Origin | None
    versions: dict[str, str]


@dataclass(frozen=True)
class PackedBundle(Record):
    """A zip file with a network and its runner."""

    MERGED: ClassVar = ("manifest",)

    manifest: BundleManifest
    path: Path


@alone
def export_bundle(
    source: Path,
    out: Path | None = None,
    *,
    golden_image: bool = True,
    size: tuple[int, int] | None = None,
    said: Said = NOTHING,
) -> PackedBundle:
    """Write the zip and its manifest.

    Args:
        source: an ONNX file of any maker.
        out: the zip (default: ``<file>.zip`` beside the file).
        golden_image: take the validation image of the file's gate; else a generated scene with the file's own mask,
            which shows that the file runs the same elsewhere, not that it is right.
        size: height and width, of a file that leaves them free.
        said: what is known of a file of another maker that it does not say itself.

    Raises:
        UsageError: no ONNX file, a flag that does not fit it, or ``out`` is a folder.
        ExportError: ONNX Runtime's CPU cannot run it.
        WeightsError: the file is missing or broken, or segments no images.
    """
    if source.suffix.lower() != ".onnx":
        raise UsageError(f"{source}: a bundle holds an ONNX file; make one with kdc export onnx")
    refuse_stale(source)
    if out is not None and out.is_dir():
        raise UsageError(f"--out {out} is a folder; name the zip, such as {out / source.stem}.zip")

    with adopted(source, size, said) as full, open_runtime(full) as runtime:
        if "simulated" in runtime.provider:
            raise ExportError(
                f"{source.name} is {runtime.precision}, which ONNX Runtime's CPU cannot run and the bundle's runner "
                "would have to: bundle the float32, the FP16 or the INT8 file (kdc calib --for ort)"
            )
        golden = _golden(source, runtime, golden_image)
        return _packed(source, full, runtime, golden, out)


def _packed(source: Path, full: Path, runtime: Runtime, golden: Golden, out: Path | None) -> PackedBundle:
    """Write the zip of a file, which was made ready as ``full``, and what belongs to it."""
    spec, facts, run, model = runtime.spec, golden.facts, owner(source), whole(full)
    out = out or source.with_name(f"{source.name.removesuffix('.onnx')}.zip")
    name = run.path.name if run else source.name.removesuffix(".onnx")
    image = runner.GoldenFacts(facts.data, facts.key, facts.generated, facts.reference, golden.needed)
    network = _network(read_info(full).input, runtime, model, image)
    files = {
        "model.onnx": model,
        "network.json": _json(asdict(network)),
        "preprocess.json": _json(spec.preprocess.to_dict()),
        "palette.json": _json([list(colour) for colour in spec.palette]),
        "labels.txt": "".join(f"{label}\n" for label in spec.classes).encode(),
        "gates.json": _json(plain(_gates(run, source))),
        "golden.ppm": _pnm(golden.image),
        "golden_mask.pgm": _pnm(golden.mask),
        "golden_second.pgm": _pnm(golden.second),
        "requirements.txt": REQUIREMENTS.encode(),
        "run.py": RUN.encode(),
        **{f"runner/{each.name}": each.read_bytes() for each in sorted(RUNNER.glob("*.py"))},
        "README.md": _readme(name, network, spec.classes).encode(),
    }
    write_bytes(out, _zip(name, files))

    origin = manifest_of(source)
    manifest = BundleManifest(
        file=out.name,
        sha256=sha256(out),
        kind="bundle",
        fit=spec.fit,
        bytes=out.stat().st_size,
        onnx=Origin(file=source.name, sha256=sha256(source)),
        golden=image,
        source=origin.source,
        versions=versions(),
    )
    write_manifest(out, manifest)

    if not image.generated:
        console.warn(
            f"{out.name} holds an image of your data ({image.key} of {image.data}); "
            "--no-golden-image puts a generated scene in its place"
        )
    if not origin.gated:
        console.warn(f"{source.name} has passed no gate: the bundled network may differ from the trained one")
    if run and out.resolve().is_relative_to(run.path):
        run.remember_command()
        run.seal()
    return PackedBundle(manifest, out)


def _golden(source: Path, runtime: Runtime, own: bool) -> Golden:
    """Return the file's own golden image, or a generated scene."""
    if own and golden_path(source).is_file():
        golden = read_golden(source)
        if golden.facts.sha256 == sha256(source):
            return golden
        raise WeightsError(f"{golden_path(source)} belongs to another file than {source.name}; export it again")
    if own:
        console.warn(f"{source.name} has no golden image: the bundle gets a generated scene with the file's own mask")

    from ..distill.data import open_data

    # scenes have at least 32 pixels a side
    dataset = open_data("builtin", "val", size=tuple(max(32, n) for n in runtime.spec.size), val_count=1)
    image = runtime.fit.views(dataset.read(0)[0])[0].image
    out = answers(runtime, image[None])[0]
    mask = out.argmax(0).astype(np.uint8) if out.ndim == 3 else out
    limits = tolerances(runtime.precision)
    facts = GoldenFacts(
        dataset.key(0),
        data=f"{dataset.name} {dataset.split}",
        generated=True,
        reference=f"the file itself ({runtime.provider})",
        tolerances=limits,
    )
    return capture(image, (mask, mask), out if out.ndim == 3 else None, limits.tie, facts)


def _network(name: str, runtime: Runtime, model: bytes, golden: runner.GoldenFacts) -> runner.Facts:
    spec, answer = runtime.spec, runtime.spec.answer
    size = list(answer.size) if answer.size else None
    return runner.Facts(
        input=name,
        output=answer.name,
        answer=runner.Answer(answer.axes, answer.scores, answer.classes, size, answer.threshold),
        dtype=spec.dtype,
        layout=spec.layout,
        order=spec.order,
        head=spec.head,
        size=list(spec.size),
        fit=spec.fit,
        batch=spec.batch,
        precision=runtime.precision,
        sha256=hashlib.sha256(model).hexdigest(),
        golden=golden,
        versions=versions(),
    )


def _gates(run: Run | None, source: Path) -> list[GateRow]:
    """Return the ledger of the run, of files that are still there; for a file of no run, the gate of its manifest."""
    if run:
        return [row for row in read_gates(run) if row.fits(run.export)]
    gate = manifest_of(source).gate
    return [gate] if gate else []


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, default=str) + "\n").encode()


def _pnm(pixels: np.ndarray) -> bytes:
    kind = b"P6" if pixels.ndim == 3 else b"P5"
    return kind + b" %d %d 255\n" % (pixels.shape[1], pixels.shape[0]) + np.ascontiguousarray(pixels).tobytes()


def _zip(name: str, files: dict[str, bytes]) -> bytes:
    """Pack files below one folder; equal files give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in files.items():
            entry = zipfile.ZipInfo(f"{name}/{file}", (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def _readme(name: str, network: runner.Facts, classes: tuple[str, ...]) -> str:
    height, width = network.size
    golden = network.golden
    picture = "a generated scene" if golden.generated else "a validation image"
    return f"""# {name}

A semantic-segmentation network ({network.precision}, {len(classes)} classes, made for images of {height}x{width}).
It runs with numpy and ONNX Runtime alone.

    pip install -r requirements.txt
    python run.py --check                    # checks it on this machine
    python run.py IMAGE --out mask.png       # .npy and .ppm images; others with opencv-python or pillow installed

| File | What |
|---|---|
| `model.onnx` | the network, weights inside; sha256 in `network.json` |
| `network.json` | its input and output: {network.dtype} {network.layout}, head {network.head} |
| `preprocess.json` | mean and deviation of the channels (0 to 255), order; bits of 16-bit images |
| `labels.txt`, `palette.json` | the classes, one a line, and their colours |
| `gates.json` | the comparisons that it passed before it was bundled, with their differences |
| `golden.ppm` | {picture} ({golden.key} of {golden.data}) |
| `golden_mask.pgm`, `golden_second.pgm` | its mask by {golden.reference}, and a class that ties with it |
| `run.py`, `runner/` | reads an image, prepares it, runs the network, writes the mask |

Images may have any size; {_FITS[network.fit]} (`fit` in `network.json`).
"""
