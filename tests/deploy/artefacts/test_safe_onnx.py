"""ONNX files of unknown origin: each kind of bad file is refused with one line before a runtime sees it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from kdc import cli
from kdc.deploy import child
from kdc.deploy.artefacts import onnx_rules, safe_onnx, verdicts
from kdc.deploy.artefacts.onnx_rules import LARGEST_VALUE
from kdc.deploy.artefacts.safe_onnx import load_checked
from kdc.deploy.runtimes.open import open_runtime
from kdc.distill.errors import WeightsError
from kdc.distill.run.files import sha256
from kdc.distill.run.folder import Run
from kdc.distill.settings.config import Config

WEIGHTS = np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32)


def made(*, more: list[onnx.NodeProto] | None = None) -> ModelProto:
    nodes = [helper.make_node("Conv", ["image", "w"], ["z"], pads=[1, 1, 1, 1], name="conv"), *(more or [])]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 12])
    out = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 3, 8, 12])
    graph = helper.make_graph(nodes, "net", [image], [out], [numpy_helper.from_array(WEIGHTS, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def domain(model: ModelProto) -> None:
    model.graph.node[0].domain = "evil.plugins"
    model.opset_import.append(helper.make_opsetid("evil.plugins", 1))


def unknown(model: ModelProto) -> None:
    model.graph.node[0].op_type = "Convolve"


def custom_in_a_branch(model: ModelProto) -> None:
    branch = helper.make_graph([helper.make_node("X", [], ["b"], domain="evil")], "g", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch))


def huge_input(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**40


def negative(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = -4


def huge_tensor(model: ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 2**62


def more_than_there_is(model: ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 2**20


def floats_missing(model: ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([0.0] * 5)


def no_type(model: ModelProto) -> None:
    model.graph.initializer[0].data_type = 99


def sparse_bomb(model: ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "i"))
    sparse.dims.extend([2**20, 2**20])


def value_bomb(model: ModelProto) -> None:
    """A few bytes that make a runtime fill 4 TiB when it opens the file."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**20, 2**20], np.int64), "shape"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["bomb"]))


def bomb_in_a_function(model: ModelProto) -> None:
    """The same within a function of the file's own, whose values no list names."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [2**20, 2**20])
    nodes = [helper.make_node("Constant", [], ["s"], value=shape), helper.make_node("ConstantOfShape", ["s"], ["bomb"])]
    opset = helper.make_opsetid("", 20)
    model.functions.append(helper.make_function("mine", "Twice", [], ["bomb"], nodes, [opset]))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node.append(helper.make_node("Twice", [], ["bomb"], domain="mine"))


def bomb_in_a_branch(model: ModelProto) -> None:
    value = helper.make_tensor_value_info("b", TensorProto.FLOAT, [2**20, 2**20])
    graph = helper.make_graph([helper.make_node("Identity", ["z"], ["b"])], "g", [], [value])
    node = helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)
    model.functions.append(helper.make_function("mine", "F", ["c", "z"], ["y"], [node], [helper.make_opsetid("", 20)]))


def bomb_in_an_old_function(model: ModelProto) -> None:
    bomb_in_a_function(model)
    model.functions[0].opset_import[0].version = 19


def custom_in_a_function(model: ModelProto) -> None:
    graph = helper.make_graph([helper.make_node("X", ["a"], ["b"], domain="evil")], "g", [], [])
    node = helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)
    model.functions.append(helper.make_function("mine", "F", ["c"], ["y"], [node], [helper.make_opsetid("", 20)]))


def to_train(model: ModelProto) -> None:
    model.training_info.add().algorithm.CopyFrom(model.graph)


def not_connected(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "nowhere"


def no_nodes(model: ModelProto) -> None:
    del model.graph.node[:]


def nested(model: ModelProto) -> None:
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", [], [])
    for _ in range(onnx_rules.DEEPEST + 1):
        graph = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=graph)], "g", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=graph))


def outside(location: str, **entries: str) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=value)

    return change


BAD = [
    (domain, "uses Conv of the domain 'evil.plugins', a custom operator: refused"),
    (unknown, "uses Convolve, which ONNX does not have"),
    (custom_in_a_branch, "uses X of the domain 'evil'"),
    (huge_input, "has a value 'image' of 1x3x1099511627776x12: refused"),
    (negative, "has a value 'image' of 1x3x-4x12: refused"),
    (huge_tensor, f"at most {LARGEST_VALUE} elements"),
    (more_than_there_is, "(113246208 bytes|which is 113246208 bytes), and holds 324: it is cut off or made up"),
    (floats_missing, "which is 81 values, and holds 5"),
    (no_type, r"of a type that ONNX does not have \(99\)"),
    (sparse_bomb, "declares 's' as 1048576x1048576: refused"),
    (value_bomb, "has a value 'bomb' of 1048576x1048576: refused"),
    (bomb_in_a_function, "has a value '.*bomb.*' of 1048576x1048576: refused"),
    (bomb_in_a_branch, "has a value 'b' of 1048576x1048576: refused"),
    (bomb_in_an_old_function, "has functions that cannot be put into its graph: refused"),
    (custom_in_a_function, "uses X of the domain 'evil'"),
    (to_train, "holds graphs to train with"),
    (not_connected, "is no valid ONNX"),
    (no_nodes, "holds no network"),
    (nested, "nests more than 8 graphs"),
    (outside("../secret.bin"), "outside its folder: refused"),
    (outside("link.bin"), "outside its folder: refused"),
    (outside("/etc/hostname"), "outside its folder: refused"),
    (outside(""), "outside its folder: refused"),
    (outside("missing.bin"), "needs the file 'missing.bin' beside it"),
    (outside("short.bin"), "which has 8: it is cut off or made up"),
    (outside("right.bin", offset="-4"), "cut off or made up"),
    (outside("right.bin", length="99999999"), "cut off or made up"),
    (outside("right.bin", offset="x"), "cannot be read"),
]
#: what only the child sees
IN_THE_CHILD = (value_bomb, bomb_in_a_function, bomb_in_an_old_function, not_connected, domain)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.bin").write_bytes(WEIGHTS.tobytes())
    here = tmp_path / "model"
    here.mkdir()
    (here / "link.bin").symlink_to(tmp_path / "secret.bin")
    (here / "short.bin").write_bytes(bytes(8))
    (here / "right.bin").write_bytes(WEIGHTS.tobytes())
    return here


@pytest.mark.parametrize(("change", "said"), BAD, ids=[getattr(case[0], "__name__", "") for case in BAD])
def test_what_is_refused(
    folder: Path, change: Callable[[ModelProto], None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("ONNX Runtime saw the file")

    monkeypatch.setattr("onnxruntime.InferenceSession", never)
    if change not in IN_THE_CHILD:
        monkeypatch.setattr(safe_onnx, "_vet", lambda *_: None)
    model = made()
    change(model)
    path = folder / "a.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match=said) as caught:
        open_runtime(path)
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_what_is_accepted(folder: Path) -> None:
    path = folder / "a.onnx"
    model = made()
    for change in (lambda m: None, outside("right.bin"), lambda m: m.graph.node[0].ClearField("name")):
        change(model)
        path.write_bytes(model.SerializeToString())
        with open_runtime(path) as runtime:
            assert runtime.spec.size == (8, 12)
    function = helper.make_function(
        "mine", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], [helper.make_opsetid("", 20)]
    )
    model = made(more=[helper.make_node("Twice", ["z"], ["zz"], domain="mine")])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    path.write_bytes(model.SerializeToString())
    load_checked(path)


@pytest.mark.parametrize("part", [0, 1, 7, 100, 300])
def test_truncated(folder: Path, part: int) -> None:
    path = folder / "a.onnx"
    whole = made().SerializeToString()
    path.write_bytes(whole[:part])
    with pytest.raises(WeightsError) as caught:
        open_runtime(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(4))
def test_noise_and_flipped_bytes_never_get_further_than_one_line(folder: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    content = np.frombuffer(made().SerializeToString(), np.uint8).copy()
    content[random.integers(0, len(content), 40)] = random.integers(0, 256, 40)
    path = folder / "a.onnx"
    path.write_bytes(content.tobytes() if seed else random.bytes(5000))
    try:
        load_checked(path)
    except WeightsError as error:
        assert "\n" not in str(error)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a user of whom nothing is remembered; what this process has remembered is put away."""
    monkeypatch.setattr(verdicts, "_here", {})
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "kdc"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of the children that were started."""
    calls = []
    real = subprocess.Popen

    def popen(command: list[str], **options: object) -> object:
        calls.append(command)
        return real(command, **options)  # pyright: ignore[reportCallIssue, reportArgumentType]

    monkeypatch.setattr(child.subprocess, "Popen", popen)
    return calls


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be another process of the same user."""
    monkeypatch.setattr(verdicts, "_here", {})


def test_bytes_are_read_in_a_child_once_and_others_by_another(
    folder: Path, state: Path, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "a.onnx"
    path.write_bytes(made().SerializeToString())
    # whoever makes up a file can make up its manifest
    (folder / "a.onnx.json").write_text(json.dumps({"sha256": sha256(path)}))
    load_checked(path)
    load_checked(path)
    assert len(calls) == 1 and calls[0][0] == sys.executable
    path.write_bytes(made().SerializeToString())  # the same bytes at another time
    load_checked(path)
    forget(monkeypatch)
    load_checked(path)
    assert len(calls) == 1
    assert state.stat().st_mode & 0o777 == 0o700
    (file,) = state.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    model = made()
    model.graph.initializer[0].raw_data = bytes(324)
    path.write_bytes(model.SerializeToString())
    load_checked(path)
    assert len(calls) == 2


def test_weights_beside_a_file_count_too(folder: Path, state: Path, calls: list[list[str]]) -> None:
    path, model = folder / "a.onnx", made()
    outside("right.bin")(model)
    path.write_bytes(model.SerializeToString())
    load_checked(path)
    load_checked(path)
    assert len(calls) == 1
    (folder / "right.bin").write_bytes(bytes(324))
    load_checked(path)
    assert len(calls) == 2


def test_a_refused_file_is_not_remembered(folder: Path, state: Path, calls: list[list[str]]) -> None:
    path, model = folder / "a.onnx", made()
    value_bomb(model)
    path.write_bytes(model.SerializeToString())
    for _ in range(2):
        with pytest.raises(WeightsError, match="bomb"):
            load_checked(path)
    assert len(calls) == 2 and not verdicts._here and not [*state.glob("*")]


def test_what_changes_under_the_child_is_refused(folder: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = folder / "a.onnx", subprocess.Popen
    path.write_bytes(made().SerializeToString())

    def swapped(command: list[str], **options: object) -> object:
        model = made()
        model.graph.initializer[0].raw_data = bytes(324)
        path.write_bytes(model.SerializeToString())
        return real(command, **options)  # pyright: ignore[reportCallIssue, reportArgumentType]

    monkeypatch.setattr(child.subprocess, "Popen", swapped)
    with pytest.raises(WeightsError, match="changed while it was read"):
        load_checked(path)
    assert not verdicts._here


def test_what_kdc_wrote_is_examined_where_it_is_written(folder: Path, state: Path, calls: list[list[str]]) -> None:
    path = folder / "a.onnx"
    safe_onnx.save_own(made(), path)
    assert path.read_bytes() == made().SerializeToString()
    load_checked(path)
    assert not calls and not state.exists()
    path.write_bytes(path.read_bytes().replace(b"conv", b"vonc"))  # another process was at it
    load_checked(path)
    assert len(calls) == 1
    model = made()
    value_bomb(model)
    safe_onnx.save_own(model, path)
    with pytest.raises(WeightsError, match="bomb"):
        load_checked(path)
    assert len(calls) == 2


def test_one_whole_file(folder: Path) -> None:
    path, model = folder / "a.onnx", made()
    path.write_bytes(model.SerializeToString())
    assert safe_onnx.external(path) == "" and safe_onnx.whole(path) == path.read_bytes()
    outside("right.bin")(model)
    path.write_bytes(model.SerializeToString())
    assert safe_onnx.external(path) == "right.bin"
    tensor = onnx.load_model_from_string(safe_onnx.whole(path)).graph.initializer[0]
    assert tensor.data_location == TensorProto.DEFAULT and not tensor.external_data
    assert np.array_equal(numpy_helper.to_array(tensor), WEIGHTS.reshape(tensor.dims))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", "die (signal SIGSEGV): refused"),
        ("import sys; sys.exit(3)", "die (exit code 3): refused"),
        ("import time; time.sleep(60)", "could not be read within 1 s"),
    ],
)
def test_a_parser_that_dies_dies_alone(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: str) -> None:
    path = folder / "a.onnx"
    path.write_bytes(made().SerializeToString())
    real = subprocess.Popen
    monkeypatch.setattr(safe_onnx, "SECONDS", 1)
    monkeypatch.setattr(child.subprocess, "Popen", lambda _, **options: real([sys.executable, "-c", body], **options))
    with pytest.raises(WeightsError) as caught:
        load_checked(path)
    assert said in str(caught.value)


def test_memory_is_limited() -> None:
    """The child's own limit, in a process of its own: a gigabyte more than its share is not to be had."""
    code = (
        "from kdc.deploy.artefacts import safe_onnx as s; s.MEMORY = 2**27; s._limit(0)\n"
        "try: bytearray(2**30); print('had')\n"
        "except MemoryError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "refused", done.stderr


def test_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = made()
    domain(model)
    path = folder / "a.onnx"
    path.write_bytes(model.SerializeToString())
    assert cli.run(["eval", str(path), "--data", "builtin"]) == 4
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(WeightsError, match="is no file"):
        load_checked(folder)


def test_sparse_weights_in_another_file_make_no_whole_one(folder: Path) -> None:
    path, model = folder / "a.onnx", made()
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(81, np.float32), "s"))
    sparse.values.ClearField("raw_data")
    sparse.values.data_location = TensorProto.EXTERNAL
    sparse.values.external_data.add(key="location", value="right.bin")
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(81, dtype=np.int64), "i"))
    sparse.dims.extend([81])
    path.write_bytes(model.SerializeToString())
    assert safe_onnx.external(path) == "right.bin"
    with pytest.raises(WeightsError, match=r"keeps sparse weights in 'right\.bin'"):
        safe_onnx.whole(path)


@pytest.mark.parametrize("name", ["net.onnx", "net.xml", "net.pt2", "net.engine"])
def test_a_git_lfs_pointer_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n")
    assert cli.run(["eval", str(tmp_path / name), "--data", "builtin"]) == WeightsError.exit_code
    assert "is a git-lfs pointer, not the file that it stands for" in capsys.readouterr().err


def test_weights_beside_a_file_of_a_run_are_looked_at_too(tmp_path: Path) -> None:
    run = Run.create("x", Config(), out=tmp_path / "run")
    path = run.export / "net.onnx"
    run.export.mkdir()
    model = made()
    outside("net.bin")(model)
    (run.export / "net.bin").write_bytes(WEIGHTS.tobytes())
    onnx.save(model, path)
    run.seal(everything=True)
    load_checked(path)
    changed = bytearray(WEIGHTS.tobytes())
    changed[7] ^= 1
    (run.export / "net.bin").write_bytes(bytes(changed))
    with pytest.raises(WeightsError, match=r"net\.bin was changed since kdc wrote it"):
        load_checked(path)
