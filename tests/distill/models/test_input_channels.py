"""Networks that take a hint beside the image: what they share with the ordinary ones, and what they refuse."""

import json
from pathlib import Path

import pytest
import torch

from kdc.distill import models
from kdc.distill.errors import UsageError
from kdc.distill.network_spec import NetworkSpec
from kdc.distill.run.checkpoint import load_student, save_student

SMALL = "pspnet-mv2_035"


def images(batch: int = 2, height: int = 33, width: int = 48) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def hints(batch: int = 2, height: int = 33, width: int = 48) -> torch.Tensor:
    return torch.randn(batch, 1, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", models.names())
def test_every_network_can_have_four_channels(name: str) -> None:
    with torch.device("meta"):
        three, four = (models.build(name, 5, in_channels=n).state_dict() for n in (3, 4))
    differing = [key for key in three if three[key].shape != four[key].shape]
    assert three.keys() == four.keys() and len(differing) == 1
    assert four[differing[0]].shape[1] == 4 and differing[0].startswith("backbone.conv")


@pytest.mark.parametrize("name", ["deeplabv3-r18", "pspnet-r18v1b", "deeplabv3plus-mv2", "deeplabv3plus-r18"])
def test_the_fourth_slice_is_drawn_apart(name: str) -> None:
    three, four, without = (
        models.build(name, 5, in_channels=channels, aux=aux, seed=3).state_dict()
        for channels, aux in ((3, True), (4, True), (4, False))
    )
    (stem,) = (key for key in three if three[key].shape != four[key].shape)
    assert all(torch.equal(x, four[key][:, :3] if key == stem else four[key]) for key, x in three.items())
    assert all(torch.equal(x, four[key]) for key, x in without.items())
    fourth = four[stem][:, 3]
    assert fourth.std().item() == pytest.approx(0.1, rel=0.1) and abs(fourth.mean().item()) < 0.02
    assert not torch.equal(fourth, models.build(name, 5, in_channels=4, seed=4).state_dict()[stem][:, 3])


def test_the_hint_is_read_beside_the_normalised_image() -> None:
    three, four = (models.build(SMALL, 5, in_channels=n, seed=0).eval() for n in (3, 4))
    rgb, hint = images(), hints()
    with torch.no_grad():
        blind = three(rgb).logits
        torch.testing.assert_close(four(rgb, torch.zeros_like(hint)).logits, blind)
        seeing = four(rgb, hint).logits
        torch.testing.assert_close(four(four.normalise(rgb), hint).logits, seeing)
        stem = four.backbone.get_submodule("conv_stem")
        seen = []
        handle = stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        four(rgb, hint.double())
        handle.remove()
    assert torch.equal(seen[0], torch.cat([four.normalise(rgb), hint], 1))
    assert (seeing - blind).abs().max() > 1e-3


def test_gradients_reach_the_fourth_slice() -> None:
    model = models.build("deeplabv3plus-mv2_035", 5, in_channels=4, seed=0).train()
    model(images(1), hints(1)).logits.square().mean().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    grad = model.backbone.get_submodule("conv_stem").weight.grad
    assert isinstance(grad, torch.Tensor) and (grad[:, 3] != 0).any()


def test_refuses_a_hint_too_few_or_too_many() -> None:
    three, four = (models.build(SMALL, 5, in_channels=n) for n in (3, 4))
    with pytest.raises(UsageError, match=r"pspnet-mv2_035 has a stem of 4 channels.*cannot score images alone"):
        four(images())
    with pytest.raises(UsageError, match="stem of 3 channels and takes no hint"):
        three(images(), hints())


def test_round_trip(tmp_path: Path) -> None:
    model = models.build(SMALL, 5, in_channels=4, output_stride=16, seed=0).eval()
    assert (model.in_channels, model.spec().to_dict()["in_channels"]) == (4, 4)
    assert "in_channels" not in models.build(SMALL, 5).spec().to_dict()  # old cards stay equal
    spec = NetworkSpec.from_dict(json.loads(json.dumps(model.spec().to_dict())))
    assert models.rebuild(spec).spec() == model.spec()
    save_student(tmp_path / "best.safetensors", model, {})
    again = load_student(tmp_path / "best.safetensors")
    with torch.no_grad():
        assert torch.equal(again(images(), hints()).logits, model(images(), hints()).logits)
