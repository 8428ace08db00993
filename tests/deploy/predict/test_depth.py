"""16-bit images are read as those that the network learned from."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import helper

from kdc.deploy.predict.predict import predict
from kdc.distill import console
from kdc.distill.preprocess import IMAGENET, Preprocess

from ..._made import onnx_file

DEEP = np.random.default_rng(0).integers(0, 4096, (8, 16, 3), dtype=np.uint16)


def network(path: Path, bits: int | None) -> Path:
    """Write a network whose classes are the channels."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    facts = {"kdc.preprocess": replace(IMAGENET, bits=bits).to_dict()}
    return onnx_file(path, nodes, {"x": [1, 3, 8, 16]}, {"y": [1, 3, 8, 16]}, {}, facts=facts)


def mask_of(file: Path, picture: np.ndarray, name: str, bits: int | None = None) -> np.ndarray:
    cv2.imwrite(f"{name}.png", picture)
    predict(file, [f"{name}.png"], out=Path(name), bits=bits)
    mask = cv2.imread(f"{name}/masks/{name}.png", cv2.IMREAD_UNCHANGED)
    assert mask is not None
    return mask


def test_the_depth_that_was_learned_from_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    console.notes.clear()
    plain, deep = network(tmp_path / "plain.onnx", None), network(tmp_path / "deep.onnx", 12)
    right = mask_of(plain, (DEEP >> 4).astype(np.uint8), "right")
    assert np.array_equal(mask_of(deep, DEEP, "learned"), right)
    assert any("read as 12 bits, as the network learned" in line for line in console.notes)

    # a network that does not say, and the cure that is named
    assert not np.array_equal(mask_of(plain, DEEP, "unknown"), right)
    assert any("--bits 12 reads them as 12" in line for line in console.notes)
    assert np.array_equal(mask_of(plain, DEEP, "asked", bits=12), right)


def test_the_depth_travels_with_the_preprocessing() -> None:
    deep = replace(IMAGENET, bits=12)
    assert Preprocess.from_dict(deep.to_dict()) == deep and deep.sha() != IMAGENET.sha()
    assert Preprocess.from_dict(IMAGENET.to_dict()) == IMAGENET and "bits" not in IMAGENET.to_dict()
