"""A whole network compiled by AOTInductor from a run: gated on its own runtime, described, gone when it is wrong."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from kdc.deploy.artefacts.beside import manifest_path
from kdc.deploy.artefacts.ledger import read_gates
from kdc.deploy.parity.golden import check_golden
from kdc.deploy.runtimes.open import open_runtime
from kdc.distill.errors import ExportError, NumbersError, UsageError
from kdc.distill.models import SegmentationModel
from kdc.distill.run.files import sha256
from kdc.distill.run.folder import Run
from kdc.export import to_aoti
from kdc.export.settings import ExportSettings


@pytest.mark.process
def test_a_run_becomes_a_gated_package(gated_run: Run) -> None:
    manifest = to_aoti.export_aoti(gated_run, ExportSettings(images=2)).to_dict()
    path = gated_run.export / "model.pt2"
    assert json.loads(manifest_path(path).read_text())["gate"]["passed"]
    assert manifest["sha256"] == sha256(path) == Run(gated_run.path).card.files["export/model.pt2"]
    assert manifest["source"]["sha256"] == sha256(gated_run.checkpoints / "best.safetensors")
    assert manifest["ran"] == {"provider": "AOTInductor cpu", "precision": "fp32"}
    row = read_gates(gated_run)[-1]
    assert row.stage == "aoti model" and row.values["max_relative"] < 1e-4
    assert check_golden(path).passed
    with open_runtime(path) as compiled, open_runtime(gated_run.export / "model.onnx") as trusted:
        image = np.random.default_rng(0).integers(0, 256, (1, 36, 60, 3), np.uint8)
        x = trusted.prepare(image)
        assert np.abs(compiled.infer(x) - trusted.infer(x)).max() < 1e-4


@pytest.mark.slow
def test_a_package_in_half_passes_the_gate_of_its_type(gated_run: Run) -> None:
    manifest = to_aoti.export_aoti(gated_run, ExportSettings(images=2, agreement=0.9), precision="bf16").to_dict()
    assert (manifest["file"], manifest["precision"], manifest["ran"]["precision"]) == ("model.bf16.pt2", "bf16", "bf16")
    entry = read_gates(gated_run)[-1].values
    assert entry["stage"] == "aoti model.bf16" and entry["max_relative"] > 1e-4


@pytest.mark.slow
def test_a_wrong_package_is_not_kept(gated_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_package = to_aoti.compile_package

    def wrong(model: SegmentationModel, *args: Any, **settings: Any) -> Any:
        with torch.no_grad():
            next(model.head.parameters()).mul_(1.5)
        return compile_package(model, *args, **settings)

    monkeypatch.setattr(to_aoti, "compile_package", wrong)
    with pytest.raises(NumbersError, match=r"model.pt2 did not pass its gate and was not kept"):
        to_aoti.export_aoti(gated_run, ExportSettings(images=1))
    assert not list(gated_run.export.glob("model.pt2*"))


def test_mistakes_are_refused_before_anything_is_compiled(gated_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", lambda *a, **k: pytest.fail("it was compiled"))
    (gated_run.export / "model.pt2").write_bytes(b"good")
    refused: list[tuple[dict[str, Any], str]] = [
        ({"device": "tpu"}, "accepted: cpu, cuda"),
        ({"settings": ExportSettings(head="softmax")}, "--head 'softmax': accepted are"),
        ({"settings": ExportSettings(size=(60, 100))}, "the next is 64x104"),
        ({"precision": "int8"}, "--precision 'int8': accepted are fp32, fp16, bf16"),
    ]
    for wrong, message in refused:
        with pytest.raises(UsageError, match=message):
            to_aoti.export_aoti(gated_run, **wrong)
    if not torch.cuda.is_available():
        with pytest.raises(ExportError, match="torch sees no GPU here"):
            to_aoti.export_aoti(gated_run, device="cuda")
    assert (gated_run.export / "model.pt2").read_bytes() == b"good", "a mistake costs no good file"


def test_names_tell_the_forms_apart() -> None:
    assert to_aoti.package_name("logits", "float", False, "cpu", "fp32") == "model.pt2"
    assert to_aoti.package_name("argmax", "uint8", True, "cuda", "bf16") == "model.argmax.uint8.batch.bf16.cuda.pt2"
