"""Where networks run: each kind of file uses its own options, and an option that nothing uses is refused."""

from pathlib import Path

import pytest

from kdc.deploy.runtimes import options as module
from kdc.deploy.runtimes.options import CPU, RuntimeOptions, is_engine, is_onnx, is_torch
from kdc.deploy.runtimes.said import NOTHING, Said
from kdc.distill.errors import UsageError


def test_kinds_of_sources_follow_their_suffix() -> None:
    assert is_engine(Path("a.PLAN")) and not is_engine(Path("a.onnx"))
    assert is_onnx(Path("a.ONNX")) and not is_onnx(Path("a.engine"))
    assert is_torch(Path("a.safetensors")) and is_torch(Path("runs/kt_0.5")) and not is_torch(Path("a.PT2"))


def test_each_network_uses_the_options_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(module, "open_runtime", lambda source, **flags: asked.append((str(source), flags)))
    options = RuntimeOptions("cpu", "openvino", True, "torch", True)
    for name in ("a.onnx", "a.engine", "a.pt2"):
        options.open(name, (4, 6))
    common: dict[str, object] = {"size": (4, 6), "trust": True}
    idle = {"buffers": "auto", "cuda_graph": False, "torch_mode": "channels-last"}
    common["said"] = NOTHING
    assert asked == [
        ("a.onnx", common | idle | {"device": "cpu", "provider": "openvino"}),
        (
            "a.engine",
            common
            | {
                "device": "cuda",
                "provider": None,
                "buffers": "torch",
                "cuda_graph": True,
                "torch_mode": "channels-last",
            },
        ),
        ("a.pt2", common | idle | {"device": "cpu", "provider": None}),
    ]


def test_an_option_that_no_file_uses_is_refused() -> None:
    options = RuntimeOptions("cpu", "openvino", True, "torch", True)
    with pytest.raises(UsageError, match="--provider openvino is for ONNX files"):
        options.refuse_unused([Path("a.engine")])
    with pytest.raises(UsageError, match="--buffers torch is for TensorRT engines"):
        options.refuse_unused([Path("a.onnx")])
    options.refuse_unused([Path("a.onnx"), Path("a.engine")])
    with pytest.raises(UsageError, match="--provider CUDAExecutionProvider goes with --device cuda, not cpu"):
        RuntimeOptions(provider="CUDAExecutionProvider")
    with pytest.raises(UsageError, match="did you mean 'pycuda'"):
        RuntimeOptions(buffers="pycdua")
    with pytest.raises(UsageError, match="--torch eager is for runs and checkpoints, and none is run here"):
        RuntimeOptions(torch_mode="eager").refuse_unused([Path("a.onnx")])


def test_torch_is_run_once_in_every_form_that_was_typed() -> None:
    options = RuntimeOptions("cuda", trust=True, torch_mode="eager, compiled:bf16,eager:fp32")
    assert options.per_mode(Path("a.pt")) == [
        RuntimeOptions("cuda", trust=True, torch_mode=mode) for mode in ("eager", "compiled:bf16")
    ]
    assert options.for_source(Path("a.pt")).torch_mode == "eager"
    assert options.per_mode(Path("a.onnx")) == [RuntimeOptions("cuda", trust=True)]
    assert options.per_mode(Path("a.engine")) == [RuntimeOptions("cuda", trust=True)]
    assert CPU.per_mode(Path("a.pt")) == [CPU]


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("egaer", "did you mean 'eager'"),
        ("compiled:int8", "not 'compiled:int8'; accepted: channels-last, eager, compiled; fp32, fp16, bf16"),
        ("eager,", r"not ''; accepted"),
        ("fp16", "accepted: channels-last, eager, compiled"),
    ],
)
def test_forms_that_torch_has_not_are_refused(mode: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RuntimeOptions(torch_mode=mode)


def test_what_is_said_of_files_goes_to_them_and_to_no_run() -> None:
    options = RuntimeOptions(said=Said(scores="probs"))
    assert options.for_source(Path("a.onnx")).said.scores == "probs"
    assert options.for_source(Path("a.safetensors")).said == NOTHING
    assert RuntimeOptions.from_dict(options.to_dict()) == options  # as it travels to a worker
    with pytest.raises(UsageError, match="--scores is for exported files, and none is run here"):
        options.refuse_unused([Path("a.safetensors")])
