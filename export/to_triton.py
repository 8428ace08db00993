"""From a proved file to a model repository of NVIDIA's Triton server: its config.pbtxt, the network and its labels.

The configuration is rendered here as text, since Triton's own package cannot share an environment with kdc's
dependencies; a test reads it back with Triton's protobuf schema.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..deploy.artefacts.beside import ENGINES, manifest_of, owner, weights_beside
from ..deploy.artefacts.lock import alone
from ..deploy.artefacts.safe_onnx import whole
from ..deploy.runtimes.file_info import FileInfo, Port, file_info
from ..deploy.runtimes.openvino_runtime import read_ir
from ..deploy.runtimes.ort_runtime import read_info
from ..deploy.runtimes.trt.manifest import read_manifest
from ..distill import console
from ..distill.errors import ExportError, UsageError, WeightsError
from ..distill.run.files import sha256, versions, write_bytes, write_json

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


class Word(str):
    """A value of the text format that stands without quotes: the name of an enumeration's member."""


@dataclass(frozen=True)
class Served:
    """What a file asks of the server."""

    given: Port
    made: Port
    #: smallest, usual and largest batch of an engine's profile; None where any batch will do, or one is fixed
    profile: tuple[int, int, int] | None
    classes: tuple[str, ...]


@alone
def export_triton(
    source: Path,
    out: Path,
    *,
    name: str | None = None,
    max_batch: int | None = None,
    device: str | None = None,
    instances: int = 1,
    queue_us: int = QUEUE_US,
    preferred: Sequence[int] = (),
    cuda_graphs: bool = False,
    warmup: bool = True,
    trust: bool = False,
) -> dict[str, Any]:
    """Lay out ``out/<name>`` for Triton: config.pbtxt, labels.txt, kdc.json and ``1/model.onnx|plan|xml``.

    Args:
        source: an ONNX file, an engine or an OpenVINO network; the file that is served is a copy.
        out: the model repository.
        name: of the model (default: of the run that the file belongs to, else of the file).
        max_batch: largest batch that the server forms, where the file leaves it free (default: that of an engine's
            profile, else ``MAX_BATCH``).
        device: "cpu" or "cuda" (default: what the backend is for: engines run on a GPU, OpenVINO on a CPU).
        instances: copies of the network that work at the same time.
        queue_us: microseconds that a request may wait for others.
        preferred: batches that the server should form.
        cuda_graphs: record each batch as one CUDA graph (engines only).
        warmup: run zeros through the network before the server says that it is ready.
        trust: serve an engine that no manifest of kdc's vouches for.

    Returns:
        The facts that kdc.json holds.

    Raises:
        UsageError: a flag that the file has no use for.
        WeightsError: the file is missing, broken, or cannot be served.
        ExportError: an engine that nothing vouches for.
    """
    suffix = source.suffix.lower()
    if suffix not in BACKENDS:
        raise UsageError(
            f"{source}: Triton serves {', '.join(BACKENDS)} files; make one with kdc export onnx, openvino, trt"
        )
    backend, file_name = BACKENDS[suffix]
    device = device or {"tensorrt": "cuda"}.get(backend, "cpu")
    wrong = {"tensorrt": "cpu", "openvino": "cuda"}.get(backend)
    if device not in ("cpu", "cuda") or device == wrong:
        fits = {"tensorrt": "cuda", "openvino": "cpu"}.get(backend, "cpu, cuda")
        raise UsageError(f"--device {device}: Triton's {backend} backend runs on {fits}")
    if cuda_graphs and backend != "tensorrt":
        raise UsageError(f"--cuda-graph is for engines; Triton's {backend} backend records none")
    served, manifest = _served(source, trust)
    largest = _largest_batch(source, served, max_batch, preferred)
    run = owner(source)
    name = name or (run.path.name if run else source.stem)
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
        raise UsageError(f"--name {name!r}: letters, digits, '-', '_' and '.' make a name of a model")
    config = render(
        name,
        backend,
        file_name,
        served,
        max_batch=largest,
        device=device,
        instances=instances,
        queue_us=queue_us,
        preferred=preferred or ((served.profile[1],) if served.profile and largest else ()),
        cuda_graphs=cuda_graphs,
        warmup=warmup,
    )
    folder = out / name
    _lay_out(source, folder, file_name)
    write_bytes(folder / "config.pbtxt", config.encode())
    write_bytes(folder / "labels.txt", "".join(f"{label}\n" for label in served.classes).encode())
    facts: dict[str, Any] = {"kind": "triton", "name": name, "backend": backend, "device": device}
    facts |= {"max_batch_size": largest, "file": source.name, "sha256": sha256(source)}
    facts |= {"proved": manifest.get("gate"), "source": manifest, "versions": versions()}
    write_json(folder / "kdc.json", facts)
    if not (manifest.get("gate") or {}).get("passed"):
        console.warn(f"{source.name} has passed no gate that is written beside it: what is served is not proved")
    if backend == "openvino":
        console.warn("on a CPU with bfloat16 Triton's OpenVINO may use it by itself, where kdc's gate ran in float32")
    if backend == "tensorrt":
        built = f"{manifest.get('flavour', 'TensorRT')} {manifest.get('version', 'of unknown version')}"
        console.warn(f"the server must hold the TensorRT that built the engine ({built}): take the container with it")
    return facts | {"path": str(folder), "config": config}


def render(
    name: str,
    backend: str,
    file_name: str,
    served: Served,
    *,
    max_batch: int,
    device: str,
    instances: int = 1,
    queue_us: int = QUEUE_US,
    preferred: Sequence[int] = (),
    cuda_graphs: bool = False,
    warmup: bool = True,
) -> str:
    """Return the text of config.pbtxt; ``max_batch`` 0 means a fixed batch, which then stands in the dims.

    With a batch above 0 the server puts the batch before the dims, so they leave it out.
    """
    first = 1 if max_batch else 0
    given = {"name": served.given.name, "data_type": _type(served.given), "dims": _dims(served.given, first)}
    made: dict[str, Any] = {"name": served.made.name, "data_type": _type(served.made)}
    made |= {"dims": _dims(served.made, first), "label_filename": "labels.txt"}
    kind = Word("KIND_GPU" if device == "cuda" else "KIND_CPU")
    config: dict[str, Any] = {"name": name, "backend": backend, "default_model_filename": file_name}
    config |= {"max_batch_size": max_batch, "input": [given], "output": [made]}
    config["instance_group"] = [{"kind": kind, "count": instances}]
    if max_batch:
        config["dynamic_batching"] = {"preferred_batch_size": list(preferred), "max_queue_delay_microseconds": queue_us}
    if cuda_graphs:
        config["optimization"] = {"cuda": {"graphs": True}}
    if warmup:
        zeros = {"data_type": given["data_type"], "dims": given["dims"], "zero_data": True}
        sizes = sorted({1, *preferred, max_batch}) if max_batch else [1]
        config["model_warmup"] = [
            {"name": f"zeros_{n}", "batch_size": n, "inputs": {"key": given["name"], "value": zeros}}
            for n in sizes
            if n
        ]
    return "\n".join(_text(config)) + "\n"


def _text(values: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Write plain values in the text format of protocol buffers."""
    for key, value in values.items():
        for each in value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]:
            if isinstance(each, dict):
                yield f"{indent}{key} {{"
                yield from _text(each, f"{indent}  ")
                yield f"{indent}}}"
            elif not isinstance(each, list):
                yield f"{indent}{key}: {_scalar(each)}"
            elif each:
                yield f"{indent}{key}: [{', '.join(_scalar(one) for one in each)}]"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not isinstance(value, Word):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)


def _served(source: Path, trust: bool) -> tuple[Served, dict[str, Any]]:
    if source.suffix.lower() in ENGINES:
        card = read_manifest(source, trust)
        if card is None:
            raise WeightsError(f"{source} has no manifest, so what it takes and gives is not known; build it with kdc")
        if card.flavour != "tensorrt" or card.stripped:
            what = "was built without its weights" if card.stripped else f"is {card.flavour}'s"
            raise ExportError(
                f"{source.name} {what}, which Triton's TensorRT backend does not load; build another: kdc export trt "
                "--flavour tensorrt"
            )
        classes = tuple(card.network.get("kdc.classes") or ())
        info = file_info(source, card.inputs, card.outputs, card.precision, {"kdc.classes": classes})
        ends = [int(card.profile[key][0]) for key in ("min", "opt", "max")] if card.profile else None
        batches = (ends[0], ends[1], ends[2]) if ends else None
        return Served(_given(info), info.output_port, batches, classes), manifest_of(source).values
    info = read_ir(source) if source.suffix.lower() == ".xml" else read_info(source)
    classes = tuple(info.metadata.get("kdc.classes") or (f"class {k}" for k in range(info.num_classes)))
    return Served(_given(info), info.output_port, None, classes), manifest_of(source).values


def _given(info: FileInfo) -> Port:
    return Port(info.input, info.dtype, info.shape)


def _largest_batch(source: Path, served: Served, wanted: int | None, preferred: Sequence[int]) -> int:
    fixed = served.given.shape[0]
    if fixed is not None:
        if wanted or preferred:
            raise UsageError(
                f"{source.name} is made for a batch of {fixed}, so the server can form none: leave out --max-batch and "
                "--preferred, or export it with --dynamic-batch"
            )
        return 0
    most = served.profile[2] if served.profile else None
    largest = wanted or most or MAX_BATCH
    if largest < 1 or (most is not None and largest > most):
        raise UsageError(f"--max-batch {largest}: {source.name} takes 1 to {most or 'any number of'} images")
    if wrong := [n for n in preferred if not 1 <= n <= largest]:
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


def _lay_out(source: Path, folder: Path, file_name: str) -> None:
    if folder.exists() and not (folder / "kdc.json").exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} holds something that kdc did not write; name another --name or --out")
    model = whole(source) if Path(file_name).suffix == ".onnx" else None
    version = folder / "1"
    shutil.rmtree(version, ignore_errors=True)
    version.mkdir(parents=True)
    target = version / file_name
    if model is not None:
        write_bytes(target, model)
    else:
        shutil.copyfile(source, target)
    if (weights := weights_beside(source)) is not None:
        shutil.copyfile(weights, target.with_suffix(".bin"))
