"""Blocks are found by the names of their weights."""

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from kdc.calib.onnx_graph import activations, before_network, finished, groups, load_named, resolve, short, tail
from kdc.distill.errors import ExportError, UsageError


def test_groups_are_residual_blocks_branches_and_layers(tmp_path: Path, network: Any) -> None:
    graph = load_named(str(network(tmp_path / "m.onnx"))).graph
    assert groups(graph) == {
        "stem": ["stem", "stem_relu", "pool"],
        "layer1.0": ["one_a", "one_relu", "one_b", "one_add", "one_out", "cat"],
        "layer2.0": ["two_a", "two_relu", "two_b", "two_d", "two_add", "two_out", "up"],
        "head.project": ["project", "project_relu"],
    }
    assert tail(graph) == ["classifier", "full"] and before_network(graph) == []
    assert resolve(graph, ["stem", "two_a", "layer1.0"])[:4] == ["stem", "stem_relu", "pool", "two_a"]
    with pytest.raises(UsageError, match=r"--keep layer1\.1: no such node or group.*did you mean 'layer1\.0'"):
        resolve(graph, ["layer1.1"])
    assert activations(graph)["image"] == 3 * 32 * 64


@pytest.mark.parametrize(
    "arch",
    [
        pytest.param("deeplabv3plus-mv2_050", marks=pytest.mark.process),
        *(pytest.param(arch, marks=pytest.mark.slow) for arch in ("deeplabv3-mv2_050", "deeplabv3-r18", "pspnet-r18")),
    ],
)
def test_every_network_falls_into_few_blocks(arch: str, tmp_path: Path) -> None:
    from kdc.distill.models import build
    from kdc.export.to_onnx import export_onnx

    path = export_onnx(build(arch, 5, seed=0), tmp_path / "m.onnx", size=(64, 64))
    graph = load_named(str(path)).graph
    found = groups(graph)
    layers = {node.name for node in graph.node if node.op_type == "Conv"}
    assert layers - set(tail(graph)) == layers & {name for names in found.values() for name in names}
    assert 10 <= len(found) <= 30
    assert not [name for name in found if name.startswith(("node", "Conv"))], "named by their weights, not by a number"
    blocks = [names for name, names in found.items() if ".blocks." in name or ".layer" in name]
    assert max(len(layers & set(names)) for names in blocks) >= 2


def test_a_graph_that_onnx_refuses_is_an_error() -> None:
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    nodes = [helper.make_node("Relu", ["nothing"], ["y"])]
    graph = helper.make_graph(nodes, "g", [given], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    with pytest.raises(ExportError, match="the int8 form is no valid ONNX"):
        finished(model, "int8")
    assert isinstance(model, onnx.ModelProto)


def test_names_for_one_line() -> None:
    assert (short([]), short("ab"), short("abcde")) == ("none", "a, b", "a, b, c and 2 more")
