"""Our TensorRT code on the real bindings of 10.16 and 11.4; the libraries below them are stand-ins (``stub_*.cpp``).

What this shows: every name exists in both majors, every call is accepted, and the data goes where it should. What it
cannot show is anything that TensorRT computes: those marked ``gpu`` in
``tests/deploy/runtimes/trt/test_trt_runtime.py`` can.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kdc.export.to_trt import HARDWARE, BuildFlags

Session = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]
FILES = ("export/trt_builder.py", "export/to_trt.py", "deploy/runtimes/trt/engine.py", "deploy/runtimes/trt/logger.py")
#: how these files call the module
MODULES = {"trt", "module"}
#: names that are used for TensorRT-RTX alone; tests/export builds with it
RTX_ONLY = {"ComputeCapability"}


def chains() -> Iterator[list[str]]:
    """Yield each chain of names after the module: ["BuilderFlag", "TF32"] of ``trt.BuilderFlag.TF32``."""
    for file in FILES:
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            names: list[str] = []
            while isinstance(node, ast.Attribute):
                names.insert(0, node.attr)
                node = node.value
            if names and isinstance(node, ast.Name) and node.id in MODULES:
                yield names
            elif len(names) > 1 and isinstance(node, ast.Name) and node.id == "self" and names[0] == "_trt":
                yield names[1:]


def test_every_name_exists_in_both_majors(session: Session) -> None:
    found = sorted({tuple(names) for names in chains() if names[-1] != "__members__"})
    assert ("IProfiler", "__init__") in found and ("OnnxParserRefitter",) in found and len(found) > 20
    flags = BuildFlags(version_compatible=True, refit=True, strip_weights=True).builder_flags.values()
    found += [("BuilderFlag", name) for name in flags]
    found += [("HardwareCompatibilityLevel", name) for name in HARDWARE.values()]
    lacking, unknown = session(("missing", {"names": found}), ("missing", {"names": [("BuilderFlag", "TF31")]}))
    assert set(lacking) <= RTX_ONLY and unknown == ["BuilderFlag.TF31"]


def test_wrong_calls_are_refused(session: Session) -> None:
    [said] = session(("wrong_calls", {}))
    assert set(said.values()) == {"TypeError", "AttributeError"} and said["a name that does not exist"] != "TypeError"


@pytest.mark.process
@pytest.mark.parametrize(("head", "cuda_graph"), [("logits", False), ("logits", True), ("argmax", True)])
def test_build_deserialise_enqueue(session: Session, head: str, cuda_graph: bool, bindings: Path) -> None:
    flags = {"workspace_mib": 64, "opt_level": 2, "batches": (1, 2, 4), "timing_cache": "timing.cache", "tf32": False}
    manifest, done, small = session(
        ("build", {"head": head, "preprocess": "bgr-mean", **flags}),
        ("run", {"images": 3, "cuda_graph": cuda_graph}),
        ("run", {"images": 2, "size": (3, 5), "cuda_graph": cuda_graph}),
        HEAD=head,
    )
    version = bindings.name.partition("-")[0]
    assert (manifest["flavour"], manifest["version"]) == ("tensorrt", version)
    assert manifest["profile"] == {"min": [1, 3, 4, 6], "opt": [2, 3, 4, 6], "max": [4, 3, 4, 6]}
    assert manifest["inputs"] == [{"name": "image", "dtype": "float32", "shape": [None, 3, 4, 6]}]
    assert manifest["outputs"][0]["dtype"] == ("float32" if head == "logits" else "uint8")
    assert (manifest["compute_capability"], manifest["cuda"]) == ("8.6", "13.2")
    assert manifest["gpu"] == "Stub GPU (compute capability 8.6)"
    assert done["infer"] is True and done["masks"] is True
    assert done["dtype"] == ["float32" if head == "logits" else "uint8", "uint8"]
    assert (done["name"], done["provider"], done["precision"]) == ("tensorrt", "tensorrt cuda", "fp32")
    assert done["shape"] == [None, 3, 4, 6] and done["classes"] == ["a", "b", "c"]
    assert set(done["parts"]) == {"h2d", "compute", "d2h", "enqueue", "total"}
    # the stand-in's clock ticks once an event
    assert [done["parts"][name] for name in ("h2d", "compute", "d2h")] == [1, 1, 1]
    assert small["masks"] is True, "a smaller image is padded and cut off again"


@pytest.mark.process
def test_every_flag_is_accepted(session: Session) -> None:
    flags = {"head": "argmax", "version_compatible": True, "refit": True, "strip_weights": True, "tf32": True}
    steps = [("build", flags | {"hardware": hardware}) for hardware in HARDWARE]
    *manifests, done = session(*steps, ("run", {"images": 1}), HEAD="argmax")
    assert [manifest["hardware"] for manifest in manifests] == list(HARDWARE)
    assert manifests[-1]["stripped"] is True and done["masks"] is True, "weights come back from the ONNX file"
    words = "--hardware same --version-compatible --refit --strip-weights"
    assert manifests[-1]["flags"] == words.split(), "a rebuild must ask for the same"


@pytest.mark.process
def test_errors_while_it_runs_are_reported(session: Session) -> None:
    _, told = session(("build", {"head": "argmax", "batches": (1, 2, 4)}), ("run", {"images": 5}), HEAD="argmax")
    assert told["exit_code"] == 2 and "5x3x4x6 is outside 1x3x4x6 to 4x3x4x6" in told["error"]
    [told] = session(("run", {"images": 1}), HEAD="argmax", ENQUEUE="fails")
    assert told == {"error": "model.engine failed while it ran: it gave no reason", "exit_code": 5}
    [told] = session(("run", {"images": 1}), HEAD="logits")
    assert told["exit_code"] == 5 and "does not have the ports of its manifest" in told["error"]


@pytest.mark.process
def test_a_foreign_engine(session: Session, tmp_path: Path) -> None:
    session(("build", {"head": "argmax"}), HEAD="argmax")
    (tmp_path / "model.engine").write_bytes(b"something else")
    trusted = ("run", {"images": 1, "trust": True})
    plain, refused = session(("run", {"images": 1}), trusted, HEAD="argmax")
    assert plain["exit_code"] == 4 and "sha256" in plain["error"], "the manifest is asked first"
    assert refused["exit_code"] == 5 and "refused model.engine" in refused["error"], "TensorRT is asked next"
    (tmp_path / "model.engine").write_bytes(b"KDC PLAN of somebody else")
    [told] = session(trusted, HEAD="argmax")
    assert told["masks"] is True and told["precision"] == "unknown" and told["classes"] == []
    assert told["modules"] == [], "running an engine needs neither torch nor PyCUDA"


LEFT = ["model.engine", "model.engine.golden.npz", "model.engine.json"]


@pytest.mark.process
@pytest.mark.parametrize(
    ("half", "right", "said"),
    [
        (True, None, None),
        (True, True, None),
        (False, True, "fp16 was asked for and none of the time is in fp16"),
        (True, False, "0.000 % of pixels agree"),
    ],
    ids=["half", "half and right", "float", "wrong"],
)
def test_a_fresh_engine_passes_its_first_run_or_is_removed(
    session: Session, half: bool, right: bool | None, said: str | None, tmp_path: Path
) -> None:
    flags = {"head": "argmax", "half": True, "batches": (1, 2, 4), "right": right}
    [built] = session(("build", flags), HEAD="argmax", half=half)
    left = [name for name in LEFT if (tmp_path / name).exists()]
    if said is None:
        assert built["proof"]["by_time"] == {"fp16": 0.75, "reformat": 0.25} and built["proof"]["reasons"] == []
        assert built["proof"]["total_ms"] == 1.0 and built["proof"]["by_flops"] == {"fp16": 1.0}
        assert (built["golden"] or {}).get("agreement") == (1.0 if right else None)
        assert left == [name for name in LEFT if right or "golden" not in name]
    else:
        assert built["exit_code"] == 6 and said in built["error"] and left == []


@pytest.mark.process
def test_an_engine_that_dies_when_it_runs_goes(session: Session, tmp_path: Path) -> None:
    [built] = session(("build", {"head": "argmax", "right": True}), HEAD="argmax", ENQUEUE="dies")
    assert built["exit_code"] == 5 and "model.engine was built and died when it ran (signal SIG" in built["error"]
    assert not any((tmp_path / name).exists() for name in LEFT)


def test_memory_and_kernels_through_cuda_python(session: Session) -> None:
    [done] = session(("buffers", {}))
    assert done["name"] == "cuda-python" and done["gpu"] == "Stub GPU (compute capability 8.6)"
    assert done["same"] == dict.fromkeys(done["same"], True)
    assert done["captured"] == [[0, 0, 0, 0], [0, 1, 2, 3]], "what is captured runs when the graph is launched"
    assert done["refused"] == "CUDA failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "the call that broke a capture"
    assert done["cuda"] == "13.2" and done["ms"] == 1.0 and done["no room"] == "7"
    assert done["alive"] == 0, "whatever was made has been ended"
