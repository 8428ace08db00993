"""What CONTRIBUTING.md says about adding a method, done: one file and its golden value."""

import re
from pathlib import Path

import pytest
import torch

from kdc.distill import job, methods
from kdc.distill.batch import Batch
from kdc.distill.methods import Sizes, compose
from kdc.distill.output import Output, Tap
from kdc.distill.settings.config import resolve

ROOT = Path(__file__).parents[3]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    (code,) = (block for block in blocks if "(Method)" in block)
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])


@pytest.mark.usefixtures("mine")
def test_one_file_is_a_method(tmp_path: Path) -> None:
    assert "mine" in methods.names()
    facts = methods.info("mine")
    assert facts.terms == {"mse": 1.0} and facts.options == {"scale": 1.0} and facts.taps == ["logits"]
    tap = {"logits": Tap(2, 8)}
    composite = compose("mine", Sizes(2, tap, tap, iters=1, seed=0), {"mine": {"scale": "3e-0"}})
    student = torch.tensor([[[[1.0, 2.0]], [[0.0, -1.0]]]], requires_grad=True)
    labels = torch.zeros(1, 8, 16, dtype=torch.long)
    values = composite.losses(Output(student), Output(torch.zeros(1, 2, 1, 2)), Batch(torch.zeros(1, 3, 8, 16), labels))
    golden, gradient = 4.5, torch.tensor([[[[1.5, 3.0]], [[0.0, -1.5]]]])
    assert values["mine.mse"].item() == pytest.approx(golden, rel=1e-6)
    torch.testing.assert_close(torch.autograd.grad(values["mine.mse"], student)[0], gradient)

    small = {"data.size": (32, 64), "data.count": 4, "data.val_count": 2, "train.crop": (32, 64), "train.batch": 2}
    small |= {"train.iters": 1, "train.threads": 1, "model.student": "pspnet-mv2_035", "model.teacher_check": False}
    teacher = job.run_job(resolve(small), root=tmp_path)
    run = job.run_job(resolve({**small, "method.name": "mine", "model.teacher": str(teacher.path)}), root=tmp_path)
    assert run.records()[0]["terms"]["mine.mse"] > 0
