"""INT8 for ONNX Runtime: unsigned activations, signed channel weights, and the same network in the end."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from kdc.calib.calibrators import limits, ranges
from kdc.calib.histograms import collect
from kdc.calib.onnx_graph import finished, load_named, products
from kdc.calib.ort_int8 import quantise_for_ort
from kdc.calib.qdq import inspect
from kdc.deploy.runtimes.open import open_runtime
from kdc.distill.errors import ExportError


def quantised(path: Path, images: Any, calibrator: str = "minmax", **how: Any) -> onnx.ModelProto:
    kept = ranges(collect(path, images).tensors, calibrator, "u8")
    return finished(quantise_for_ort(load_named(str(path)), kept, **how)[0], "int8")


def work_of(path: Path) -> dict[str, int]:
    return dict.fromkeys(products(load_named(str(path)).graph), 1)


def tensor(graph: onnx.GraphProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(t) for t in graph.initializer if t.name == name)


def test_the_scheme_and_its_ranges_are_ours(tmp_path: Path, network: Any, images: Any) -> None:
    path, pictures = network(tmp_path / "m.onnx"), images(5)
    graph = quantised(path, pictures, "mse").graph
    counts = inspect(graph, work_of(path))
    assert (counts.products, counts.quantised_products, counts.left_high) == (8, 7, ["classifier"])
    kinds = {node.name: node for node in graph.node}
    makers = {name: node for node in graph.node for name in node.output}
    assert kinds["classifier"].input[1] not in makers  # its weights are the float32 ones
    activation, weight = (makers[name] for name in kinds["stem"].input[:2])
    assert tensor(graph, activation.input[2]).dtype == np.uint8
    low, high = limits(collect(path, pictures).tensors["image"], "mse", "u8")
    assert tensor(graph, activation.input[1]) == pytest.approx((high - low) / 255, rel=1e-6)
    zero = tensor(graph, weight.input[2])
    assert (zero.dtype, zero.shape) == (np.int8, (16,)) and not zero.any()


@pytest.mark.parametrize("uint8", [False, True])
def test_quantised_network_agrees_and_keeps_its_contract(
    tmp_path: Path, network: Any, images: Any, uint8: bool
) -> None:
    full, small = network(tmp_path / "m.onnx", uint8=uint8), tmp_path / "q.onnx"
    onnx.save(quantised(full, images(8)), str(small))
    with open_runtime(full) as a, open_runtime(small) as b:
        assert b.precision == "int8"
        assert b.spec == a.spec
        unseen = np.stack(images(9)[8:])
        assert (a.masks(unseen) == b.masks(unseen)).mean() > 0.95
        assert not np.array_equal(a.infer(a.prepare(unseen)), b.infer(b.prepare(unseen)))  # it is another network
    nodes = onnx.load(str(small)).graph.node
    makers = {name: node.op_type for node in nodes for name in node.output}
    for node in nodes:  # the normalisation of the image stays in float32
        if node.op_type in ("Sub", "Div"):
            assert all(makers.get(name) != "DequantizeLinear" for name in node.input)


def test_kept_nodes_and_narrow_weights(tmp_path: Path, network: Any, images: Any, monkeypatch: Any) -> None:
    full = network(tmp_path / "m.onnx")
    kept = inspect(quantised(full, images(2), keep=["stem", "two_a"]).graph, work_of(full))
    assert kept.quantised_products == 5 and set(kept.left_high) == {"stem", "two_a", "classifier"}
    monkeypatch.setattr("kdc.calib.ort_int8.has_vnni", lambda: False)
    limits_ = ranges(collect(full, images(2)).tensors, "minmax", "u8")
    model, narrow = quantise_for_ort(load_named(str(full)), limits_)
    assert narrow
    stored = [t for t in model.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 4]
    assert stored
    assert max(int(np.abs(numpy_helper.to_array(t).astype(int)).max()) for t in stored) <= 64


def test_a_missing_range_is_one_line(tmp_path: Path, network: Any) -> None:
    with pytest.raises(ExportError, match="ONNX Runtime cannot quantise the network") as caught:
        quantise_for_ort(load_named(str(network(tmp_path / "m.onnx"))), {})
    assert "\n" not in str(caught.value)
