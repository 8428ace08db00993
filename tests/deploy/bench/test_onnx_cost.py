"""The arithmetic of ONNX files: against torch's counter, and by hand where torch has no such operator."""

import importlib
import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdc.deploy.bench.costs import count
from kdc.deploy.bench.onnx_cost import onnx_macs, onnx_params
from kdc.distill import cost, models
from kdc.distill.errors import WeightsError
from kdc.export.to_onnx import export_onnx

from ..._made import onnx_file

SIZE = (64, 96)
node = helper.make_node


def both(model: nn.Module, path: Path, size: tuple[int, int] = SIZE, tolerance: float = 0, **how: Any) -> None:
    """Export a model and compare the file with torch's own counts.

    Exporters put fixed vectors beside some layers and merge biases: ``tolerance`` is for their share of the parameters.
    """
    image = torch.rand(1, 3, *size)
    trained(model)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        model.eval()(image)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits"], "verbose": False}
        torch.onnx.export(model, (image,), str(path), **names, **how)
    assert onnx_macs(path) == (flops.get_total_flops() // 2, size)
    # the weight of a batch norm goes into the convolution before it; of a layer that is not run nothing is exported
    model(image).sum().backward()
    norms = {id(m.weight) for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    params = sum(p.numel() for p in model.parameters() if p.grad is not None and id(p) not in norms)
    assert onnx_params(path) == pytest.approx(params, rel=tolerance)


def trained(model: nn.Module) -> None:
    """Move all vectors from where they start: exporters leave out biases of zero and keep equal vectors once."""
    for parameter in model.parameters():
        if parameter.ndim < 2:
            nn.init.uniform_(parameter, 0.5, 1.5)


@pytest.mark.parametrize(
    ("name", "input"), [("deeplabv3-mv2_035", "float"), pytest.param("pspnet-r18", "uint8", marks=pytest.mark.process)]
)
def test_exports_cost_what_their_networks_cost(name: str, input: str, tmp_path: Path) -> None:
    check_export(name, input, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", models.names())
def test_exports_of_every_architecture(name: str, tmp_path: Path) -> None:
    check_export(name, "float", tmp_path)


def check_export(name: str, input: str, folder: Path) -> None:
    model = models.build(name, 5, seed=0)
    trained(model)
    path = export_onnx(model, folder / "m.onnx", size=SIZE, input=input)
    folded = sum(
        m.weight.numel() for key, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) if "aux" not in key
    )
    assert onnx_macs(path)[0] == cost.macs(model, SIZE, aux=False)
    assert onnx_params(path) == cost.params(model)[1] - folded


class Block(nn.Module):
    """A transformer's block, with fused attention or with its products written out."""

    def __init__(self, width: int, heads: int, *, fused: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.heads, self.fused = heads, fused
        self.scale = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.norms[0](x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.einsum("bhqk,bhkd->bhqd", (q @ k.transpose(-1, -2) / (c // self.heads) ** 0.5).softmax(-1), v)
        x = x + self.scale * self.project(y.transpose(1, 2).reshape(b, n, c))
        return x + self.mlp(self.norms[1](x))


class Transformer(nn.Module):
    """Patches, positions, blocks, and a decoder of a transposed convolution."""

    def __init__(self, size: tuple[int, int] = SIZE, *, fused: bool = True, blocks: int = 2) -> None:
        super().__init__()
        rows, columns = size[0] // 8, size[1] // 8
        self.patch = nn.Conv2d(3, 24, 8, 8)
        self.position = nn.Parameter(torch.rand(1, rows * columns, 24))
        self.blocks = nn.Sequential(*(Block(24, 2, fused=fused) for _ in range(blocks)))
        self.up, self.classifier = nn.ConvTranspose2d(24, 16, 8, 8), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patch(x)
        tokens = self.blocks(y.flatten(2).transpose(1, 2) + self.position)
        return self.classifier(self.up(tokens.transpose(1, 2).reshape(y.shape)).relu())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("how", [{"opset_version": 23}, {"dynamo": False, "opset_version": 17}])
def test_a_transformer_costs_what_torch_counts(fused: bool, how: dict[str, Any], tmp_path: Path) -> None:
    both(Transformer(fused=fused), tmp_path / "m.onnx", **how)


def test_weights_in_another_file_count_too(tmp_path: Path) -> None:
    both(Transformer(), tmp_path / "m.onnx", external_data=True, optimize=False)
    assert (tmp_path / "m.onnx.data").is_file()


def needs(module: str) -> Any:
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


@needs("segmentation_models_pytorch")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["Unet", "FPN", "PSPNet", "Linknet", "DeepLabV3Plus", "MAnet", "UPerNet", "Segformer"])
def test_exports_of_segmentation_models(name: str, tmp_path: Path) -> None:
    smp = importlib.import_module("segmentation_models_pytorch")
    both(getattr(smp, name)("resnet18", encoder_weights=None, classes=5), tmp_path / "m.onnx", (64, 96), 1e-3)


@needs("transformers")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["Segformer", "DPT"])
def test_exports_of_transformers(name: str, tmp_path: Path) -> None:
    lib = importlib.import_module("transformers")
    small = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    settings: dict[str, Any] = {
        "Segformer": {},
        "DPT": small
        | {"image_size": 96, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8] * 4}
        | {"use_auxiliary_head": False},
    }[name]
    inner = getattr(lib, f"{name}ForSemanticSegmentation")(getattr(lib, f"{name}Config")(num_labels=5, **settings))

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(pixel_values=x).logits

    both(Logits(), tmp_path / "m.onnx", (96, 96), 1e-3)


Weights = dict[str, np.ndarray] | Sequence[TensorProto]


def made(path: Path, nodes: Sequence[NodeProto], stored: Weights, out: Sequence[Any], **how: Any) -> Path:
    """Write nodes that turn ``x``, 4 x 6 pixels, into ``y``."""
    return onnx_file(path, nodes, {"x": [1, 3, 4, 6]}, {"y": out}, stored, **how)


def ones(*shape: int, kind: Any = np.float32) -> np.ndarray:
    return np.ones(shape, kind)


def test_grouped_strided_and_quantised_convolutions(tmp_path: Path) -> None:
    weights = {"w": ones(6, 1, 3, 3, kind=np.int8), "s": ones(6)}  # depthwise, two outputs each
    nodes = [
        node("DequantizeLinear", ["w", "s"], ["wf"], axis=0),
        node("Conv", ["x", "wf"], ["y"], group=3, strides=[2, 2], dilations=[2, 2], pads=[2, 2, 2, 2]),
    ]
    path = made(tmp_path / "q.onnx", nodes, weights, [1, 6, 2, 3])
    assert (onnx_params(path), onnx_macs(path)[0]) == (54, 54 * 6)


def branch(name: str, weights: str) -> Any:
    out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [1, 5, None, None])
    return helper.make_graph([node("Conv", ["x", weights], [f"{name}_y"])], name, [], [out])


BY_HAND: dict[str, tuple[list[NodeProto], dict[str, np.ndarray], int, int]] = {
    "einsum": ([node("Einsum", ["x", "w"], ["y"], equation="bchw,ck->bkhw")], {"w": ones(3, 5)}, 15, 24 * 15),
    "dots": ([node("Einsum", ["x", "w"], ["y"], equation="b...w,wk->b...k")], {"w": ones(6, 6)}, 36, 12 * 36),
    "transposed": (
        [node("ConvTranspose", ["x", "w", "b"], ["y"], strides=[2, 2])],
        {"w": ones(3, 5, 2, 2), "b": ones(5)},
        65,
        24 * 60,
    ),
    "from the left": ([node("MatMul", ["w", "x"], ["y"])], {"w": 2 * ones(7, 4)}, 28, 3 * 28 * 6),
    "gemm": (
        [node("Reshape", ["x", "to"], ["r"]), node("Gemm", ["r", "w", "b"], ["y"], transA=1, transB=1)],
        {"w": ones(5, 3), "b": ones(5), "to": np.array([3, 24])},
        20,
        24 * 15,
    ),
    # an average written as a product is a pooling; single numbers and limits are no parameters
    "pooling": (
        [
            node("MatMul", ["x", "p"], ["a"]),
            node("Mul", ["a", "s"], ["m"]),
            node("Clip", ["m", "s"], ["c"]),
            node("Conv", ["c", "w"], ["y"]),
        ],
        {"p": ones(6, 2) / 6, "s": np.float32(3) * ones(), "w": ones(5, 3, 1, 1)},
        15,
        8 * 15,
    ),
    # of two branches the dearer one
    "branches": (
        [node("If", ["yes"], ["y"], then_branch=branch("then", "w"), else_branch=branch("else", "v"))],
        {"w": ones(5, 3, 1, 1), "v": ones(5, 3, 2, 2), "yes": np.array(True)},
        75,
        15 * 60,
    ),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_by_hand(kind: str, tmp_path: Path) -> None:
    nodes, stored, params, macs = BY_HAND[kind]
    path = made(tmp_path / "m.onnx", nodes, stored, ["a", "b", "c", "d"])
    assert onnx_params(path) == params
    assert onnx_macs(path)[0] == macs


def test_shapes_that_only_running_tells(tmp_path: Path) -> None:
    """The number of rows is what the network itself computes; a loop stays unknown, for a reason."""
    nodes = [
        node("NonZero", ["one"], ["found"]),
        node("Cast", ["found"], ["f"], to=TensorProto.FLOAT),
        node("MatMul", ["f", "w"], ["g"]),
        node("ReduceMean", ["g"], ["m"]),
        node("Add", ["x", "m"], ["y"]),
    ]
    stored = {"one": np.array([[1.0, 0, 1], [0, 1, 1]], np.float32), "w": ones(4, 7)}
    path = made(tmp_path / "m.onnx", nodes, stored, [1, 3, 4, 6])
    assert onnx_macs(path)[0] == 2 * 4 * 7 and onnx_params(path) >= 28

    turn = [node("Identity", ["go"], ["on"]), node("Conv", ["state", "w"], ["next"])]
    state = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 6]) for name in ("state", "next")]
    go = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "on")]
    turns = [helper.make_tensor_value_info("i", TensorProto.INT64, [])]
    body = helper.make_graph(turn, "turn", [*turns, go[0], state[0]], [go[1], state[1]])
    loop = [node("Loop", ["n", "", "x"], ["y"], body=body, name="again")]
    path = made(tmp_path / "l.onnx", loop, {"w": ones(3, 3, 1, 1), "n": np.array(3)}, [1, 3, 4, 6])
    assert onnx_params(path) == 9
    with pytest.raises(WeightsError, match="the size of Loop again is not known"):
        onnx_macs(path)


def test_the_command_counts_matrix_products(tmp_path: Path) -> None:
    """Two products of 3 to 500 to 8 channels at every pixel, and a convolution of 8 to 3."""
    rng = np.random.default_rng(0)
    shapes = {"m1": (3, 500), "m2": (500, 8), "v": (3, 8, 1, 1)}
    stored = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]),
        node("MatMul", ["t", "m1"], ["u"]),
        node("Relu", ["u"], ["r"]),
        node("MatMul", ["r", "m2"], ["q"]),
        node("Transpose", ["q"], ["c"], perm=[0, 3, 1, 2]),
        node("Conv", ["c", "v"], ["y"]),
    ]
    path = made(tmp_path / "mlp.onnx", nodes, stored, [1, 3, 4, 6])
    (row,) = count([path], counter="true")
    assert row.params == 5_524
    assert row.arithmetic is not None and row.arithmetic.macs == 24 * 5_524


def test_numpy_is_not_asked_for_weights_that_lie_elsewhere(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(ones(6, 6) / 6, "w")
    path = made(tmp_path / "m.onnx", [node("MatMul", ["x", "w"], ["y"])], [tensor], [1, 3, 4, 6])
    assert (onnx_params(path), onnx_macs(path)[0]) == (0, 0)
