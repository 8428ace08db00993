"""Where networks run: each kind of file heeds what is for it, and nothing that was typed is idle."""

from pathlib import Path

import pytest

from kdc.deploy.runtimes import options as module
from kdc.deploy.runtimes.options import CPU, Where, is_engine, is_onnx, is_torch
from kdc.distill.errors import UsageError


def test_kinds_of_sources_are_told_by_their_suffix() -> None:
    assert is_engine(Path("a.PLAN")) and not is_engine(Path("a.onnx"))
    assert is_onnx(Path("a.ONNX")) and not is_onnx(Path("a.engine"))
    assert is_torch(Path("a.safetensors")) and is_torch(Path("runs/kt_0.5")) and not is_torch(Path("a.PT2"))


def test_each_network_heeds_what_is_for_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(module, "open_runtime", lambda source, **flags: asked.append((str(source), flags)))
    where = Where("cpu", "openvino", True, "torch", True)
    for name in ("a.onnx", "a.engine", "a.pt2"):
        where.open(name, (4, 6))
    common = {"size": (4, 6), "trust": True}
    idle = {"buffers": "auto", "cuda_graph": False, "form": "channels-last"}
    assert asked == [
        ("a.onnx", common | idle | {"device": "cpu", "provider": "openvino"}),
        (
            "a.engine",
            common
            | {"device": "cuda", "provider": None, "buffers": "torch", "cuda_graph": True, "form": "channels-last"},
        ),
        ("a.pt2", common | idle | {"device": "cpu", "provider": None}),
    ]


def test_what_no_file_heeds_is_refused() -> None:
    where = Where("cpu", "openvino", True, "torch", True)
    with pytest.raises(UsageError, match="--provider openvino is for ONNX files"):
        where.refuse_idle([Path("a.engine")])
    with pytest.raises(UsageError, match="--buffers torch is for TensorRT engines"):
        where.refuse_idle([Path("a.onnx")])
    where.refuse_idle([Path("a.onnx"), Path("a.engine")])
    with pytest.raises(UsageError, match="--provider CUDAExecutionProvider goes with --device cuda, not cpu"):
        Where(provider="CUDAExecutionProvider")
    with pytest.raises(UsageError, match="did you mean 'pycuda'"):
        Where(buffers="pycdua")
    with pytest.raises(UsageError, match="--torch eager is for runs and checkpoints, and none is run here"):
        Where(form="eager").refuse_idle([Path("a.onnx")])


def test_torch_is_run_once_in_every_form_that_was_typed() -> None:
    where = Where("cuda", trust=True, form="eager, compiled:bf16,eager:fp32")
    assert where.each(Path("a.pt")) == [Where("cuda", trust=True, form=form) for form in ("eager", "compiled:bf16")]
    assert where.of(Path("a.pt")).form == "eager"
    assert where.each(Path("a.onnx")) == [Where("cuda", trust=True)]
    assert where.each(Path("a.engine")) == [Where("cuda", trust=True)]
    assert CPU.each(Path("a.pt")) == [CPU]


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("egaer", "did you mean 'eager'"),
        ("compiled:int8", "not 'compiled:int8'; accepted: channels-last, eager, compiled; fp32, fp16, bf16"),
        ("eager,", r"not ''; accepted"),
        ("fp16", "accepted: channels-last, eager, compiled"),
    ],
)
def test_forms_that_torch_has_not_are_refused(form: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Where(form=form)
