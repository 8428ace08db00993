"""From a gated file to a model repository of NVIDIA's Triton server: its config.pbtxt, the network and its labels.

The configuration is rendered here as text, since Triton's own package cannot share an environment with kdc's
dependencies; a test reads it back with Triton's protobuf schema.
"""

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from ..deploy.artefacts.beside import ENGINES, GateRow, StoredManifest, manifest_of, owner, weights_beside
from ..deploy.artefacts.lock import alone
from ..deploy.artefacts.safe_onnx import whole
from ..deploy.runtimes.adopt import adopted
from ..deploy.runtimes.answer import Answer, Port
from ..deploy.runtimes.file_info import FileInfo, file_info
from ..deploy.runtimes.openvino_file import read_ir
from ..deploy.runtimes.ort_runtime import read_info
from ..deploy.runtimes.said import NOTHING, Said
from ..deploy.runtimes.trt.manifest import read_manifest
from ..distill import console
from ..distill.errors import ExportError, UsageError, WeightsError
from ..distill.preprocess import Policy
from ..distill.run.files import sha256, versions, write_bytes, write_json
from ..distill.run.places import refuse_links
from ..distill.run.records import Record
from ..distill.run.stale import refuse_stale
from .text_format import Word, text_format

#: suffix of a file -> Triton's backend and the name that the backend looks for
BACKENDS = {
    ".onnx": ("onnxruntime", "model.onnx"),
    ".xml": ("openvino", "model.xml"),
    **dict.fromkeys(ENGINES, ("tensorrt", "model.plan")),
}
MAX_BATCH = 8
#: how long a request waits for others to share its batch, in microseconds
QUEUE_US = 100
_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "uint8": "TYPE_UINT8"}
_TYPES |= {"int32": "TYPE_INT32", "int64": "TYPE_INT64", "bool": "TYPE_BOOL"}


@dataclass(frozen=True)
class Serving:
    """How the server runs a network.

    Attributes:
        max_batch: largest batch that the server forms, where the file leaves it free (default: that of an engine's
            profile, else ``MAX_BATCH``).
        device: "cpu" or "cuda" (default: what the backend is for: engines run on a GPU, OpenVINO on a CPU).
        instances: copies of the network that work at the same time.
        queue_us: microseconds that a request may wait for others.
        preferred: batches that the server should form.
        cuda_graphs: record each batch as one CUDA graph (engines only).
        warmup: run zeros through the network before the server says that it is ready.
    """

    max_batch: int | None = None
    device: str | None = None
    instances: int = 1
    queue_us: int = QUEUE_US
    preferred: Sequence[int] = ()
    cuda_graphs: bool = False
    warmup: bool = True


@dataclass(frozen=True)
class Served:
    """The contract of the file that is served, and its manifest."""

    input: Port
    output: Port
    #: smallest, usual and largest batch of an engine's profile; None where any batch will do, or one is fixed
    profile: tuple[int, int, int] | None
    classes: tuple[str, ...]
    fit: Policy
    answer: Answer | None
    #: flavour and version of the TensorRT that built an engine
    builder: str
    manifest: StoredManifest


@dataclass(frozen=True)
class TritonFacts(Record):
    """The content of kdc.json: ``source`` is the manifest of the copied file, ``proved`` its gate."""

    kind: str
    name: str
    backend: str
    device: str
    max_batch_size: int
    file: str
    sha256: str
    proved: GateRow | None
    #: how a client takes images of other sizes, as kdc's runtimes do
    fit: Policy
    #: how a client reads the output
    answer: Answer | None
    source: StoredManifest
    versions: dict[str, str]


@dataclass(frozen=True)
class TritonModel(Record):
    """A model in the repository; ``config`` is the text of its config.pbtxt."""

    MERGED: ClassVar = ("facts",)

    facts: TritonFacts
    path: Path
    config: str


DEFAULTS = Serving()


@alone
def export_triton(
    source: Path,
    out: Path,
    serving: Serving = DEFAULTS,
    *,
    name: str | None = None,
    trust: bool = False,
    size: tuple[int, int] | None = None,
    said: Said = NOTHING,
) -> TritonModel:
    """Lay out ``out/<name>`` for Triton: config.pbtxt, labels.txt, kdc.json and ``1/model.onnx|plan|xml``.

    Args:
        source: an ONNX file, an engine or an OpenVINO network; the server gets a copy.
        out: the model repository.
        serving: how the server runs it.
        name: of the model (default: of the run that the file belongs to, else of the file).
        trust: serve an engine that is signed neither by the user nor by a trusted key.
        size: height and width, of an ONNX file of another maker that leaves them free.
        said: what is known of such a file that it does not say itself.

    Raises:
        UsageError: a flag that has no effect on the file.
        WeightsError: the file is missing, broken, or cannot be served.
        ExportError: an engine that nothing vouches for.
    """
    # what runs it, and where
    refuse_stale(source)
    suffix = source.suffix.lower()
    if suffix not in BACKENDS:
        raise UsageError(
            f"{source}: Triton serves {', '.join(BACKENDS)} files; make one with kdc export onnx, openvino, trt"
        )
    backend, file_name = BACKENDS[suffix]
    devices = {"tensorrt": ("cuda",), "openvino": ("cpu",)}.get(backend, ("cpu", "cuda"))
    device = serving.device or devices[0]
    if device not in devices:
        raise UsageError(f"--device {device}: Triton's {backend} backend runs on {', '.join(devices)}")
    if serving.cuda_graphs and backend != "tensorrt":
        raise UsageError(f"--cuda-graph is for engines; Triton's {backend} backend records none")

    # its batches and its name
    if suffix != ".onnx" and (size or said.flags):
        flag = "--size" if size else said.flags[0]
        raise UsageError(f"{flag} is for an ONNX file, and {source.name} has its form already: leave it out")
    with adopted(source, size, said) if suffix == ".onnx" else nullcontext(source) as full:
        served = replace(_read_served(full, trust), manifest=manifest_of(source))
        model = whole(full) if suffix == ".onnx" else None
    max_batch = _largest_batch(source, served, serving)
    preferred = serving.preferred or ((served.profile[1],) if served.profile and max_batch else ())
    run = owner(source)
    name = name or (run.path.name if run else source.stem)
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
        raise UsageError(
            f"--name {name!r}: a model's name holds letters, digits, '-', '_' and '.', and does not start with '.'"
        )

    # its folder
    config = render(name, backend, file_name, served, replace(serving, device=device, preferred=preferred), max_batch)
    folder, manifest = out / name, served.manifest
    _lay_out(source, model, folder, file_name)
    write_bytes(folder / "config.pbtxt", config.encode())
    write_bytes(folder / "labels.txt", "".join(f"{label}\n" for label in served.classes).encode())
    facts = TritonFacts(
        kind="triton",
        name=name,
        backend=backend,
        device=device,
        max_batch_size=max_batch,
        file=source.name,
        sha256=sha256(source),
        proved=manifest.gate,
        fit=served.fit,
        answer=served.answer,
        source=manifest,
        versions=versions(),
    )
    write_json(folder / "kdc.json", facts.to_dict())

    if not manifest.gated:
        console.warn(f"{source.name} has passed no gate: the served network may differ from the trained one")
    if backend == "openvino":
        console.warn("on a CPU with bfloat16, Triton's OpenVINO may use that; kdc's gate ran in float32")
    if backend == "tensorrt":
        built = f"the server needs the TensorRT that built the engine ({served.builder})"
        console.warn(f"{built}: choose a container that has it")
    return TritonModel(facts, folder, config)


def render(name: str, backend: str, file_name: str, served: Served, serving: Serving, max_batch: int) -> str:
    """Return the text of config.pbtxt; ``max_batch`` 0 means a fixed batch, which is then part of the dims.

    With a batch above 0 the server puts the batch before the dims, so they leave it out.
    """
    first = 1 if max_batch else 0
    source, target = served.input, served.output
    data_type, dims = _type(source), _dims(source, first)

    config = {
        "name": name,
        "backend": backend,
        "default_model_filename": file_name,
        "max_batch_size": max_batch,
        "input": [{"name": source.name, "data_type": data_type, "dims": dims}],
        "output": [
            {
                "name": target.name,
                "data_type": _type(target),
                "dims": _dims(target, first),
                "label_filename": "labels.txt",
            }
        ],
        "instance_group": [
            {"kind": Word("KIND_GPU" if serving.device == "cuda" else "KIND_CPU"), "count": serving.instances}
        ],
    }

    if max_batch:
        config["dynamic_batching"] = {
            "preferred_batch_size": list(serving.preferred),
            "max_queue_delay_microseconds": serving.queue_us,
        }

    if serving.cuda_graphs:
        config["optimization"] = {"cuda": {"graphs": True}}
    if serving.warmup:
        zeros = {"data_type": data_type, "dims": dims, "zero_data": True}
        sizes = sorted({1, *serving.preferred, max_batch}) if max_batch else [1]
        config["model_warmup"] = [
            {"name": f"zeros_{n}", "batch_size": n, "inputs": {"key": source.name, "value": zeros}} for n in sizes if n
        ]
    return "\n".join(text_format(config)) + "\n"


def _read_served(source: Path, trust: bool) -> Served:
    if source.suffix.lower() in ENGINES:
        return _read_engine(source, trust)
    info = read_ir(source) if source.suffix.lower() == ".xml" else read_info(source)
    classes = tuple(info.metadata.get("kdc.classes") or (f"class {k}" for k in range(info.num_classes)))
    return Served(_input_of(info), info.output_port, None, classes, info.fit, info.stated(), "", manifest_of(source))


def _read_engine(source: Path, trust: bool) -> Served:
    card = read_manifest(source, trust)
    if card is None:
        raise WeightsError(f"{source} has no manifest, so what it takes and gives is not known; build it with kdc")
    if card.flavour != "tensorrt" or card.stripped:
        fault = "was built without its weights" if card.stripped else f"is {card.flavour}'s"
        raise ExportError(
            f"{source.name} {fault}, which Triton's TensorRT backend does not load; build another: kdc export trt "
            "--flavour tensorrt"
        )
    classes = tuple(card.network.get("kdc.classes") or ())
    info = file_info(source, card.inputs, card.outputs, card.precision, card.network)
    batches = None
    if card.profile:
        batches = int(card.profile["min"][0]), int(card.profile["opt"][0]), int(card.profile["max"][0])
    builder = f"{card.flavour} {card.version}"
    manifest = manifest_of(source)
    return Served(_input_of(info), info.output_port, batches, classes, info.fit, info.stated(), builder, manifest)


def _input_of(info: FileInfo) -> Port:
    return Port(info.input, info.dtype, info.shape)


def _largest_batch(source: Path, served: Served, serving: Serving) -> int:
    fixed = served.input.shape[0]
    if fixed is not None:
        if serving.max_batch or serving.preferred:
            raise UsageError(
                f"{source.name} is made for a batch of {fixed}, so the server cannot form batches: leave out "
                "--max-batch and --preferred, or export it with --dynamic-batch"
            )
        return 0

    most = served.profile[2] if served.profile else None
    largest = serving.max_batch or most or MAX_BATCH
    if largest < 1 or (most is not None and largest > most):
        raise UsageError(f"--max-batch {largest}: {source.name} takes 1 to {most or 'any number of'} images")
    if wrong := [n for n in serving.preferred if not 1 <= n <= largest]:
        raise UsageError(f"--preferred {wrong[0]}: batches of 1 to {largest} (--max-batch) can be formed")
    return largest


def _type(port: Port) -> Word:
    if port.dtype not in _TYPES:
        raise WeightsError(
            f"'{port.name}' is {port.dtype}, which Triton is not asked for here; accepted: {', '.join(_TYPES)}"
        )
    return Word(_TYPES[port.dtype])


def _dims(port: Port, first: int) -> list[int]:
    return [-1 if size is None else size for size in port.shape[first:]]


def _lay_out(source: Path, model: bytes | None, folder: Path, file_name: str) -> None:
    """Copy the file, or write an ONNX file that was made ready."""
    if folder.exists() and not (folder / "kdc.json").exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} holds something that kdc did not write; name another --name or --out")
    version = folder / "1"
    refuse_links(version)
    if version.is_symlink():
        version.unlink()
    shutil.rmtree(version, ignore_errors=True)
    version.mkdir(parents=True)
    target = version / file_name
    if model is not None:
        write_bytes(target, model)
    else:
        shutil.copyfile(source, target)
    if (weights := weights_beside(source)) is not None:
        shutil.copyfile(weights, target.with_suffix(".bin"))
