"""Exported files that several tests look at: each is written once."""

import shutil
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
import typer

from kdc import cli
from kdc.distill.data import open_data
from kdc.distill.models import SegmentationModel, build
from kdc.distill.preprocess import BGR_MEAN
from kdc.distill.run.checkpoint import save_student
from kdc.distill.run.folder import Run
from kdc.distill.settings.config import Config
from kdc.export.graph import DeployGraph
from kdc.export.settings import ExportSettings
from kdc.export.to_onnx import export_onnx, export_run

from ._fake_trt import FAKE

SIZE = (64, 128)
CLASSES = ("road", "sky", "tree", "car", "post")
PALETTE = ((128, 64, 128), (70, 130, 180), (0, 128, 0), (0, 0, 142), (153, 153, 153))


@pytest.fixture(scope="session")
def networks() -> dict[str, SegmentationModel]:
    """One network an architecture; batch norm made uneven, so that folding it wrongly shows."""
    torch.set_num_threads(1)
    made = {}
    for arch, preprocess in (("deeplabv3", None), ("pspnet", BGR_MEAN), ("deeplabv3plus", None)):
        model = build(f"{arch}-mv2_050", len(CLASSES), preprocess=preprocess, seed=1)
        generator = torch.Generator().manual_seed(0)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean = 0.1 * torch.randn(module.num_features, generator=generator)
                module.running_var = 0.5 + torch.rand(module.num_features, generator=generator)
        made[arch] = model.eval()
    return made


@pytest.fixture(scope="session")
def traced() -> dict[str, bytes]:
    """The ONNX graphs of what was exported, by weights and form."""
    return {}


@pytest.fixture(autouse=True)
def traced_once(traced: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the exporter trace a network in a form once: it takes seconds, and most tests are of what follows."""
    trace = torch.onnx.export

    def export(graph: torch.nn.Module, given: tuple[torch.Tensor], *more: Any, **form: Any) -> Any:
        if not isinstance(graph, DeployGraph):
            return trace(graph, given, *more, **form)
        tensors = [*graph.named_parameters(), *graph.named_buffers()]
        key = sha256(repr((graph, graph.size, graph.head, graph.input, graph.bgr, given[0].shape, form)).encode())
        for name, tensor in tensors:
            key.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
        if key.hexdigest() not in traced:
            program = trace(graph, given, *more, **form)
            assert program is not None
            traced[key.hexdigest()] = program.model_proto.SerializeToString()
        return SimpleNamespace(model_proto=onnx.load_from_string(traced[key.hexdigest()]))

    monkeypatch.setattr(torch.onnx, "export", export)


@pytest.fixture(scope="session")
def exported(networks: dict[str, SegmentationModel], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the float32 file of an architecture, head and input, and whether its batch is free."""
    folder = tmp_path_factory.mktemp("onnx")

    def get(arch: str, head: str, input: str, dynamic_batch: bool = False) -> Path:
        path = folder / f"{arch}.{head}.{input}.{dynamic_batch}.onnx"
        settings = {"size": SIZE, "head": head, "input": input, "dynamic_batch": dynamic_batch}
        if not path.exists():
            export_onnx(networks[arch], path, classes=CLASSES, palette=PALETTE, **settings)
        return path

    return get


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on generated scenes, with its gated ONNX file."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finished") / "run"
    data = open_data("builtin", "val", size=(36, 60), val_count=4)
    card: dict[str, Any] = {"source": "builtin", "options": {"size": (36, 60), "val_count": 4}, "size": [36, 60]}
    card |= {"classes": list(data.classes), "palette": [list(c) for c in data.palette], "num_classes": data.num_classes}
    made = Run.create("export", Config(), out=folder, data=card)
    model = build("deeplabv3-mv2_050", data.num_classes, seed=0)
    save_student(made.checkpoints / "best.safetensors", model, {"data": card})
    made.record(status="finished")
    made.unlock()
    export_run(made, ExportSettings(images=1))
    return folder


@pytest.fixture
def gated_run(finished: Path, tmp_path: Path) -> Run:
    """A copy of the finished run, which a test may change."""
    shutil.copytree(finished, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for ``tensorrt`` 10, where the real one is not at hand."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "tensorrt.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    return tmp_path


@pytest.fixture
def command() -> Callable[..., None]:
    """Runs a command line; its errors are raised."""

    def run(*words: object) -> None:
        typer.main.get_command(cli.app).main([str(word) for word in words], standalone_mode=False)

    return run
