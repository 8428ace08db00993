"""From a checkpoint to one self-contained ONNX file that passed its gate."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx
import torch
from onnx import ModelProto, ValueInfoProto, helper, shape_inference

from ..calib.calibrate import LowPrecisionManifest, Settings, calibrate_run
from ..calib.low_precision import check_caster
from ..deploy.artefacts.beside import Origin, manifest_of
from ..deploy.artefacts.lock import alone
from ..deploy.artefacts.manifest import Manifest
from ..deploy.artefacts.safe_onnx import save_own
from ..deploy.parity.produce import Product, Trial, produce
from ..deploy.parity.tolerances import tolerances
from ..deploy.runtimes.answer import Port
from ..deploy.runtimes.file_info import metadata_of
from ..deploy.runtimes.ort_runtime import read_info
from ..deploy.runtimes.torch_runtime import export_size
from ..distill import console
from ..distill.errors import ExportError, UsageError
from ..distill.models import SegmentationModel
from ..distill.preprocess import PAD, Policy
from ..distill.quiet import quiet
from ..distill.run.checkpoint import load_deployable, read_card, student_file
from ..distill.run.files import sha256, versions
from ..distill.run.folder import Run
from ..distill.run.records import Record
from .graph import DeployGraph, check_form
from .settings import DEFAULTS, OPSET, OPSETS, ExportSettings

#: what to do when the gate fails
CURE = "the exported graph computes something else, please report it with the model's name and size"


@dataclass(frozen=True, kw_only=True)
class OnnxManifest(Manifest):
    """The manifest of a float32 ONNX file; ``network`` is what kdc wrote into the file itself."""

    MERGED: ClassVar = ("network",)

    network: dict[str, Any]
    precision: str
    inputs: list[Port]
    outputs: list[Port]
    opset: int
    nodes: int
    bytes: int
    source: Origin
    gate: Record | None = None
    versions: dict[str, str]

    @classmethod
    def of(cls, path: Path, source: Origin) -> "OnnxManifest":
        """Describe a file that ``export_onnx`` wrote from a checkpoint."""
        proto = onnx.load(path)
        stated = metadata_of((prop.key, prop.value) for prop in proto.metadata_props)
        own = {key.removeprefix("kdc."): value for key, value in stated.items()}
        return cls(
            file=path.name,
            sha256=sha256(path),
            kind="onnx",
            fit=own["fit"],
            network=own,
            precision="fp32",
            inputs=_ports(proto.graph.input),
            outputs=_ports(proto.graph.output),
            opset=proto.opset_import[0].version,
            nodes=len(proto.graph.node),
            bytes=path.stat().st_size,
            source=source,
            versions=versions(),
        )


def export_onnx(
    model: SegmentationModel,
    path: Path,
    *,
    size: tuple[int, int],
    head: str = "logits",
    input: str = "float",
    dynamic_batch: bool = False,
    opset: int = OPSET,
    classes: Sequence[str] = (),
    palette: Sequence[Sequence[int]] = (),
    fit: Policy = PAD,
) -> Path:
    """Write ``model`` as one checked float32 ONNX file: batch norm folded, aux head gone, weights inside.

    Args:
        model: on the CPU; put in eval mode.
        path: where the file goes.
        size: (H, W) in pixels, fixed; multiples of the output stride.
        head: "logits" (float32 ``(B, K, H, W)``) or "argmax" (uint8 ``(B, H, W)``).
        input: "float" (normalised ``(B, 3, H, W)``) or "uint8" (raw RGB ``(B, H, W, 3)``).
        dynamic_batch: leave B free (else it is 1).
        opset: 18 to 25.
        classes: names, for the file's metadata.
        palette: an RGB triple a class, for the file's metadata.
        fit: how runtimes take images of other sizes, for the file's metadata.

    Raises:
        UsageError: a size, head, input or opset that is not accepted.
        ExportError: the exporter or ONNX's checker refused the network.
    """
    _check_opset(opset)
    graph = DeployGraph(model, size, head, input)
    # an example batch of 1 would make the tracer take the batch for the constant 1
    example = graph.example(2 if dynamic_batch else 1)
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic_batch else None
    output = "logits" if head == "logits" else "mask"

    try:
        with quiet():
            program = torch.onnx.export(
                graph,
                (example,),
                input_names=["image"],
                output_names=[output],
                opset_version=opset,
                dynamic_shapes=shapes,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        assert program is not None
        labels = {"classes": classes, "palette": palette, "fit": fit}
        proto = _finished(program.model_proto, model, opset=opset, head=head, input=input, **labels)
    except (torch.onnx.errors.OnnxExporterError, onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise ExportError(
            f"{model.name} at {size[0]}x{size[1]} cannot be written as ONNX opset {opset}: {_line(error)}"
        ) from error

    path.parent.mkdir(parents=True, exist_ok=True)
    save_own(proto, path)
    return path


@alone
def export_run(
    run: Run, settings: ExportSettings = DEFAULTS
) -> list[Product[OnnxManifest] | Product[LowPrecisionManifest]]:
    """Export a run's network into its ``export`` folder; every file goes through the gate against torch on real images.

    Args:
        run: a finished run.
        settings: form, precisions and gate.

    Raises:
        NumbersError: a gate failed; that file is not kept, an earlier one of its name stays.
    """
    weights = student_file(run, settings.which)
    model = load_deployable(weights)
    head, input, dynamic_batch, opset = settings.head, settings.input, settings.dynamic_batch, settings.opset
    size = settings.size or export_size(run.image_size, model.output_stride)
    full, data = run.export / file_names(head, input, dynamic_batch)[0], run.card.data
    console.say(f"exporting {model.name} at {size[0]}x{size[1]}, head {head}, input {input}, opset {opset}")
    check_form(size, head, input, stride=model.output_stride, num_classes=model.num_classes)
    _check_opset(opset)
    check_caster(settings.caster)
    limits = tolerances("fp32", run, agreement=settings.agreement)

    def write(path: Path) -> OnnxManifest:
        form = {"size": size, "head": head, "input": input, "dynamic_batch": dynamic_batch, "opset": opset}
        export_onnx(model, path, **form, classes=data.classes, palette=data.palette, fit=settings.fit or data.fit)
        return OnnxManifest.of(path, Origin(run.path.name, weights.name, sha256=sha256(weights)))

    exported: list[Product[OnnxManifest] | Product[LowPrecisionManifest]] = [
        produce(run, full, write, Trial(weights, limits, CURE, settings.images), drop_stale=settings.drop_stale)
    ]
    if "fp16" in settings.precisions:
        low = Settings(
            to="fp16",
            source=full,
            keep=settings.block_nodes,
            allow_partial=settings.allow_partial,
            caster=settings.caster,
            gate_images=settings.images,
            agreement=settings.agreement,
        )
        exported.append(calibrate_run(run, low))
    return exported


def export_like(run: Run, like: Path, dry: bool = False) -> Path:
    """Export a run's network in the form of another float32 ONNX file of kdc's, through the gate; return the file.

    With ``dry`` it is only seen that this can be done.

    Raises:
        ExportError: ``like`` leaves its height and width free, which ``export_run`` never writes.
        UsageError: it has an opset or a size that ``export_run`` does not write.
        NumbersError: the gate failed.
    """
    info, proto = read_info(like), onnx.load(like, load_external_data=False)
    height, width = info.size
    if height is None or width is None:
        raise ExportError(f"{like.name} leaves its size free, an exported file has one; make one: kdc export onnx")
    opset = next(each.version for each in proto.opset_import if each.domain in ("", "ai.onnx"))
    input = "uint8" if info.layout == "NHWC" else "float"
    form = ExportSettings((height, width), info.head, input, info.shape[0] is None, opset=opset, fit=info.fit)
    return Path(plan_run(run, form).onnx[0]) if dry else export_run(run, form)[0].path


@dataclass(frozen=True)
class ExportPlan(Record):
    """What ``export_run`` would write, from which weights."""

    run: str
    weights: str
    model: str
    size: tuple[int, int]
    fit: Policy
    onnx: list[str]


def plan_run(run: Run, settings: ExportSettings = DEFAULTS) -> ExportPlan:
    """Return what ``export_run`` would do with the same settings; nothing is written.

    Raises:
        UsageError: a size, head, input or opset that is not accepted.
    """
    weights = student_file(run, settings.which)
    card = read_card(weights)
    spec = card.model if card else run.card.student
    size = settings.size or export_size(run.image_size, spec.output_stride)
    head, input = settings.head, settings.input
    check_form(size, head, input, stride=spec.output_stride, num_classes=spec.num_classes)
    _check_opset(settings.opset)
    check_caster(settings.caster)
    names = file_names(head, input, settings.dynamic_batch)
    files = [str(run.export / name) for name in names[: 1 + ("fp16" in settings.precisions)]]
    return ExportPlan(str(run.path), str(weights), spec.name, size, settings.fit or run.card.data.fit, files)


def file_names(head: str, input: str, dynamic_batch: bool) -> tuple[str, str]:
    """Name the float32 and the float16 file: ``model.onnx``, ``model.argmax.uint8.fp16.onnx``, ..."""
    extras = (("argmax", head == "argmax"), ("uint8", input == "uint8"), ("batch", dynamic_batch))
    stem = ".".join(["model", *(word for word, on in extras if on)])
    return f"{stem}.onnx", f"{stem}.fp16.onnx"


def _check_opset(opset: int) -> None:
    if opset not in OPSETS:
        raise UsageError(
            f"--opset {opset}: accepted are {OPSETS.start} to {OPSETS.stop - 1} (TensorRT's parser reads no newer one)"
        )


def _finished(
    proto: ModelProto, model: SegmentationModel, *, opset: int, head: str, input: str, **labels: Any
) -> ModelProto:
    written = next(each.version for each in proto.opset_import if each.domain in ("", "ai.onnx"))
    if written != opset:  # the exporter falls back to its own opset where it cannot convert, and only logs that
        raise ExportError(f"the exporter cannot write {model.name} as opset {opset}, only as --opset {written}")
    for node in proto.graph.node:
        del node.metadata_props[:]  # the exporter's stack traces, with the paths of this machine
        node.doc_string = ""
    del proto.graph.metadata_props[:], proto.metadata_props[:]
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.value_info, *proto.graph.initializer]:
        del value.metadata_props[:]
    values = {"preprocess": model.preprocess.to_dict(), "model": model.spec().to_dict(), "precision": "fp32"}
    values |= {"head": head, "input": input, **labels}
    helper.set_model_props(proto, {f"kdc.{key}": json.dumps(value) for key, value in values.items()})
    proto = shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _ports(values: Iterable[ValueInfoProto]) -> list[Port]:
    """Return name, type and shape (None = free) of a file's inputs or outputs."""
    ports = []
    for value in values:
        kind = value.type.tensor_type
        shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
        ports.append(Port(value.name, str(helper.tensor_dtype_to_np_dtype(kind.elem_type)), shape))
    return ports


def _line(error: BaseException) -> str:
    """Return the innermost cause in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def gated_onnx(run: Run, settings: ExportSettings = DEFAULTS) -> Path:
    """Return a run's float32 ONNX file of this form: the present one if it passed its gate, else a new one."""
    path = run.export / file_names(settings.head, settings.input, settings.dynamic_batch)[0]
    manifest = manifest_of(path)
    current = manifest.source is not None and manifest.source.sha256 == sha256(student_file(run, settings.which))
    if manifest.gated and current:
        info = read_info(path)
        if settings.size in (None, info.size) and settings.fit in (None, info.fit):
            return path
        console.say(f"{path.name} is made for another size or fit: exporting it again")
    return export_run(run, settings)[0].path
