"""Graphs that repeat themselves: how often may depend on what they compute, so they are tried before they are used."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnx import AttributeProto, ModelProto, ValueInfoProto, helper

from ...distill.errors import need
from .onnx_rules import bodies

#: in which a graph with loops must end on a small image, opening it included
SECONDS = 20
#: heights and widths that are tried where a graph leaves them free
SIZES = ((64, 64), (512, 1024))


def has_loops(model: ModelProto, path: Path) -> bool:
    """Tell whether a graph, or a function of it, holds a node that runs a graph within it more than once."""
    inner = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
    nodes = (node for body in bodies(model, path) for node in body.node if node.op_type != "If")
    return any(attribute.type in inner for node in nodes for attribute in node.attribute)


def try_loops(model: ModelProto, path: Path, seconds: int) -> None:
    """Run a graph with loops on zeros and on noise; SIGALRM ends the process where that takes more than ``seconds``.

    What else goes wrong is for the runtime to say. Runs in a child process.

    Raises:
        ExportError: ONNX Runtime is not installed, so that it cannot be tried.
    """
    ort = need("onnxruntime", "cpu")
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    with contextlib.suppress(Exception):
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for feed in _feeds(model):
            with contextlib.suppress(Exception):
                session.run(None, feed)
    signal.alarm(0)


def _feeds(model: ModelProto) -> Iterator[dict[str, np.ndarray]]:
    stored = {tensor.name for tensor in model.graph.initializer}
    ports = [value for value in model.graph.input if value.name not in stored]
    rng = np.random.default_rng(0)
    for size in SIZES:
        for most in (0, 255):
            yield {port.name: _value(port, size, most, rng) for port in ports}


def _value(port: ValueInfoProto, size: tuple[int, int], most: int, rng: np.random.Generator) -> np.ndarray:
    kind, sides = port.type.tensor_type, list(size)
    fixed = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    # of free dimensions the first is the batch, and the two after it that are free are the sides
    shape = [n or (1 if at == 0 or not sides else sides.pop(0)) for at, n in enumerate(fixed)]
    return rng.integers(0, most + 1, shape).astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
