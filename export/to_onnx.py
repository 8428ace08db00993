"""From a checkpoint to one self-contained ONNX file that passed its gate."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto, helper, shape_inference

from ..calib.calibrate import calibrate_run
from ..deploy.artefacts.beside import manifest_path
from ..deploy.artefacts.ledger import discard
from ..deploy.artefacts.lock import alone
from ..deploy.artefacts.manifest import manifest_of
from ..deploy.artefacts.safe_onnx import save_own
from ..deploy.artefacts.stale import discard_stale
from ..deploy.parity.gate import GateResult
from ..deploy.parity.produce import proved
from ..deploy.parity.tolerances import tolerances
from ..deploy.runtimes.ort_runtime import read_info
from ..deploy.runtimes.torch_runtime import export_size
from ..distill import console
from ..distill.errors import ExportError, UsageError
from ..distill.models import SegmentationModel
from ..distill.quiet import quiet
from ..distill.run.checkpoint import load_deployable, read_card, student_file
from ..distill.run.files import replacing, sha256, versions, write_json
from ..distill.run.folder import Run
from .graph import DeployGraph, check_form
from .settings import DEFAULTS, OPSET, OPSETS, ExportSettings

#: what to do when the gate fails
CURE = "the exported graph computes something else, please report it with the model's name and size"


@dataclass(frozen=True)
class Exported:
    """A file that passed its gate, and the manifest beside it."""

    path: Path
    precision: str
    gate: GateResult
    manifest: dict[str, Any]


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
) -> Path:
    """Write ``model`` as one checked float32 ONNX file: batch norm folded, aux head gone, weights inside.

    Args:
        model: on the CPU; put in eval mode.
        path: where the file goes, atomically.
        size: (H, W) in pixels, fixed; multiples of the output stride.
        head: "logits" (float32 ``(B, K, H, W)``) or "argmax" (uint8 ``(B, H, W)``).
        input: "float" (normalised ``(B, 3, H, W)``) or "uint8" (raw RGB ``(B, H, W, 3)``).
        dynamic_batch: leave B free (else it is 1).
        opset: 18 to 25.
        classes: names, for the file's metadata.
        palette: an RGB triple a class, for the file's metadata.

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
        labels = {"classes": classes, "palette": palette}
        proto = _finished(program.model_proto, model, opset=opset, head=head, input=input, **labels)
    except (torch.onnx.errors.OnnxExporterError, onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise ExportError(
            f"{model.name} at {size[0]}x{size[1]} cannot be written as ONNX opset {opset}: {_line(error)}"
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        save_own(proto, beside)
    return path


@alone
def export_run(run: Run, settings: ExportSettings = DEFAULTS) -> list[Exported]:
    """Export a run's network into its ``export`` folder; every file goes through the gate against torch on real images.

    Args:
        run: a finished run.
        settings: form, precisions and gate.

    Raises:
        NumbersError: a gate failed; that file is gone, those before it stay.
    """
    weights = student_file(run, settings.which)
    model = load_deployable(weights)
    head, input, dynamic_batch, opset = settings.head, settings.input, settings.dynamic_batch, settings.opset
    size = settings.size or export_size(run.image_size, model.output_stride)
    full = run.export / file_names(head, input, dynamic_batch)[0]
    console.say(f"exporting {model.name} at {size[0]}x{size[1]}, head {head}, input {input}, opset {opset}")
    names: dict[str, Any] = {"classes": run.card.data.classes, "palette": run.card.data.palette}
    # before a good file goes
    check_form(size, head, input, stride=model.output_stride, num_classes=model.num_classes)
    _check_opset(opset)
    limits = tolerances("fp32", run, agreement=settings.agreement)
    discard(run, [full])  # no manifest is written before the gate: without it a file is unproven
    export_onnx(model, full, size=size, head=head, input=input, dynamic_batch=dynamic_batch, opset=opset, **names)
    source = {"run": run.path.name, "checkpoint": weights.name, "sha256": sha256(weights)}
    dataset = run.open_data(run.config.data.split)

    result, _ = proved(run, full, weights, dataset, limits, CURE, images=settings.images)
    manifest = _manifest(full, source, result)
    write_json(manifest_path(full), manifest)
    done = [Exported(full, "fp32", result, manifest)]
    discard_stale(run, [weights])
    if "fp16" in settings.precisions:
        gate_flags = {"gate_images": settings.images, "agreement": settings.agreement}
        cast = calibrate_run(run, to="fp16", source=full, keep=settings.block_nodes, **gate_flags)
        done.append(Exported(cast.path, cast.precision, cast.gate, cast.manifest))
    run.remember_command()
    run.seal()
    return done


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
    form = ExportSettings((height, width), info.head, input, dynamic_batch=info.shape[0] is None, opset=opset)
    return Path(plan_run(run, form)["onnx"][0]) if dry else export_run(run, form)[0].path


def plan_run(run: Run, settings: ExportSettings = DEFAULTS) -> dict[str, Any]:
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
    names = file_names(head, input, settings.dynamic_batch)
    wanted = [str(run.export / name) for name in names[: 1 + ("fp16" in settings.precisions)]]
    return {"run": str(run.path), "weights": str(weights), "model": spec.name, "size": list(size), "onnx": wanted}


def file_names(head: str, input: str, dynamic_batch: bool) -> tuple[str, str]:
    """Name the float32 and the float16 file: ``model.onnx``, ``model.argmax.uint8.fp16.onnx``, ..."""
    extras = (("argmax", head == "argmax"), ("uint8", input == "uint8"), ("batch", dynamic_batch))
    stem = ".".join(["model", *(word for word, on in extras if on)])
    return f"{stem}.onnx", f"{stem}.fp16.onnx"


def tensors(proto: ModelProto, which: str) -> list[dict[str, Any]]:
    """Return name, type and shape (None = free) of a file's ``input`` or ``output`` tensors."""
    found = []
    for value in getattr(proto.graph, which):
        kind = value.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
        dtype = str(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        found.append({"name": value.name, "dtype": dtype, "shape": shape})
    return found


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


def _manifest(path: Path, source: dict[str, Any], result: GateResult) -> dict[str, Any]:
    proto = onnx.load(path)
    values: dict[str, Any] = {"file": path.name, "sha256": sha256(path), "kind": "onnx"}
    values |= {key.removeprefix("kdc."): value for key, value in read_info(path).metadata.items()}
    values |= {"precision": "fp32", "inputs": tensors(proto, "input"), "outputs": tensors(proto, "output")}
    values |= {"opset": proto.opset_import[0].version, "nodes": len(proto.graph.node), "bytes": path.stat().st_size}
    return values | {"source": source, "gate": result.to_dict(), "versions": versions()}


def _line(error: BaseException) -> str:
    """Return the innermost cause in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def gated_onnx(run: Run, settings: ExportSettings = DEFAULTS) -> Path:
    """Return a run's float32 ONNX file of this form: the one that is there, if it passed its gate, else a new one."""
    path = run.export / file_names(settings.head, settings.input, settings.dynamic_batch)[0]
    facts = manifest_of(path)
    if facts.get("gate", {}).get("passed") and facts["source"]["sha256"] == sha256(student_file(run, settings.which)):
        if settings.size is None or read_info(path).size == settings.size:
            return path
        console.say(f"{path.name} is made for another size: exporting it again")
    return export_run(run, settings)[0].path
