"""Squared distance of raw features (Rethinking KD with Raw Features, equation 1; FitNets; CIRKD losses/fitnet.py)."""

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor
from torch.nn import functional as F

from ..batch import Batch
from . import Method, Sizes, choose
from ._adapters import UNREACHED, Adapter
from ._method import name_of

if TYPE_CHECKING:
    from ..output import Output


class Naive(Method):
    """Squared distance of the raw features, the plainest feature distillation.

    mse = 1 / (B C N) * || f_t - a(f_s) ||^2 on the tap `at` (bb, bb3, dec, dec_pre, logits ...). The adapter a is a
    trained 1x1 convolution without bias (adapter=conv), or that with BN and ReLU (conv-bn-relu), where the channels
    differ; always=true puts it everywhere. ``--preset fitnet`` is CIRKD's form: tap dec, conv, always, weight 10.
    """

    taps = ("bb",)
    weights: ClassVar[dict[str, float]] = {"mse": 1000.0}
    paper = "Liu et al., Rethinking Knowledge Distillation with Raw Features for Semantic Segmentation (WACV 2024)"
    differences = (
        "The paper compares the last backbone feature and adapts it by convolution, BN and ReLU only where the "
        "channels differ; CIRKD's fitnet compares the decoder's behind a bare convolution that is always there: "
        "at=dec, adapter=conv, always=true, or --preset fitnet.",
        "The paper's weight is 1000 for PSPNet pairs and 100 for Swin pairs, CIRKD's is 10; that it must be found for "
        "each pair is the paper's point.",
        "The paper writes the loss for one image; kdc averages over the batch.",
        UNREACHED,
    )

    def __init__(
        self,
        sizes: Sizes,
        *,
        terms: Collection[str] | None = None,
        at: str = "bb",
        adapter: str = "conv-bn-relu",
        always: bool = False,
    ) -> None:
        super().__init__(sizes, terms=terms)
        self.need(at)
        choose(f"{name_of(type(self))}.adapter", adapter, Adapter.KINDS)
        mine, its = sizes.student[at], sizes.teacher[at]
        adapted = always or mine.channels != its.channels
        self.adapter = Adapter(mine, its, self.rng("adapter"), adapter) if adapted else None

    def compared(self, student: "Output", teacher: "Output") -> tuple[Tensor, Tensor]:
        s, t = self.pair(student, teacher, self.taps[0])
        return (self.adapter(s) if self.adapter else s), t

    def losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        return {"mse": F.mse_loss(*self.compared(student, teacher))}
