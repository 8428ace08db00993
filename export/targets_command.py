"""``kdc export openvino``, ``aoti``, ``triton`` and ``bundle``."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..deploy.flags import takes_said
from ..distill import console
from ..distill.commands.command import command
from ..distill.errors import UsageError, closest
from ..distill.run.records import Record
from ..distill.units import file_size
from .flags import (
    Agreement,
    Dynamic,
    FileData,
    FileOut,
    FitFlag,
    Head,
    Images,
    Input,
    OnnxFlags,
    SizeFlag,
    Source,
    Which,
    refuse_idle,
    refuse_of_files,
)
from .settings import ExportSettings

if TYPE_CHECKING:
    from ..deploy.artefacts.beside import StoredManifest
    from ..deploy.artefacts.manifest import Manifest
    from ..deploy.runtimes.said import Said
    from ..distill.run.folder import Run
    from .to_aoti import AotiManifest
    from .to_bundle import PackedBundle
    from .to_triton import TritonModel

RunOrFile = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN|FILE", help="Run folder or name, the last run if not named; or an exported file of any maker."
    ),
]
Out = Annotated[Path | None, typer.Option(metavar="PATH", help="Where to write it (default: export/ of the run).")]
_PRECISIONS = {"fp32": ("fp32",), "fp16": ("fp16",), "int8": ("int8",), "both": ("fp32", "fp16")}
#: what Triton serves of a run
_SERVED = ExportSettings(head="argmax", input="uint8", dynamic_batch=True)


def add_targets(group: typer.Typer) -> None:
    """Add this file's commands to ``kdc export``."""
    for function in (export_openvino, export_aoti, export_triton, export_bundle):
        group.command(function.__name__.removeprefix("export_"))(command(function))


@dataclass(frozen=True)
class ExportedFiles(Record):
    """The manifests of the files that were written, each gated."""

    files: "Sequence[Manifest | StoredManifest]"


@takes_said
def export_openvino(
    source: RunOrFile = None,
    size: SizeFlag = None,
    head: Head = None,
    input: Input = None,
    dynamic_batch: Dynamic = False,
    precision: Annotated[
        str, typer.Option(help="fp32, fp16 (weights only), both, or int8 (what kdc calib --for openvino made).")
    ] = "fp32",
    images: Images = None,
    agreement: Agreement = None,
    which: Which = None,
    fit: FitFlag = None,
    data: FileData = None,
    out: FileOut = None,
    *,
    said: "Said",
) -> ExportedFiles:
    """Write OpenVINO files (.xml and .bin) from a gated ONNX file, or any maker's, and compare each on OpenVINO.

    A file beyond the gate's tolerance is not kept, an earlier one stays (exit 6).
    """
    flags = OnnxFlags(size, head, input, dynamic_batch, images=images, agreement=agreement, which=which, fit=fit)
    settings = flags.settings()
    if precision not in _PRECISIONS:
        raise UsageError(
            f"--precision {precision!r}: accepted are {', '.join(_PRECISIONS)}{closest(precision, _PRECISIONS)}"
        )
    from .to_openvino import export_openvino as export

    place = _file_or_run(source)
    if isinstance(place, Path):
        refuse_idle(vars(replace(flags, size=None, images=None, agreement=None)), f"{source} has a form already")
    else:
        refuse_of_files(place.spec, said, data, out)
    manifests = export(place, precisions=_PRECISIONS[precision], settings=settings, said=said, data=data, out=out)
    return ExportedFiles(manifests)


def export_aoti(
    run: Source = None,
    size: SizeFlag = None,
    head: Head = None,
    input: Input = None,
    dynamic_batch: Dynamic = False,
    device: Annotated[str, typer.Option(help="cpu or cuda: what it is compiled for.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32, fp16 or bf16: what it computes in.")] = "fp32",
    images: Images = None,
    agreement: Agreement = None,
    which: Which = None,
    fit: FitFlag = None,
) -> "AotiManifest":
    """Compile the network for this machine with torch's AOTInductor (.pt2) and compare it with torch on real images.

    It needs a C++ compiler and a minute or so; a package beyond the gate's tolerance is not kept (exit 6).
    """
    flags = OnnxFlags(size, head, input, dynamic_batch, images=images, agreement=agreement, which=which, fit=fit)
    settings = flags.settings()
    from ..distill.run.folder import find_run
    from .to_aoti import export_aoti as export

    return export(find_run(run), settings, device=device, precision=precision)


@takes_said
def export_triton(
    source: RunOrFile = None,
    size: SizeFlag = None,
    out: Out = None,
    name: Annotated[str | None, typer.Option(help="Of the model (default: the run's name).")] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(min=1, help="Largest batch the server forms, where the file leaves it free (default 8)."),
    ] = None,
    preferred: Annotated[
        list[int] | None, typer.Option(min=1, metavar="N", help="Batch that should be formed; may be repeated.")
    ] = None,
    queue_delay: Annotated[
        int, typer.Option(min=0, metavar="US", help="Microseconds that a request waits for others.")
    ] = 100,
    instances: Annotated[int, typer.Option(min=1, help="Copies of the network that work at the same time.")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu or cuda (default: cuda for engines, else cpu).")] = None,
    cuda_graph: Annotated[bool, typer.Option("--cuda-graph", help="Run an engine as CUDA graphs.")] = False,
    warmup: Annotated[bool, typer.Option("--warmup/--no-warmup", help="Run zeros before the server is ready.")] = True,
    trust: Annotated[
        bool, typer.Option("--trust", help="Serve an engine that neither you nor a key of kdc trust ls signed.")
    ] = False,
    *,
    said: "Said",
) -> "TritonModel":
    """Lay out a model repository for NVIDIA's Triton server from an ONNX file, an engine or an OpenVINO file.

    Of a run, the ONNX file with the mask inside and a free batch is served; it is exported first if it is missing.
    """
    from .to_onnx import gated_onnx
    from .to_triton import Serving
    from .to_triton import export_triton as export

    place, image = _file_or_run(source), OnnxFlags(size).settings().size
    if not isinstance(place, Path):
        refuse_of_files(place.spec, said, None)
    file = place if isinstance(place, Path) else gated_onnx(place, replace(_SERVED, size=image))
    image = image if isinstance(place, Path) else None
    folder = out or file.parent / "triton"

    serving = Serving(max_batch, device, instances, queue_delay, preferred or (), cuda_graph, warmup)
    model = export(file, folder, serving, name=name, trust=trust, size=image, said=said)
    console.say(f"{model.path}: {model.facts.backend}, max_batch_size {model.facts.max_batch_size}")
    console.say(f"serve it: tritonserver --model-repository={folder}   (not run here)")
    _seal(file)
    return model


@takes_said
def export_bundle(
    source: RunOrFile = None,
    size: SizeFlag = None,
    out: Out = None,
    golden_image: Annotated[
        bool,
        typer.Option(
            "--golden-image/--no-golden-image", help="Put in a validation image, or a generated scene instead."
        ),
    ] = True,
    *,
    said: "Said",
) -> "PackedBundle":
    """Pack an ONNX file (of a run: model.onnx; or any maker's) with labels, gates, a golden image and a runner.

    The zip runs with numpy and ONNX Runtime alone: python run.py IMAGE --out mask.png; python run.py --check tests it.
    """
    from .to_bundle import export_bundle as export
    from .to_onnx import gated_onnx

    place, settings = _file_or_run(source), OnnxFlags(size).settings()
    if isinstance(place, Path):
        bundle = export(place, out, golden_image=golden_image, size=settings.size, said=said)
    else:
        refuse_of_files(place.spec, said, None)
        bundle = export(gated_onnx(place, settings), out, golden_image=golden_image)
    console.say(f"{bundle.path} ({file_size(bundle.manifest.bytes)}): unzip it, then python run.py --check")
    return bundle


def _file_or_run(source: str | None) -> "Path | Run":
    """Return the exported file, of any kind, or the run that ``source`` names."""
    from ..deploy.artefacts.beside import EXPORTED
    from ..distill.run.folder import find_run

    if source is not None and source.lower().endswith(EXPORTED):
        return Path(source)
    return find_run(source)


def _seal(file: Path) -> None:
    from ..deploy.artefacts.beside import owner

    if run := owner(file):
        run.remember_command()
        run.seal()
