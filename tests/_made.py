"""What tests are made of: ONNX files, a network of numpy with images that it labels rightly, the gate between two."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kdc.deploy.artefacts.safe_onnx import save_own
from kdc.deploy.parity.gate import gate
from kdc.deploy.parity.result import GateResult
from kdc.deploy.parity.tolerances import Tolerances
from kdc.deploy.runtimes.base import Runtime, Spec
from kdc.distill.data import Dataset
from kdc.distill.preprocess import IMAGENET

SIZE, K = (8, 16), 3
#: the shape of a value, or its shape and type; float32 where none is said
Port = Sequence[Any] | tuple[Sequence[Any], int]


def onnx_file(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    given: Mapping[str, Port],
    made: Mapping[str, Port],
    stored: Mapping[str, np.ndarray] | Sequence[TensorProto],
    *,
    opset: int = 20,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write a graph as a file that is opened without a child of its own, for it is examined here.

    Args:
        path: where; its folder is made.
        nodes: the layers.
        given: name and ``Port`` of the inputs.
        made: of the outputs.
        stored: the weights.
        opset: of ONNX.
        facts: the metadata; values are written as JSON.
    """
    inputs, outputs = ([_value(name, port) for name, port in each.items()] for each in (given, made))
    weights = stored if not isinstance(stored, Mapping) else [numpy_helper.from_array(v, n) for n, v in stored.items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    helper.set_model_props(model, {key: json.dumps(value) for key, value in (facts or {}).items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_own(model, path)
    return path


def _value(name: str, port: Port) -> onnx.ValueInfoProto:
    shape, kind = port if isinstance(port[0], (list, tuple)) else (port, TensorProto.FLOAT)
    return helper.make_tensor_value_info(name, kind, shape)


def chain(
    path: Path,
    *,
    size: tuple[int | str, int | str] = (16, 24),
    repeat: int = 1,
    batch: int | str = 1,
    classes: int = 3,
    fit: str = "pad",
) -> Path:
    """Write ``repeat`` convolutions after each other."""
    rng = np.random.default_rng(0)
    stored, nodes = {}, []
    for i in range(repeat):
        out = classes if i + 1 == repeat else 3
        stored[f"w{i}"] = 0.1 * rng.standard_normal((out, 3, 3, 3)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], pads=[1, 1, 1, 1]))
    facts = {"kdc.preprocess": IMAGENET.to_dict(), "kdc.fit": fit}
    given, made = {"x0": [batch, 3, *size]}, {f"x{repeat}": [batch, classes, *size]}
    return onnx_file(path, nodes, given, made, stored, facts=facts)


class Made(Runtime):
    """Logits that follow the image, plus what ``wrong`` adds to them."""

    name, provider, precision, device, source = "made", "numpy", "fp32", "cpu", Path("made")

    def __init__(self, wrong: Any = 0.0, head: str = "logits", batch: int | None = 1) -> None:
        self.spec = Spec((batch, *SIZE, 3), "uint8", "NHWC", head, IMAGENET, ("a", "b", "c"))
        self.wrong, self.seen = wrong, []

    def _infer(self, x: np.ndarray) -> np.ndarray:
        self.seen.append(len(x))
        logits = x.transpose(0, 3, 1, 2).astype(np.float32) / 16 + self.wrong
        return logits if self.spec.head == "logits" else logits.argmax(1).astype(np.uint8)


class Images(Dataset):
    """Images smaller than the network's input, labelled by the right answer."""

    name, split, classes = "noise", "val", ("a", "b", "c")

    def __init__(self, count: int = 7, labelled: bool = True, size: tuple[int, int] = (8, 12)) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
        self.labelled = labelled

    def __len__(self) -> int:
        return len(self.images)

    def key(self, i: int) -> str:
        return f"image{i}"

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        return self.images[i], self.images[i].argmax(2).astype(np.uint8) if self.labelled else None


def gate_result(wrong: Any = 0.0, tolerances: Tolerances | None = None, data: Any = None, **runtime: Any) -> GateResult:
    tolerances = tolerances or Tolerances(1e-4, 0.9999, 0.5)
    return gate(Made(), Made(wrong, **runtime), Images() if data is None else data, tolerances, images=None)
