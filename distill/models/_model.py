"""The module every architecture becomes: backbone, head, perhaps an auxiliary head, and its own normalisation."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import UsageError, WeightsError
from ..network_spec import NetworkSpec
from ..output import Output, Tap
from ..preprocess import IMAGENET, Preprocess
from ._backbones import STAGES
from ._heads import PPM

if TYPE_CHECKING:
    from ._architecture import Architecture

#: Names in a ``SegmentationModel``'s state dict that are its input normalisation, not learned weights.
NORMALISATION = ("mean", "std", "channels")


class SegmentationModel(nn.Module):
    """A network from images to class scores at a fraction of their size.

    ``backbone(x)`` gives the stages that ``head.read()`` names, ``head(*stages)`` gives ``(logits, features)``, and
    ``aux_head`` (None where the architecture has none) scores stage 3. ``taps`` names all that a method may read, with
    channels and stride; images must be multiples of ``output_stride``, the last stage's, where they are exported.
    """

    mean: Tensor
    std: Tensor
    channels: Tensor

    def __init__(
        self,
        name: str,
        backbone: nn.Module,
        head: "Architecture",
        aux_head: nn.Module | None,
        *,
        taps: dict[str, Tap],
        num_classes: int,
        output_stride: int,
        in_channels: int = 3,
        heads: str = "v1",
        dropout: float | None = None,
        preprocess: Preprocess | None = None,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.name, self.num_classes, self.output_stride, self.dropout = name, num_classes, output_stride, dropout
        self.in_channels, self.heads, self.taps = in_channels, heads, taps
        self.backbone, self.head, self.aux_head = backbone, head, aux_head
        self.preprocess = preprocess or IMAGENET
        for key, values in _normalisation(self.preprocess).items():
            self.register_buffer(key, values)
        self.register_load_state_dict_post_hook(_adopt_normalisation)
        self.set_align_corners(align_corners)

    def set_align_corners(self, value: bool) -> None:
        """Enlarge maps as the network's code does: those of pyramid pooling here, the scores elsewhere."""
        self.align_corners = value
        for module in self.modules():
            if isinstance(module, PPM):
                module.align_corners = value

    def set_preprocess(self, preprocess: Preprocess) -> None:
        """Prepare images in another way; the depth of the images that it learned from stays."""
        self.preprocess = replace(preprocess, bits=self.preprocess.bits)
        for key, values in _normalisation(preprocess).items():
            self.get_buffer(key).copy_(values)

    def normalise(self, images: Tensor) -> Tensor:
        """Turn uint8 RGB ``(B, 3, H, W)`` into what the backbone expects; the memory format stays."""
        x = images.flip(1) if self.preprocess.order == "bgr" else images
        return (x.to(self.mean.dtype) - self.mean) / self.std

    def forward(self, images: Tensor, hint: Tensor | None = None) -> Output:
        """Score ``images (B, 3, H, W)``: uint8 RGB, or floating point that is normalised already.

        A network with 4 input channels takes ``hint (B, 1, H, W)`` as the fourth, on the scale of normalised images.

        Raises:
            UsageError: a hint is lacking, or the network takes none.
        """
        x = images if images.is_floating_point() else self.normalise(images)
        if hint is not None:
            if self.in_channels == 3:
                raise UsageError(f"{self.name} has a stem of 3 channels and takes no hint; one of 4 channels does")
            x = torch.cat([x, hint.to(x.dtype)], 1)
        elif self.in_channels == 4:
            raise UsageError(
                f"{self.name} has a stem of 4 channels: it reads the labels beside the image and cannot score images "
                "alone; it can only teach, with --method label-assisted"
            )
        stages = dict(zip(self.head.read(), self.backbone(x), strict=True))
        logits, features = self.head(*(stages[i] for i in self.head.stages))
        aux = None if self.aux_head is None else self.aux_head(stages[3])[0]
        return Output(logits, aux, {**{STAGES[i]: x for i, x in stages.items()}, **features})

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are not the backbone's: the head's and the auxiliary head's."""
        heads = [self.head] if self.aux_head is None else [self.head, self.aux_head]
        return [parameter for head in heads for parameter in head.parameters()]

    def spec(self) -> NetworkSpec:
        """Return the values from which ``rebuild`` makes the same module."""
        return NetworkSpec(
            self.name,
            self.num_classes,
            self.output_stride,
            aux=self.aux_head is not None,
            dropout=self.dropout,
            preprocess=self.preprocess,
            in_channels=self.in_channels,
            heads=self.heads,
            align_corners=self.align_corners,
        )


def _normalisation(preprocess: Preprocess, device: str | None = None) -> dict[str, Tensor]:
    """Return the buffers that carry ``preprocess`` in a state dict; ``channels`` holds the order of the colours."""
    return {
        "mean": torch.tensor(preprocess.mean, device=device).view(1, 3, 1, 1),
        "std": torch.tensor(preprocess.std, device=device).view(1, 3, 1, 1),
        "channels": torch.tensor([2, 1, 0] if preprocess.order == "bgr" else [0, 1, 2], device=device),
    }


def _adopt_normalisation(model: nn.Module, _incompatible: Any) -> None:
    """After weights were loaded: the normalisation that came with them is the one to use from now on."""
    assert isinstance(model, SegmentationModel)
    if model.mean.is_meta:
        return
    loaded = {key: getattr(model, key).cpu() for key in NORMALISATION}
    own = _normalisation(model.preprocess, "cpu")
    if all(torch.equal(x, own[key].to(x.dtype)) for key, x in loaded.items()):
        return
    # float32 holds about 7 digits: 123.67500305 was written as 123.675
    mean, std = ([float(f"{v:.7g}") for v in loaded[key].flatten().tolist()] for key in ("mean", "std"))
    order = "bgr" if int(loaded["channels"][0]) == 2 else "rgb"
    bits = model.preprocess.bits
    try:
        model.preprocess = Preprocess.from_dict({"mean": mean, "std": std, "order": order, "bits": bits})
    except ValueError as error:
        raise WeightsError(f"the weights' normalisation of images cannot be used: {error}") from error
