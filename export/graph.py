"""The deployment graph: the part of a trained network that is exported, in a form that every runtime reads alike.

ONNX has no adaptive pooling above output size 1; PyTorch's exporter unrolls PSPNet's four poolings into 2,500 nodes.
For a fixed size they are exactly two small matrix products (``P_h @ x @ P_w^T``), and the graph holds these.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..deploy.runtimes.torch_runtime import export_size
from ..distill.errors import UsageError
from ..distill.models import SegmentationModel
from ..distill.preprocess import Preprocess

HEADS = ("logits", "argmax")
INPUTS = ("float", "uint8")


def pooling_matrix(size: int, bins: int) -> Tensor:
    """Return the float64 ``(bins, size)`` matrix whose product with a row is ``adaptive_avg_pool1d(row, bins)``.

    Bin ``i`` averages pixels ``floor(i * size / bins)`` up to ``ceil((i + 1) * size / bins)``, as PyTorch's does.
    """
    edges = [(i * size // bins, -((-(i + 1) * size) // bins)) for i in range(bins)]
    # from a list, so that a tracer sees one constant and not the steps that fill it
    return torch.tensor(
        [[1 / (b - a) if a <= j < b else 0.0 for j in range(size)] for a, b in edges], dtype=torch.float64
    )


def pool(x: Tensor, output_size: int | tuple[int | None, int | None]) -> Tensor:
    """Pool ``(B, C, H, W)`` as ``F.adaptive_avg_pool2d`` does, by a mean or by two matrix products."""
    height, width = int(x.shape[-2]), int(x.shape[-1])
    pair = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    h, w = (size if bins is None else int(bins) for bins, size in zip(pair, (height, width), strict=True))
    if (h, w) == (1, 1):
        return x.mean((-2, -1), keepdim=True)
    rows, columns = (pooling_matrix(size, bins).to(x) for size, bins in ((height, h), (width, w)))
    return rows @ (x @ columns.T)


class ExactPooling(TorchFunctionMode):
    """Inside this context every adaptive average pooling, module or function, is computed by ``pool``."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace the one function, pass all others on."""
        if func is F.adaptive_avg_pool2d:
            return pool(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def check_form(size: tuple[int, int], head: str, input: str, *, stride: int, num_classes: int) -> None:
    """Refuse a form that a network of this output stride and number of classes cannot be exported in.

    Raises:
        UsageError: unknown head or input, a size that the stride does not divide, too many classes for a mask.
    """
    for flag, value, accepted in (("head", head, HEADS), ("input", input, INPUTS)):
        if value not in accepted:
            raise UsageError(f"--{flag} {value!r}: accepted are {' and '.join(accepted)}")
    if size[0] % stride or size[1] % stride or min(size) <= 0:
        near = export_size(size, stride)
        raise UsageError(
            f"--size {size[0]}x{size[1]}: both must be multiples of the output stride {stride};"
            f" the next is {near[0]}x{near[1]}"
        )
    if head == "argmax" and num_classes > 256:
        raise UsageError(
            f"--head argmax writes uint8 masks, but the model has {num_classes} classes; use --head logits"
        )


class DeployGraph(nn.Module):
    """A segmentation network from its input to full-size logits or a mask, for one image size.

    The auxiliary head and dropout are off (eval mode). Input: ``float``, normalised ``(B, 3, H, W)`` float32, or
    ``uint8``, raw RGB ``(B, H, W, 3)``, cast before it is transposed (TensorRT refuses to permute uint8) and
    normalised inside. Output: ``logits``, float32 ``(B, K, H, W)``, or ``argmax``, a uint8 mask ``(B, H, W)``. Between
    them it computes in the type of the model's weights.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, model: SegmentationModel, size: tuple[int, int], head: str = "logits", input: str = "float"
    ) -> None:
        """Wrap ``model`` for images of ``size`` (H, W) in pixels.

        Raises:
            UsageError: see ``check_form``.
        """
        super().__init__()
        check_form(size, head, input, stride=model.output_stride, num_classes=model.num_classes)
        self.model = model
        self.size, self.head, self.input = size, head, input
        self.dtype = next(model.parameters()).dtype
        preprocess: Preprocess = model.preprocess
        self.bgr = preprocess.order == "bgr"
        std = torch.tensor(preprocess.std, dtype=torch.float64)
        mean = torch.tensor(preprocess.mean, dtype=torch.float64)
        # multiply-add in float32, as Preprocess.apply does outside
        self.register_buffer("scale", (1 / std).float().view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).float().view(1, 3, 1, 1), persistent=False)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Run the network; shapes and types as the class says."""
        if self.input == "uint8":
            image = image.float().permute(0, 3, 1, 2)
            if self.bgr:
                image = image.flip(1)
            image = image * self.scale + self.shift
        with ExactPooling():
            logits = self.model(image if self.dtype == torch.float32 else image.to(self.dtype)).logits
        logits = logits if self.dtype == torch.float32 else logits.float()
        logits = F.interpolate(logits, size=self.size, mode="bilinear", align_corners=self.model.align_corners)
        return logits if self.head == "logits" else logits.argmax(1).to(torch.uint8)

    def example(self, batch: int = 1) -> Tensor:
        """Return an input of zeros."""
        if self.input == "uint8":
            return torch.zeros(batch, *self.size, 3, dtype=torch.uint8)
        return torch.zeros(batch, 3, *self.size)
