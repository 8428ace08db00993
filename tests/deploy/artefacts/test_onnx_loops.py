"""Graphs that repeat themselves: one that never ends is refused by every command, one that does is run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from kdc import cli
from kdc.deploy.artefacts import onnx_loops
from kdc.deploy.artefacts.onnx_loops import has_loops
from kdc.deploy.artefacts.safe_onnx import load_checked
from kdc.deploy.runtimes.open import open_runtime
from kdc.distill.errors import WeightsError

FLOAT = TensorProto.FLOAT


def _body() -> GraphProto:
    """Add one to what goes round, and go on."""
    ports = [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("c", 9, [])]
    ports.append(helper.make_tensor_value_info("v", FLOAT, None))
    nodes = [helper.make_node("Identity", ["c"], ["again"]), helper.make_node("Add", ["v", "one"], ["next"])]
    out = [helper.make_tensor_value_info("again", 9, []), helper.make_tensor_value_info("next", FLOAT, None)]
    return helper.make_graph(nodes, "body", ports, out)


def looped(path: Path, trips: int | None, *, within: bool = False, side: int | str = 8) -> Path:
    """Write a convolution whose result goes round ``trips`` times; None for as long as a condition holds.

    ``within`` puts the loop into a function of the file's own.
    """
    stored = [numpy_helper.from_array(np.full((3, 3, 1, 1), 0.1, np.float32), "w")]
    one = helper.make_node("Constant", [], ["one"], value=helper.make_tensor("o", FLOAT, [], [1.0]))
    true = helper.make_node("Constant", [], ["true"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True]))
    count = helper.make_node(
        "Constant", [], ["trips"], value=helper.make_tensor("n", TensorProto.INT64, [], [trips or 0])
    )
    loop = helper.make_node("Loop", ["trips" if trips is not None else "", "true", "z"], ["y"], body=_body())
    parts = [one, true, count, loop]
    functions = []
    if within:
        functions = [helper.make_function("own", "Round", ["z"], ["y"], parts, [helper.make_opsetid("", 20)])]
        parts = [helper.make_node("Round", ["z"], ["y"], domain="own")]
    nodes = [helper.make_node("Conv", ["image", "w"], ["z"]), *parts]
    ports = [helper.make_tensor_value_info(name, FLOAT, [1, 3, side, side]) for name in ("image", "y")]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], stored)
    opsets = [helper.make_opsetid("", 20), *([helper.make_opsetid("own", 1)] if within else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions), path)
    return path


def test_what_counts_as_a_loop(tmp_path: Path) -> None:
    for within in (False, True):
        path = looped(tmp_path / "net.onnx", 3, within=within)
        assert has_loops(onnx.load(path), path)
    branch = helper.make_graph([helper.make_node("Identity", ["z"], ["b"])], "g", [], [])
    plain = ModelProto(graph=GraphProto(node=[helper.make_node("If", ["c"], ["y"], then_branch=branch)]))
    assert not has_loops(plain, tmp_path)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: looped(path, 2**62), id="trips"),
        pytest.param(lambda path: looped(path, None), id="while", marks=pytest.mark.process),
        pytest.param(lambda path: looped(path, 2**62, within=True), id="function", marks=pytest.mark.process),
        pytest.param(lambda path: looped(path, None, side="s"), id="free", marks=pytest.mark.process),
    ],
)
def test_one_that_never_ends_is_refused(
    make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_loops, "SECONDS", 2)
    with pytest.raises(WeightsError, match="its loops do not end within 2 s: refused"):
        load_checked(make(tmp_path / "net.onnx"))


@pytest.mark.process
def test_a_command_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(onnx_loops, "SECONDS", 2)
    path = looped(tmp_path / "net.onnx", None)
    assert cli.run(["eval", str(path), "--data", "builtin"]) == WeightsError.exit_code
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "its loops do not end" in err


@pytest.mark.process
def test_one_that_ends_is_run(tmp_path: Path) -> None:
    with open_runtime(looped(tmp_path / "net.onnx", 5)) as runtime:
        out = runtime.infer(np.zeros((1, 3, 8, 8), np.float32))
    np.testing.assert_allclose(out, np.full((1, 3, 8, 8), 5.0))
