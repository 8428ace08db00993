"""The precision check, on SYNTHETIC inspector output written from the documented schema of TensorRT 10 and 11."""

import json
from typing import Any

import pytest

from kdc.deploy.runtimes.trt.inspector import check_precision, read_layers
from kdc.distill.errors import ExportError

#: how each major writes the type of a tensor
TEN = {
    "fp32": {"Format/Datatype": "Row major linear FP32"},
    "fp16": {"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"},
    "bf16": {"Format/Datatype": "Row major linear BFloat16 format"},
    "int8": {"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"},
    "fp8": {"Format/Datatype": "FP8"},
}
ELEVEN = {
    "fp32": {"Format": "Row major linear FP32 format (kLINEAR)", "DataType": "Float"},
    "fp16": {"Format": "Channel major format where channel % 8 == 0 (kHWC8)", "DataType": "Half"},
    "bf16": {"Format": "Row major linear format (kLINEAR)", "DataType": "BFloat16"},
    "int8": {"Format": "Thirty-two wide channel vectorized format (kCHW32)", "DataType": "Int8"},
    "fp8": {"Format": "Row major linear format (kLINEAR)", "DataType": "FP8"},
}
MAJORS = pytest.mark.parametrize("types", [TEN, ELEVEN], ids=["10", "11"])


def tensor(types: dict[str, Any], name: str, type: str, shape: list[int]) -> dict[str, Any]:
    return {"Name": name, "Location": "Device", "Dimensions": shape, **types[type]}


def engine(types: dict[str, Any], type: str, out: str | None = None) -> dict[str, Any]:
    """A reformat, a convolution 3 -> 8 (3x3) and one 8 -> 4 (1x1) as a fused layer without a weights entry."""
    image, inner = [1, 3, 16, 32], [1, 8, 8, 16]
    weights = {"fp32": "Float", "fp16": "Half", "bf16": "BFloat16", "int8": "Int8", "fp8": "FP8"}[type]
    first = {
        "Name": "conv1 + relu1",
        "LayerType": "CaskConvolution",
        "Inputs": [tensor(types, "image", type, image)],
        "Outputs": [tensor(types, "z", out or type, inner)],
        "ParameterType": "Convolution",
        "Kernel": [3, 3],
        "OutMaps": 8,
        "Groups": 1,
        "Weights": {"Type": weights, "Count": 216},
        "TacticName": "sm80_xmma_fprop_implicit_gemm",
    }
    second = {
        "Name": "__myl_Conv_myl0_2",
        "LayerType": "conv",
        "Inputs": [tensor(types, "z", type, inner), tensor(types, "w", type, [4, 8, 1, 1])],
        "Outputs": [tensor(types, "out", "fp32", [1, 4, 8, 16])],
    }
    reformat = {
        "Name": "Reformatting CopyNode for Input Tensor 0 to conv1",
        "LayerType": "Reformat",
        "Inputs": [tensor(types, "image", "fp32", image)],
        "Outputs": [tensor(types, "image", type, image)],
        "Origin": "REFORMAT",
    }
    ports: Any = ["image", "out"]
    if types is ELEVEN:
        return {"Layers": [reformat, first, second], "I/O Tensors": [{"Name": name} for name in ports]}
    return {"Layers": [reformat, first, second], "Bindings": ports}


@MAJORS
@pytest.mark.parametrize("type", list(TEN))
def test_types_flops_and_times(types: dict[str, Any], type: str) -> None:
    inspected = json.dumps(engine(types, type))
    names = [layer["Name"] for layer in engine(types, type)["Layers"]]
    times = dict(zip(names, (0.5, 1.0, 0.5), strict=True)) | {"shape_call": 0.25}
    layers = read_layers(inspected, times)
    assert [(layer.type, layer.reformat) for layer in layers[1:]] == [(type, False)] * 2
    assert [layer.flops for layer in layers] == [None, 2 * 8 * 16 * 216, 2 * 4 * 8 * 16 * 8]
    result = check_precision(layers, type, times)
    assert (result.layers, result.reformat_layers, result.reasons) == (3, 1, [])
    assert result.by_time == {type: 0.75, "reformat": 0.25} and result.total_ms == 2.0
    assert result.by_layers == {type: pytest.approx(2 / 3), "reformat": pytest.approx(1 / 3)}
    assert result.by_flops == {type: 1.0} and result.unknown_ms == pytest.approx(0.25)
    assert result.line() == f"{type} 75.0 %, reformat 25.0 % of the time; 3 layers, 1 of them reformats"


@MAJORS
def test_a_precision_that_no_layer_has_fails(types: dict[str, Any]) -> None:
    for asked in ("fp16", "bf16", "int8", "fp8", "int8+fp16"):
        result = check_precision(read_layers(engine(types, "fp32")), asked)
        wanted = asked.partition("+")[0]
        assert result.reasons[0].startswith(
            f"{wanted} was asked for and none of the FLOPs is in {wanted} (fp32 100.0 %"
        )
    assert check_precision(read_layers(engine(types, "fp32")), "fp32").reasons == []
    assert "none of the FLOPs is in fp16" in check_precision(read_layers(engine(types, "int8")), "int8+fp16").reasons[0]


def test_a_half_layer_that_takes_no_time_does_not_count() -> None:
    values = engine(TEN, "fp32")
    values["Layers"][2]["Inputs"] = [tensor(TEN, "z", "fp16", [1, 8, 8, 16]), tensor(TEN, "w", "fp16", [4, 8, 1, 1])]
    layers = read_layers(values, {"conv1 + relu1": 1.0})
    assert check_precision(layers, "fp16").reasons and layers[2].type == "fp16"


def test_quantised_layers_tf32_and_profiles() -> None:
    values = engine(TEN, "int8", out="fp16")
    assert read_layers(values)[1].type == "int8", "a quantised layer may write a wider type"
    values = engine(ELEVEN, "fp32")
    values["Layers"][1] |= {"TacticName": "sm80_xmma_fprop_tf32f32_tf32f32_f32", "Name": "conv1 [profile 0]"}
    [_, layer, _] = read_layers(values, {"conv1": 2.0})
    assert (layer.type, layer.ms) == ("tf32", 2.0)
    free = engine(TEN, "fp16")
    free["Layers"][1]["Outputs"][0]["Dimensions"] = [-1, 8, 8, 16]
    assert read_layers(free)[1].flops is None, "a free dimension has no FLOPs"


@pytest.mark.parametrize("told", ["no JSON", "{}", "[]", '{"Layers": []}', '{"Layers": ["conv1", "conv2"]}'])
def test_an_answer_without_details_is_no_proof(told: str) -> None:
    with pytest.raises(ExportError):
        read_layers(told)
