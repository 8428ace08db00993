"""Every graph that kdc writes goes through NVIDIA's own parser and builder: TensorRT-RTX, which needs no GPU.

A cut on small networks, in which every architecture meets every precision and every head, input and batch: one of it
always, every architecture once with ``-m process``, the rest with ``-m slow``, as are all of
{deeplabv3, pspnet, deeplabv3plus} x {r18, r101, mv2} x precision x head x input x batch.
"""

import importlib.util
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdc.calib.calibration import Calibration
from kdc.calib.low_precision import Form, LowPrecisionWriter
from kdc.distill.models import build
from kdc.distill.run.files import sha256
from kdc.export import to_trt
from kdc.export.to_onnx import export_onnx
from kdc.export.to_trt import BuildFlags

from .conftest import CLASSES, PALETTE, SIZE

pytestmark = [
    pytest.mark.trt,
    pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"),
]
ARCHITECTURES = ("deeplabv3", "pspnet", "deeplabv3plus")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8+fp16", "fp8", "fp8+fp16")
FORMS = tuple(itertools.product(("logits", "argmax"), ("float", "uint8"), (False, True)))
#: the form that an architecture and a precision meet in: each of the eight, and each for every architecture in turn
CUT = [
    (arch, precision, *FORMS[(3 * i + j) % len(FORMS)])
    for i, arch in enumerate(ARCHITECTURES)
    for j, precision in enumerate(PRECISIONS)
]
#: what is built always: two types of weights and Q/DQ in one
ALWAYS = ("pspnet", "int8+fp16")
#: every architecture once, with other types than those
OFTEN = set(zip(ARCHITECTURES, ("fp16", "bf16", "fp8+fp16"), strict=True))
Names = pytest.mark.parametrize


def typed(full: Path, precision: str, folder: Path) -> Path:
    """Make the file of a precision from the float32 one, with ranges of two images of noise."""
    if precision == "fp32":
        return full
    to, _, high = precision.partition("+")
    images = [np.random.default_rng(i).integers(0, 256, (*SIZE, 3), np.uint8) for i in range(2)]
    rest = (high or "fp32") if to in ("int8", "fp8") else None
    form = Form.of(to, "trt", rest)
    out = form.path(folder / "model.onnx")
    LowPrecisionWriter(form, Calibration(full, images)).write(out)
    return out


def check(source: Path, precision: str, head: str, input: str, dynamic: bool, folder: Path) -> int:
    """Build an engine, compare its manifest with what it was made from, and return its size in bytes."""
    engine = folder / "model.engine"
    batches: dict[str, Any] = {"batches": (1, 2, 4)} if dynamic else {}
    manifest = to_trt.build_engine(source, engine, BuildFlags(flavour_name="tensorrt_rtx", **batches)).to_dict()
    stored = json.loads((folder / "model.engine.json").read_text())
    assert stored.pop("signature") and manifest == stored
    assert manifest["sha256"] == sha256(engine) and manifest["onnx"]["sha256"] == sha256(source)
    assert manifest["precision"] == precision and manifest["flavour"] == "tensorrt_rtx" and manifest["version"]
    assert manifest["target"] == to_trt.PORTABLE and manifest["tf32"] is True and manifest["stripped"] is False
    batch = None if dynamic else 1
    shape, dtype = ([batch, *SIZE, 3], "uint8") if input == "uint8" else ([batch, 3, *SIZE], "float32")
    assert manifest["inputs"] == [{"name": "image", "dtype": dtype, "shape": shape}]
    made = [batch, len(CLASSES), *SIZE] if head == "logits" else [batch, *SIZE]
    assert manifest["outputs"][0]["shape"] == made
    assert manifest["outputs"][0]["dtype"] == ("float32" if head == "logits" else "uint8")
    assert (manifest["profile"] is not None) == dynamic
    assert manifest["classes"] == list(CLASSES) and manifest["preprocess"]["order"] in ("rgb", "bgr")
    left = {"model.engine", "model.engine.json", source.name if source.parent == folder else "model.engine"}
    assert {path.name for path in folder.iterdir()} == left
    return engine.stat().st_size


def tier(form: tuple[str, str]) -> tuple[pytest.MarkDecorator, ...]:
    """The marker of a form of the cut."""
    return () if form == ALWAYS else (pytest.mark.process,) if form in OFTEN else (pytest.mark.slow,)


@Names(
    ("arch", "precision", "head", "input", "dynamic"),
    [pytest.param(*case, marks=tier(case[:2])) for case in CUT],
)
def test_the_cut(
    arch: str, precision: str, head: str, input: str, dynamic: bool, exported: Callable[..., Path], tmp_path: Path
) -> None:
    full = exported(arch, head, input, dynamic)
    check(typed(full, precision, tmp_path), precision, head, input, dynamic, tmp_path)


def test_the_cut_is_one() -> None:
    assert {form[2:] for form in CUT} == set(FORMS) and len({form[:2] for form in CUT}) == len(CUT)
    assert {form[:2] for form in CUT} >= {ALWAYS, *OFTEN} and {arch for arch, _ in OFTEN} == set(ARCHITECTURES)


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the float32 file of a whole network; each is written once."""
    folder = tmp_path_factory.mktemp("matrix")

    def get(arch: str, backbone: str, head: str, input: str, dynamic: bool) -> Path:
        path = folder / f"{arch}-{backbone}.{head}.{input}.{dynamic}.onnx"
        if not path.exists():
            for old in folder.iterdir():  # a ResNet-101 takes 250 MB
                old.unlink()
            model = build(f"{arch}-{backbone}", len(CLASSES), seed=1).eval()
            settings: dict[str, Any] = {"size": SIZE, "head": head, "input": input, "dynamic_batch": dynamic}
            export_onnx(model, path, classes=CLASSES, palette=PALETTE, **settings)
        return path

    return get


@pytest.mark.slow
@Names("precision", PRECISIONS)
@Names(("head", "input", "dynamic"), FORMS)
@Names("backbone", ["r18", "r101", "mv2"])
@Names("arch", ARCHITECTURES)
def test_the_whole_matrix(
    arch: str,
    backbone: str,
    head: str,
    input: str,
    dynamic: bool,
    precision: str,
    full_size: Callable[..., Path],
    tmp_path: Path,
) -> None:
    full = full_size(arch, backbone, head, input, dynamic)
    source = typed(full, precision, tmp_path)
    size = check(source, precision, head, input, dynamic, tmp_path)
    # beside weights an engine holds kernels, a few MB of them; not half of float32 either: what a random ResNet-101
    # computes leaves the range of FP16 in part, and stays high
    allowed = 1.25 * source.stat().st_size + 4e6
    assert backbone == "mv2" or size < allowed, "an engine must hold its weights as narrow as the file does"
