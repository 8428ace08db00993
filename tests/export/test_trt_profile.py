"""The shapes of an engine: each corner of a profile is tried before TensorRT is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from kdc.distill.errors import UsageError
from kdc.export import to_trt
from kdc.export.to_trt import BuildFlags

from .._made import onnx_file

Files = Callable[..., Path]


def free_network(path: Path, pooled: bool = False, baked: bool = False) -> Path:
    """Write a foreign network whose batch, height and width are free; it may be made for one size all the same."""
    nodes = [helper.make_node("Conv", ["image", "w"], ["z"], pads=[1, 1, 1, 1], name="conv")]
    stored: dict[str, np.ndarray] = {"w": np.ones((5, 3, 3, 3), np.float32)}
    if pooled:  # the pooling of a pyramid: a matrix of one width
        nodes.append(helper.make_node("MatMul", ["z", "columns"], ["out"], name="pooling"))
        stored["columns"] = np.ones((64, 64), np.float32)
    elif baked:  # columns that are looked up: their numbers are beyond a smaller image
        nodes.append(helper.make_node("Gather", ["z", "at"], ["picked"], axis=3, name="gather"))
        nodes.append(helper.make_node("Resize", ["picked", "", "", "sizes"], ["out"], mode="nearest"))
        nodes.insert(0, helper.make_node("Shape", ["z"], ["sizes"]))
        nodes.insert(0, nodes.pop(1))
        stored["at"] = np.arange(60, 64)
    else:
        nodes.append(helper.make_node("Relu", ["z"], ["out"]))
    facts = {"kdc.model": {"output_stride": 8}}
    return onnx_file(path, nodes, {"image": ["n", 3, "h", "w"]}, {"out": ["n", 5, "h", "w"]}, stored, facts=facts)


SIZES = ((32, 64), (32, 64), (48, 128))


def test_profiled_sizes_are_tried_at_every_corner(fake: Path) -> None:
    made = to_trt.build_engine(
        free_network(fake / "f.onnx"), fake / "m.engine", BuildFlags(flavour_name="tensorrt", sizes=SIZES)
    ).to_dict()
    assert made["profile"] == {"min": [1, 3, 32, 64], "opt": [4, 3, 32, 64], "max": [16, 3, 48, 128]}
    assert made["flags"] == ["--sizes", "32x64,32x64,48x128"]


@pytest.mark.parametrize(
    ("network", "sizes", "message"),
    [
        ({}, None, "leaves height or width free: name the smallest, usual and largest"),
        ({}, ((32, 64), (30, 64), (64, 64)), "at least as high and as wide"),
        ({}, ((32, 64), (36, 64), (64, 64)), "36x64 is no multiple of the output stride 8; the next is 40x64"),
        ({"pooled": True}, SIZES, r"does not take .*x3x\d+x128, a corner of the profile.*pooling"),
        ({"baked": True}, ((32, 32), (32, 64), (32, 64)), "does not take 1x3x32x32, a corner of the profile"),
    ],
)
def test_a_corner_that_the_network_does_not_take_is_refused(
    network: dict[str, bool], sizes: Any, message: str, fake: Path
) -> None:
    source = free_network(fake / "f.onnx", **network)
    with pytest.raises(UsageError, match=message) as caught:
        to_trt.build_engine(source, fake / "m.engine", BuildFlags(flavour_name="tensorrt", sizes=sizes))
    assert "\n" not in str(caught.value) and not (fake / "m.engine").exists()


def test_sizes_of_a_file_that_is_made_for_one(fake: Path, exported: Files, command: Callable[..., None]) -> None:
    with pytest.raises(UsageError, match=r"--sizes does nothing for .* made for 64x128"):
        to_trt.build_engine(
            exported("pspnet", "logits", "float"), fake / "m.engine", BuildFlags(flavour_name="tensorrt", sizes=SIZES)
        )
    with pytest.raises(UsageError, match="kdc's own never do"):
        command("export", "trt", "--sizes", "8x8,8x8,8x8")
    with pytest.raises(UsageError, match="smallest, usual and largest, such as"):
        command("export", "trt", "model.onnx", "--sizes", "8x8")
