"""AOTInductor packages: what stands in them, what they compute, and which are not run."""

import copy
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdc.deploy.artefacts.signature import signed
from kdc.deploy.runtimes import aoti_runtime
from kdc.deploy.runtimes.aoti_runtime import Target, read_package
from kdc.deploy.runtimes.open import open_runtime
from kdc.deploy.runtimes.torch_runtime import need_compiler
from kdc.distill.errors import ExportError, UsageError, WeightsError
from kdc.distill.models import SegmentationModel
from kdc.distill.network_spec import NetworkSpec
from kdc.distill.output import Output
from kdc.distill.preprocess import BGR_MEAN
from kdc.distill.run.files import sha256, write_json
from kdc.export import to_aoti
from kdc.export.graph import DeployGraph

from ..._lacking import lacking

SIZE, CLASSES = (16, 24), ("a", "b", "c")


class Tiny(SegmentationModel):
    """One convolution: what matters here is the package, and a real network takes a minute to compile."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.name, self.num_classes, self.output_stride, self.preprocess = "tiny", len(CLASSES), 1, BGR_MEAN
        self.conv, self.aux_head, self.align_corners = nn.Conv2d(3, len(CLASSES), 3, padding=1), None, True

    def forward(self, images: Tensor, hint: Tensor | None = None) -> Output:
        return Output(self.conv(images / 100))

    def spec(self) -> NetworkSpec:
        return NetworkSpec(self.name)


@pytest.fixture(scope="module")
def model() -> Tiny:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return Tiny().eval()


def _describe(path: Path) -> None:
    values = {"file": path.name, "sha256": sha256(path), "kind": "aoti"}
    write_json(path.with_name(f"{path.name}.json"), signed(values))


@pytest.fixture(scope="module")
def compiled(model: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        need_compiler()
    except ExportError as error:
        lacking(str(error))
    path = tmp_path_factory.mktemp("aoti") / "model.pt2"
    palette = [[0, 0, k] for k in range(len(CLASSES))]
    form = {"head": "argmax", "input": "uint8", "dynamic_batch": True}
    to_aoti.compile_package(model, path, size=SIZE, classes=CLASSES, palette=palette, **form)
    _describe(path)
    return path


@pytest.fixture
def package(compiled: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    for suffix in ("", ".json"):
        shutil.copyfile(f"{compiled}{suffix}", tmp_path / f"model.pt2{suffix}")
    return tmp_path / "model.pt2"


@pytest.mark.process
def test_it_computes_the_network_for_any_batch(package: Path, model: Tiny) -> None:
    graph = DeployGraph(model, SIZE, "argmax", "uint8")
    with open_runtime(package, threads=1) as runtime:
        assert (runtime.name, runtime.provider, runtime.precision) == ("aoti", "AOTInductor cpu", "fp32")
        assert runtime.spec.shape == (None, *SIZE, 3) and runtime.spec.head == "argmax"
        assert runtime.spec.classes == CLASSES and runtime.spec.preprocess == BGR_MEAN
        for batch in (1, 3):
            x = np.random.default_rng(batch).integers(0, 256, (batch, *SIZE, 3), np.uint8)
            with torch.inference_mode():
                expected = graph(torch.from_numpy(x)).numpy()
            given = runtime.infer(x)
            assert given.dtype == np.uint8 and given.shape == expected.shape
            assert (given == expected).mean() > 0.999
            assert len(np.unique(expected)) > 1, "a constant mask tests nothing"
        assert 0 < runtime.staged(x)() < 60_000


@pytest.mark.process
def test_its_contract_is_read_without_running_it(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda path: pytest.fail("it was loaded"))
    info = read_package(package)
    assert (info.shape, info.dtype, info.layout, info.head) == ((None, *SIZE, 3), "uint8", "NHWC", "argmax")
    assert info.metadata["kdc.classes"] == list(CLASSES) and info.metadata["kdc.model"] == NetworkSpec("tiny").to_dict()


@pytest.mark.process
def test_the_thread_count_is_not_compiled_in(package: Path) -> None:
    with zipfile.ZipFile(package) as file:
        sources = [file.read(name).decode() for name in file.namelist() if name.endswith(".cpp")]
    assert sources and not any("num_threads(" in source for source in sources)


@pytest.mark.process
def test_native_code_without_its_manifest_is_not_run(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = package.with_name("model.pt2.json")
    whole = json.loads(manifest.read_text())
    with monkeypatch.context() as patch:
        patch.setattr(torch._inductor, "aoti_load_package", lambda path: pytest.fail("it was loaded"))
        for spoilt, why in (
            ({**whole, "sha256": "0"}, "its sha256 is another"),
            ({**whole, "kind": "onnx"}, "is of another kind"),
            ('"x"', "cannot be read"),
            ("[" * 200_000, "cannot be read"),
            ({key: whole[key] for key in ("file", "sha256", "kind")}, "is not signed"),
            ({**whole, "versions": {"torch": torch.__version__}}, "is not as it was signed"),
        ):
            manifest.write_text(str(spoilt) if why == "cannot be read" else json.dumps(spoilt))
            with pytest.raises(ExportError, match=f"holds native code and .*{why}.*--trust") as caught:
                open_runtime(package)
            assert caught.value.exit_code == 4
        manifest.unlink()
        with pytest.raises(ExportError, match=r"there is no model.pt2.json beside it"):
            open_runtime(package)
    with open_runtime(package, trust=True) as runtime:
        assert runtime.spec.batch is None
    said = capsys.readouterr().out
    assert "it runs since you trust it" in said and "does not say which torch compiled it" in said


@pytest.mark.process
def test_code_for_another_machine_is_refused_before_it_is_loaded(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda path: pytest.fail("it was loaded"))
    with pytest.raises(UsageError, match="compiled for cpu: open it with --device cpu"):
        open_runtime(package, device="cuda")
    with pytest.raises(UsageError, match=r"is for ONNX files, and .* is none"):
        open_runtime(package, provider="CPUExecutionProvider")
    with pytest.raises(UsageError, match="is made for 16x24"):
        open_runtime(package, size=(32, 32))
    manifest = package.with_name("model.pt2.json")
    whole = json.loads(manifest.read_text())
    write_json(manifest, signed(whole | {"versions": {"torch": "2.11.0"}}))
    with pytest.raises(ExportError, match=r"compiled with torch 2.11.0, this is torch .*kdc export aoti"):
        open_runtime(package)
    write_json(manifest, whole)
    monkeypatch.setattr(aoti_runtime.platform, "machine", lambda: "riscv64")
    with pytest.raises(ExportError, match=r"this is \w+ riscv64; compile it here"):
        open_runtime(package)


def test_code_for_a_better_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aoti_runtime, "cpu_features", lambda: ["avx2"])
    with pytest.raises(ExportError, match="uses avx512_vnni, avx512f, which this CPU lacks"):
        aoti_runtime._check_target(Path("m.pt2"), Target.from_dict({"AOTI_CPU_ISA": "AVX512 AVX512_VNNI"}), "cpu", None)


@pytest.mark.process
def test_a_package_in_half_gives_logits_in_float32(compiled: Path, model: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "model.bf16.pt2"
    to_aoti.compile_package(copy.deepcopy(model), path, size=SIZE, precision="bf16")
    _describe(path)
    pixels = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
    with open_runtime(path, threads=1) as runtime, torch.inference_mode():
        x = runtime.prepare(pixels)
        got, expected = runtime.infer(x), DeployGraph(model, SIZE)(torch.from_numpy(x)).numpy()
        assert (runtime.precision, got.dtype) == ("bf16", np.float32)
    assert 0 < np.abs(got - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.process
@pytest.mark.parametrize("content", ["half", b"", b"no archive"])
def test_broken_packages_are_one_line(package: Path, content: bytes | str) -> None:
    whole = package.read_bytes()
    package.write_bytes(whole[: len(whole) // 2] if content == "half" else bytes(content))  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="not an AOTInductor package or is cut off") as caught:
        open_runtime(package, trust=True)
    assert "\n" not in str(caught.value)


def test_a_package_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pt2"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("m/data/aotinductor/model/x.wrapper_metadata.json", '{"AOTI_DEVICE_KEY": "cpu"}')
    with pytest.raises(WeightsError, match="was not written by kdc"):
        open_runtime(path, trust=True)
    with pytest.raises(WeightsError, match="does not exist"):
        open_runtime(tmp_path / "none.pt2")


def test_no_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(
        ExportError, match=r"needs a C\+\+ compiler to compile a network, and there is none: apt-get install"
    ):
        need_compiler()


@pytest.mark.gpu
def test_on_a_gpu(model: Tiny, tmp_path: Path) -> None:
    path = to_aoti.compile_package(model, tmp_path / "model.cuda.pt2", size=SIZE, device="cuda", classes=CLASSES)
    _describe(path)
    x = np.random.default_rng(0).standard_normal((1, 3, *SIZE)).astype(np.float32)
    graph = DeployGraph(model.cpu(), SIZE)
    with open_runtime(path, device="cuda") as runtime, torch.inference_mode():
        assert runtime.provider == "AOTInductor cuda" and runtime.tf32 in (True, False)
        assert np.abs(runtime.infer(x) - graph(torch.from_numpy(x)).numpy()).max() < 1e-2
        assert runtime.staged(x)() > 0
