"""What the tests of measurements share: a small network to measure, and a run on generated scenes to measure it in."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdc.distill.preprocess import IMAGENET


@pytest.fixture
def network() -> Callable[..., Path]:
    """Give a function that writes an ONNX file of ``repeat`` convolutions after each other."""
    return _network


def _network(
    path: Path, *, size: tuple[int | str, int | str] = (16, 24), repeat: int = 1, batch: int | str = 1, classes: int = 3
) -> Path:
    rng = np.random.default_rng(0)
    tensors, nodes = [], []
    for i in range(repeat):
        out = classes if i + 1 == repeat else 3
        tensors.append(numpy_helper.from_array(0.1 * rng.standard_normal((out, 3, 3, 3)).astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], pads=[1, 1, 1, 1]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, channels, *size])
        for name, channels in (("x0", 3), (f"x{repeat}", classes))
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {"kdc.preprocess": json.dumps(IMAGENET.to_dict())})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path
