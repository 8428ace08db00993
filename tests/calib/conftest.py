"""A small network with everything that has a rule of its own: pooling, residual sums, a concatenation, a resize."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdc.distill.preprocess import IMAGENET
from kdc.distill.run.folder import Run
from kdc.distill.settings.config import Config

from .._made import Port, onnx_file

K, H, W = 11, 32, 64
Network = Callable[..., Path]


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "model.stem.weight": (16, 3, 3, 3),
        "model.layer1.0.conv1.weight": (16, 16, 3, 3),
        "model.layer1.0.conv2.weight": (16, 16, 3, 3),
        "model.layer2.0.conv1.weight": (24, 16, 3, 3),
        "model.layer2.0.conv2.weight": (24, 24, 3, 3),
        "model.layer2.0.downsample.0.weight": (24, 16, 1, 1),
        "model.head.project.weight": (16, 40, 1, 1),
        "model.head.classifier.weight": (K, 16, 1, 1),
    }
    made = {
        name: (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        for name, shape in shapes.items()
    }
    made["model.stem.weight"][3] *= 40  # one channel far wider than the others: what per-channel scales are for
    biases = {name.replace("weight", "bias"): rng.standard_normal(len(made[name])).astype(np.float32) for name in made}
    return made | biases


def _nodes(first: str) -> list[onnx.NodeProto]:
    def conv(name: str, given: str, made: str, layer: str, **attributes: Any) -> onnx.NodeProto:
        weights = [f"model.{layer}.weight", f"model.{layer}.bias"]
        return helper.make_node("Conv", [given, *weights], [made], name=name, **attributes)

    pads, node = [1] * 4, helper.make_node
    return [
        conv("stem", first, "s0", "stem", pads=pads, strides=[2, 2]),
        node("Relu", ["s0"], ["s1"], name="stem_relu"),
        node("MaxPool", ["s1"], ["p"], name="pool", kernel_shape=[3, 3], pads=pads, strides=[1, 1]),
        conv("one_a", "p", "a0", "layer1.0.conv1", pads=pads),
        node("Relu", ["a0"], ["a1"], name="one_relu"),
        conv("one_b", "a1", "a2", "layer1.0.conv2", pads=pads),
        node("Add", ["a2", "p"], ["a3"], name="one_add"),
        node("Relu", ["a3"], ["low"], name="one_out"),
        conv("two_a", "low", "b0", "layer2.0.conv1", pads=pads, strides=[2, 2]),
        node("Relu", ["b0"], ["b1"], name="two_relu"),
        conv("two_b", "b1", "b2", "layer2.0.conv2", pads=pads),
        conv("two_d", "low", "b3", "layer2.0.downsample.0", strides=[2, 2]),
        node("Add", ["b3", "b2"], ["b4"], name="two_add"),
        node("Relu", ["b4"], ["b5"], name="two_out"),
        node("Resize", ["b5", "", "scales"], ["up"], name="up", mode="linear"),
        node("Concat", ["low", "up"], ["cat"], name="cat", axis=1),
        conv("project", "cat", "c0", "head.project"),
        node("Relu", ["c0"], ["c1"], name="project_relu"),
        conv("classifier", "c1", "small", "head.classifier"),
        node("Resize", ["small", "", "scales"], ["logits"], name="full", mode="linear"),
    ]


def write_network(
    path: Path, *, uint8: bool = False, batch: int = 1, opset: int = 20, fit: str = "pad", **changed: Any
) -> Path:
    """Write the network; with ``uint8`` the normalisation stands in the graph, ``changed`` replaces weights."""
    weights = _weights() | {"scales": np.array([1, 1, 2, 2], np.float32)}
    weights |= {name.replace("__", "."): value for name, value in changed.items()}
    nodes = []
    if uint8:
        weights |= {"mean": np.array(IMAGENET.mean, np.float32), "std": np.array(IMAGENET.std, np.float32)}
        node = helper.make_node
        nodes += [node("Cast", ["image"], ["f"], to=TensorProto.FLOAT), node("Sub", ["f", "mean"], ["centred"])]
        nodes += [node("Div", ["centred", "std"], ["d"]), node("Transpose", ["d"], ["x"], perm=[0, 3, 1, 2])]
    image: Port = ([batch, H, W, 3], TensorProto.UINT8) if uint8 else [batch, 3, H, W]
    facts = {"kdc.preprocess": IMAGENET.to_dict(), "kdc.classes": [f"c{k}" for k in range(K)], "kdc.fit": fit}
    nodes += _nodes("x" if uint8 else "image")
    return onnx_file(path, nodes, {"image": image}, {"logits": [batch, K, H, W]}, weights, opset=opset, facts=facts)


def some_images(count: int, size: tuple[int, int] = (H, W)) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]


@pytest.fixture
def network() -> Network:
    return write_network


@pytest.fixture
def images() -> Callable[..., list[np.ndarray]]:
    return some_images


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run on generated scenes, its network exported."""
    options = {"size": [H, W], "count": 12, "val_count": 4, "seed": 0}
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"data": {"source": "builtin", "options": options}}))
    (folder / "config.yaml").write_text(Config().to_yaml())
    write_network(folder / "export" / "model.onnx")
    return Run(folder)
