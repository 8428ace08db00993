"""From a checkpoint to a package that torch's AOTInductor compiled for this machine: no tracing, one file (.pt2)."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..deploy.artefacts.beside import Origin
from ..deploy.artefacts.lock import alone
from ..deploy.artefacts.manifest import Manifest
from ..deploy.parity.produce import Trial, produce
from ..deploy.parity.tolerances import tolerances
from ..deploy.runtimes.torch_runtime import DTYPES, export_size, need_compiler, need_device
from ..distill import console
from ..distill.errors import ExportError, UsageError, closest
from ..distill.models import SegmentationModel
from ..distill.preprocess import PAD, Policy
from ..distill.quiet import quiet
from ..distill.run.checkpoint import load_deployable, student_file
from ..distill.run.files import sha256, versions
from ..distill.run.folder import Run
from ..distill.run.records import Record
from ..distill.units import file_size
from .graph import DeployGraph, check_form
from .settings import DEFAULTS, ExportSettings
from .to_onnx import file_names

CURE = "the compiled network computes something else, please report it with the model's name and size"
#: the largest batch of a package whose batch is free
LARGEST_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class AotiManifest(Manifest):
    """The manifest of a package."""

    precision: str
    bytes: int
    source: Origin
    head: str
    input: str
    dynamic_batch: bool
    device: str
    size: list[int]
    compile_seconds: float
    versions: dict[str, str]
    ran: Record | None = None
    gate: Record | None = None


def compile_package(
    model: SegmentationModel,
    path: Path,
    *,
    size: tuple[int, int],
    head: str = "logits",
    input: str = "float",
    dynamic_batch: bool = False,
    device: str = "cpu",
    precision: str = "fp32",
    classes: Sequence[str] = (),
    palette: Sequence[Sequence[int]] = (),
    fit: Policy = PAD,
) -> Path:
    """Compile ``model`` without its aux head to one package; kdc's metadata lie inside, readable without running it.

    Args:
        model: put in eval mode and moved to ``device`` and the type of ``precision``.
        path: where the package goes; it ends in .pt2.
        size: (H, W) in pixels, fixed; multiples of the output stride.
        head: "logits" (float32 ``(B, K, H, W)``) or "argmax" (uint8 ``(B, H, W)``).
        input: "float" (normalised ``(B, 3, H, W)``) or "uint8" (raw RGB ``(B, H, W, 3)``).
        dynamic_batch: leave B free up to ``LARGEST_BATCH`` (else it is 1).
        device: "cpu" or "cuda", which the code is compiled for.
        precision: "fp32", "fp16" or "bf16": type of weights and activations; the logits leave in float32.
        classes: names, for the metadata.
        palette: an RGB triple a class, for the metadata.
        fit: how runtimes take images of other sizes, for the metadata.

    Raises:
        UsageError: a size, head or input that is not accepted.
        ExportError: the compiler refused the network.
    """
    model.aux_head = None
    graph = DeployGraph(model.to(DTYPES[precision]), size, head, input).to(device)
    example = graph.example(2 if dynamic_batch else 1).to(device)
    batch = None if dynamic_batch else 1
    shapes = ({0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)},) if dynamic_batch else None

    # what stands in the package itself
    ports = [
        {"name": "image", "dtype": str(example.dtype).removeprefix("torch."), "shape": [batch, *example.shape[1:]]}
    ]
    output = [batch, model.num_classes, *size] if head == "logits" else [batch, *size]
    ports.append({"name": head, "dtype": "float32" if head == "logits" else "uint8", "shape": output})
    values = {"ports": ports, "preprocess": model.preprocess.to_dict(), "model": model.spec().to_dict()}
    values |= {"precision": precision, "fit": fit}
    values |= {"head": head, "input": input, "classes": list(classes), "palette": [list(c) for c in palette]}
    values |= {"tf32": device == "cuda" and bool(torch.backends.cudnn.allow_tf32)}
    settings = {
        "aot_inductor.metadata": {f"kdc.{key}": json.dumps(value) for key, value in values.items()},
        "freezing": True,  # weights as constants, in the layout that the convolutions like best
        "cpp.dynamic_threads": True,  # else the thread count of this process is compiled in
    }

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(graph, (example,), dynamic_shapes=shapes)
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)
    except RuntimeError as error:  # torch's own exceptions are all of this class
        why = str(error).strip().splitlines()
        raise ExportError(f"AOTInductor cannot compile {model.name}: {why[0][:300] if why else error!r}") from error
    return path


@alone
def export_aoti(
    run: Run, settings: ExportSettings = DEFAULTS, *, device: str = "cpu", precision: str = "fp32"
) -> AotiManifest:
    """Compile a run's network into its ``export`` folder and compare it with torch on real images.

    Args:
        run: a finished run.
        settings: form and gate; opset and precisions are those of ONNX files.
        device: see ``compile_package``, as is ``precision``.

    Returns:
        The manifest.

    Raises:
        UsageError: a size, head, input, precision or device that is not accepted.
        ExportError: the device or a C++ compiler is missing, or the compiler refused the network.
        NumbersError: the gate failed; the package is not kept.
    """
    weights = student_file(run, settings.which)
    model = load_deployable(weights)
    head, input, dynamic_batch = settings.head, settings.input, settings.dynamic_batch
    fit = settings.fit or run.card.data.fit
    size = settings.size or export_size(run.image_size, model.output_stride)
    final = run.export / package_name(head, input, dynamic_batch, device, precision)
    check_form(size, head, input, stride=model.output_stride, num_classes=model.num_classes)
    if precision not in DTYPES:
        raise UsageError(f"--precision {precision!r}: accepted are {', '.join(DTYPES)}{closest(precision, DTYPES)}")
    need_device(device)
    need_compiler()
    limits = tolerances(precision, run, agreement=settings.agreement)

    def write(path: Path) -> AotiManifest:
        form = f"for {device} in {precision}, head {head}, input {input}"
        console.say(f"compiling {model.name} at {size[0]}x{size[1]} {form}; a minute or so")
        start = time.perf_counter()
        compile_package(
            model,
            path,
            size=size,
            head=head,
            input=input,
            dynamic_batch=dynamic_batch,
            device=device,
            precision=precision,
            classes=run.card.data.classes,
            palette=run.card.data.palette,
            fit=fit,
        )

        return AotiManifest(
            file=path.name,
            sha256=sha256(path),
            kind="aoti",
            fit=fit,
            precision=precision,
            bytes=path.stat().st_size,
            source=Origin(run.path.name, weights.name, sha256=sha256(weights)),
            head=head,
            input=input,
            dynamic_batch=dynamic_batch,
            device=device,
            size=list(size),
            compile_seconds=round(time.perf_counter() - start, 1),
            versions=versions(),
        )

    manifest = produce(run, final, write, Trial(weights, limits, CURE, settings.images, device)).manifest
    console.say(f"{final} ({file_size(manifest.bytes)}), compiled in {manifest.compile_seconds} s")
    return manifest


def package_name(head: str, input: str, dynamic_batch: bool, device: str, precision: str) -> str:
    """Name a package: ``model.pt2``, ``model.argmax.uint8.pt2``, ``model.bf16.cuda.pt2``."""
    stem = file_names(head, input, dynamic_batch)[0].removesuffix(".onnx")
    return f"{stem}{'' if precision == 'fp32' else f'.{precision}'}{'' if device == 'cpu' else f'.{device}'}.pt2"
