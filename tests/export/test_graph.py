"""The deployment graph computes what the network computes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdc.distill.errors import UsageError
from kdc.distill.models import SegmentationModel
from kdc.export.graph import DeployGraph, ExactPooling, pooling_matrix

SIZE = (64, 128)


@given(size=st.integers(1, 50), bins=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_pooling_matrix_is_adaptive_pooling(size: int, bins: int) -> None:
    row = torch.arange(size, dtype=torch.float64) ** 2
    expected = F.adaptive_avg_pool1d(row[None, None], bins)[0, 0]
    assert torch.allclose(pooling_matrix(size, bins) @ row, expected, rtol=1e-12)


@pytest.mark.parametrize("bins", [1, 2, 3, 6, (2, 5), (None, 3)])
def test_modules_and_functions_are_replaced_exactly(bins: int | tuple[int | None, int]) -> None:
    x = torch.randn(2, 3, 7, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.adaptive_avg_pool2d(x, bins)
    calls = []

    class Spy(ExactPooling):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            calls.append(func)
            return super().__torch_function__(func, types, args, kwargs)

    with Spy():
        by_module, by_function = nn.AdaptiveAvgPool2d(bins)(x), F.adaptive_avg_pool2d(x, bins)
    assert torch.allclose(by_module, expected, rtol=1e-12, atol=1e-14)
    assert torch.allclose(by_function, expected, rtol=1e-12, atol=1e-14)
    inner = {getattr(func, "__name__", "") for func in calls}
    assert "adaptive_avg_pool2d" in inner and calls.count(F.adaptive_avg_pool2d) == 2


@pytest.mark.parametrize("arch", ["deeplabv3", "pspnet"])
def test_same_numbers_as_the_network(arch: str, networks: dict[str, SegmentationModel]) -> None:
    model = networks[arch]
    images = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    pixels = torch.from_numpy(images)
    with torch.inference_mode():
        logits = model(pixels.permute(0, 3, 1, 2).contiguous()).logits
        logits = F.interpolate(logits, size=SIZE, mode="bilinear", align_corners=True)
        raw = DeployGraph(model, SIZE, "logits", "uint8")(pixels)
        normalised = DeployGraph(model, SIZE)(torch.from_numpy(model.preprocess.apply(images)))
        mask = DeployGraph(model, SIZE, "argmax", "uint8")(pixels)
    assert raw.shape == (2, 5, *SIZE)
    assert torch.allclose(raw, logits, atol=2e-5)
    assert torch.allclose(normalised, logits, atol=2e-5)
    assert mask.dtype == torch.uint8 and mask.shape == (2, *SIZE)
    assert torch.equal(mask, raw.argmax(1).to(torch.uint8))


def test_what_it_refuses(networks: dict[str, SegmentationModel]) -> None:
    model = networks["deeplabv3"]
    with pytest.raises(UsageError, match=r"60x100.*64x104"):
        DeployGraph(model, (60, 100))
    with pytest.raises(UsageError, match="argmx"):
        DeployGraph(model, SIZE, "argmx")
    with pytest.raises(UsageError, match="accepted are float and uint8"):
        DeployGraph(model, SIZE, "logits", "int8")
