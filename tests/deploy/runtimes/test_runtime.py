"""Opening and running networks: contracts read from files, preprocessing, refusals."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from kdc.deploy.artefacts.beside import owner
from kdc.deploy.runtimes.open import open_runtime
from kdc.deploy.runtimes.ort_runtime import OrtRuntime, read_info
from kdc.distill import models
from kdc.distill.errors import ExportError, UsageError, WeightsError
from kdc.distill.evaluation.evaluate import model_predictor
from kdc.distill.preprocess import BGR_MEAN, IMAGENET
from kdc.distill.run.checkpoint import save_student

from ..._made import Port, onnx_file

K, H, W = 5, 16, 24
WEIGHTS = np.random.default_rng(0).standard_normal((K, 3, 3, 3)).astype(np.float32)


def network(path: Path, *, shape=(1, 3, H, W), metadata: dict | None = None, argmax: bool = False) -> Path:
    """Write one convolution (and an argmax) as ONNX."""
    nodes = [helper.make_node("Conv", ["image", "w"], ["z"], pads=[1, 1, 1, 1])]
    made: dict[str, Port] = {"z": [shape[0], K, *shape[2:]]}
    if argmax:
        nodes.append(helper.make_node("ArgMax", ["z"], ["long"], axis=1, keepdims=0))
        nodes.append(helper.make_node("Cast", ["long"], ["mask"], to=TensorProto.UINT8))
        made = {"mask": ([shape[0], *shape[2:]], TensorProto.UINT8)}
    return onnx_file(path, nodes, {"image": shape}, made, {"w": WEIGHTS}, facts=metadata)


KDC = {
    "kdc.preprocess": BGR_MEAN.to_dict(),
    "kdc.classes": ["a", "b", "c", "d", "e"],
    "kdc.palette": [[0, 0, k] for k in range(K)],
}


def images(n: int = 1, h: int = H, w: int = W) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, h, w, 3), np.uint8)


def test_metadata_become_the_spec(tmp_path):
    with open_runtime(network(tmp_path / "a.onnx", metadata=KDC)) as runtime:
        spec = runtime.spec
        assert (spec.shape, spec.dtype, spec.layout, spec.head) == ((1, 3, H, W), "float32", "NCHW", "logits")
        assert spec.preprocess == BGR_MEAN
        assert spec.classes == ("a", "b", "c", "d", "e")
        assert spec.palette[4] == (0, 0, 4)
        assert (runtime.name, runtime.provider, runtime.precision) == ("onnxruntime", "CPUExecutionProvider", "fp32")


def test_logits_equal_torch_and_masks_their_argmax(tmp_path):
    x = images()
    prepared = BGR_MEAN.apply(x)
    want = torch.nn.functional.conv2d(torch.from_numpy(prepared), torch.from_numpy(WEIGHTS), padding=1).numpy()
    with open_runtime(network(tmp_path / "a.onnx", metadata=KDC)) as runtime:
        np.testing.assert_allclose(runtime.infer(runtime.prepare(x)), want, atol=1e-3)
        np.testing.assert_array_equal(runtime.masks(x), want.argmax(1))
        np.testing.assert_array_equal(runtime.masks(x[:1])[0], want.argmax(1)[0])
    with open_runtime(network(tmp_path / "b.onnx", metadata=KDC, argmax=True)) as runtime:
        assert runtime.spec.head == "argmax"
        masks = runtime.masks(x)
        assert masks.dtype == np.uint8
        np.testing.assert_array_equal(masks, want.argmax(1))


def test_smaller_image_is_padded_with_the_mean_and_cropped(tmp_path):
    small = images(h=H - 3, w=W - 5)
    with open_runtime(network(tmp_path / "a.onnx", metadata=KDC)) as runtime:
        x = runtime.prepare(small)
        assert x.shape == (1, 3, H, W)
        assert np.abs(x[:, :, H - 3 :]).max() <= 0.5  # the mean, rounded to a whole grey level
        np.testing.assert_allclose(x[:, :, : H - 3, : W - 5], BGR_MEAN.apply(small))
        assert runtime.masks(small).shape == (1, H - 3, W - 5)
        with pytest.raises(UsageError, match=f"takes up to {H}x{W}; see Runtime.fit"):
            runtime.masks(images(h=H + 1))


def test_foreign_file_is_opened_and_the_guess_is_said(tmp_path, capsys):
    runtime = open_runtime(network(tmp_path / "foreign.onnx"))
    assert runtime.spec.preprocess == IMAGENET
    assert len(runtime.spec.classes) == K
    said = " ".join(capsys.readouterr().out.split())
    assert "foreign.onnx was not exported by kdc: assuming RGB, ImageNet" in said


def test_free_size_and_batch(tmp_path):
    path = network(tmp_path / "free.onnx", shape=("n", 3, "h", "w"), metadata=KDC)
    with pytest.raises(UsageError, match="name the one to use: --size HxW"):
        open_runtime(path)
    with open_runtime(path, size=(8, 12)) as runtime:
        assert runtime.spec.shape == (None, 3, 8, 12)
        assert runtime.masks(images(3, 8, 12)).shape == (3, 8, 12)
    with pytest.raises(UsageError, match=f"made for {H}x{W}, not 8x12"):
        open_runtime(network(tmp_path / "fixed.onnx", metadata=KDC), size=(8, 12))


def test_infer_refuses_what_does_not_fit(tmp_path):
    with open_runtime(network(tmp_path / "a.onnx", metadata=KDC)) as runtime:
        for wrong in (np.zeros((2, 3, H, W), np.float32), np.zeros((1, 3, H, W)), np.zeros((3, H, W), np.float32)):
            with pytest.raises(UsageError, match=f"takes float32 NCHW 1x3x{H}x{W}, not"):
                runtime.infer(wrong)


@pytest.mark.parametrize("content", [b"", b"not a network", "half"])
def test_broken_file_is_one_line(tmp_path, content):
    path = network(tmp_path / "a.onnx", metadata=KDC)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(WeightsError) as caught:
        open_runtime(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_operator_that_does_not_exist(tmp_path):
    with pytest.raises(WeightsError, match="No such file"):
        open_runtime(tmp_path / "none.onnx")
    path = network(tmp_path / "a.onnx")
    model = onnx.load(str(path))
    model.graph.node[0].op_type = "Convolute"
    onnx.save(model, str(path))
    with pytest.raises(WeightsError, match="uses Convolute, which ONNX does not have: refused") as caught:
        open_runtime(path)
    assert "\n" not in str(caught.value)


def test_external_data_outside_the_folder_are_refused(tmp_path):
    (tmp_path / "secret.bin").write_bytes(WEIGHTS.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    path = network(folder / "a.onnx", metadata=KDC)

    def point_to(location: str) -> None:
        model = onnx.load(str(path), load_external_data=False)
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value=location)
        path.write_bytes(model.SerializeToString())

    for outside in ("../secret.bin", str(tmp_path / "secret.bin"), ""):
        point_to(outside)
        with pytest.raises(WeightsError, match="outside its folder: refused"):
            open_runtime(path)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    point_to("link.bin")
    with pytest.raises(WeightsError, match="outside its folder: refused"):
        open_runtime(path)
    point_to("weights.bin")
    with pytest.raises(WeightsError, match=r"needs the file 'weights.bin' beside it"):
        open_runtime(path)
    (folder / "weights.bin").write_bytes(WEIGHTS.tobytes())
    with open_runtime(path) as runtime:
        assert runtime.masks(images()).shape == (1, H, W)


def test_a_missing_provider_is_refused(tmp_path):
    import onnxruntime

    path = network(tmp_path / "a.onnx", metadata=KDC)
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(ExportError, match=r"has no CUDAExecutionProvider: .*pip install 'kdc\[gpu\]'"):
            open_runtime(path, device="cuda")
    for provider, device, other in (("CUDA", "cuda", "cpu"), ("CPU", "cpu", "cuda")):
        with pytest.raises(UsageError, match=f"goes with --device {device}, not {other}"):
            open_runtime(path, provider=f"{provider}ExecutionProvider", device=other)
    with pytest.raises(ExportError, match="did you mean 'CPUExecutionProvider'"):
        open_runtime(path, provider="CpuExecutionProvider")
    with pytest.raises(UsageError, match="accepted: cpu, cuda"):
        open_runtime(path, device="tpu")


def test_silent_fall_back_to_the_cpu_is_refused(tmp_path, monkeypatch):
    """onnxruntime-gpu on a machine without a GPU lists CUDA and then quietly gives a CPU session."""
    import onnxruntime

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, providers: real(path, options, providers=providers[-1:])
    )
    with pytest.raises(ExportError, match=r"CUDAExecutionProvider was asked for, .* fell back to CPUExecutionProvider"):
        open_runtime(network(tmp_path / "a.onnx", metadata=KDC), device="cuda")


def test_every_onnxruntime_that_pip_may_choose_tells_which_provider_took_a_node():
    """``InferenceSession.get_provider_graph_assignment_info`` came with 1.24.1 (pull request 26781)."""
    project = Path(__file__).resolve().parents[3] / "pyproject.toml"
    floors = re.findall(r'"onnxruntime(?:-gpu\[.*?\])?>=([\d.]+)', project.read_text())
    assert len(floors) == 2
    assert all(tuple(map(int, floor.split("."))) >= (1, 24, 1) for floor in floors)


def test_a_provider_that_takes_no_node_is_refused(tmp_path):
    """Azure's provider is in every wheel and runs no ordinary operator: all nodes fall to the CPU."""
    import onnxruntime

    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no such provider")
    with pytest.raises(ExportError, match="AzureExecutionProvider was asked for, but takes no node"):
        open_runtime(network(tmp_path / "a.onnx", metadata=KDC), provider="AzureExecutionProvider")


def test_precision_is_read_from_the_graph(tmp_path):
    path = network(tmp_path / "a.onnx", metadata=KDC)
    assert read_info(path).precision == "fp32"
    model = onnx.load(str(path))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(WEIGHTS.astype(np.float16), "w"))
    onnx.save(model, str(path))
    assert read_info(path).precision == "fp16"


def test_not_an_image_network(tmp_path):
    with pytest.raises(
        WeightsError, match="takes float32 1x7x16x24; accepted: a batch of RGB images, Nx3xHxW or NxHxWx3"
    ):
        OrtRuntime(network(tmp_path / "a.onnx", shape=(1, 7, H, W)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    model = models.build("deeplabv3-mv2", K, seed=0, preprocess=BGR_MEAN)
    path = tmp_path_factory.mktemp("run") / "checkpoints" / "best.safetensors"
    card = {"data": {"size": [30, 60], "classes": list("abcde"), "palette": []}}
    save_student(path, model, card)
    (path.parents[1] / "run.json").write_text(json.dumps(card))
    return path


def test_checkpoint_runs_in_torch_as_validation_does(checkpoint):
    x = images(1, 32, 64)
    with open_runtime(checkpoint) as runtime:
        assert runtime.spec.size == (32, 64)  # the images' 30x60, rounded up to the stride
        assert (runtime.name, runtime.provider, runtime.spec.preprocess) == (
            "torch",
            "torch cpu channels-last",
            BGR_MEAN,
        )
        assert runtime.spec.classes == tuple("abcde")
        logits = runtime.infer(runtime.prepare(x))
        assert logits.shape == (1, K, 32, 64)
        assert logits.flags.c_contiguous
        model = models.build("deeplabv3-mv2", K, seed=0, preprocess=BGR_MEAN)
        want = model_predictor(model)(x[0])
        assert (runtime.masks(x)[0] == want).mean() > 0.999  # ties of a random network may fall either way
    with open_runtime(checkpoint, head="argmax", size=(32, 64)) as runtime:
        assert runtime.infer(runtime.prepare(x)).dtype == np.uint8
        assert (runtime.masks(x)[0] == want).mean() > 0.999
    owned = owner(checkpoint)
    assert owned is not None
    assert owned.path == checkpoint.parents[1].resolve()


def test_timing_hook_returns_milliseconds(checkpoint, tmp_path):
    for runtime in (open_runtime(checkpoint, size=(32, 64)), open_runtime(network(tmp_path / "a.onnx", metadata=KDC))):
        step = runtime.staged(runtime.prepare(images(1, *runtime.spec.size)))
        assert 0 < step() < 60_000


def test_what_cannot_be_opened(checkpoint, tmp_path):
    for native in ("model.engine", "model.pt2", "model.xml"):
        with pytest.raises(WeightsError, match=r"does not exist|cannot be read"):
            open_runtime(native)
    with pytest.raises(UsageError, match="accepted: logits, argmax"):
        open_runtime(checkpoint, head="softmax")
    with pytest.raises(UsageError, match="is for ONNX files"):
        open_runtime(checkpoint, provider="CPUExecutionProvider")
    with pytest.raises(UsageError, match="no run"):
        open_runtime(tmp_path / "nothing")
    with pytest.raises(WeightsError, match="does not exist"):
        open_runtime(tmp_path / "none.safetensors")


@pytest.mark.gpu
def test_checkpoint_on_a_gpu(checkpoint):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x = images(1, 32, 64)
    with open_runtime(checkpoint) as cpu, open_runtime(checkpoint, device="cuda") as gpu:
        assert gpu.provider == "torch cuda channels-last"
        assert (cpu.masks(x) == gpu.masks(x)).mean() > 0.99
        assert gpu.staged(gpu.prepare(x))() > 0
        assert gpu.tf32 in (True, False)


@pytest.mark.gpu
def test_onnx_file_on_a_gpu(tmp_path):
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA provider")
    path, x = network(tmp_path / "a.onnx", metadata=KDC), images()
    with open_runtime(path) as cpu, open_runtime(path, device="cuda") as gpu:
        assert (gpu.provider, gpu.device) == ("CUDAExecutionProvider", "cuda")
        assert (cpu.masks(x) == gpu.masks(x)).mean() > 0.99
        steps = [gpu.staged(gpu.prepare(images())) for _ in range(2)]
        assert all(step() > 0 for step in steps * 2)


def test_a_network_that_fails_when_it_runs_is_a_broken_file(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Gather", ["image", "far"], ["picked"], axis=1),
        onnx.helper.make_node("Conv", ["picked", "weight"], ["logits"]),
    ]
    stored = {"far": np.array([0, 1, 99]), "weight": np.ones((4, 3, 1, 1), np.float32)}
    path = onnx_file(tmp_path / "far.onnx", nodes, {"image": [1, 3, 8, 8]}, {"logits": [1, 4, 8, 8]}, stored)
    with open_runtime(path) as runtime, pytest.raises(WeightsError, match=r"far\.onnx cannot be run: .*"):
        runtime.infer(np.zeros((1, 3, 8, 8), np.float32))
