"""Pixel-wise and pair-wise distillation of pre-ReLU features (AmirMansurian/AICSD distiller.py, DeepLabV3+)."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, cast

from torch import Tensor, nn

from ..batch import Batch
from ..losses import unit
from . import Method, Sizes, choose
from ._pairs import check_pool, pair_wise
from .at import attention, energy

if TYPE_CHECKING:
    from ..output import Output


class PixelPair(Method):
    """Pixel-wise and pair-wise distillation of two features taken before their ReLU.

    pa = 1 / (B n^2) * sum_{i,j} (cos(f_i, f_j)^t - cos(f_i, f_j)^s)^2 over the n positions left by max-pooling the tap
        `aspp` (aspp_pre): pool=scale:x makes windows of that share of the map, partial ones kept, and sends no gradient
        through the norms, which have 1e-8 added; pool=2x2 halves the map, with gradient.
    pi = mean over images and positions of (a_s - a_t)^2,  a = unit(mean over channels of f^2),  on the tap `dec`
        (dec_pre): pi.norm=column gives every image column unit length over its H rows, map the whole map (then pi is
        attention transfer on that tap).
    Channels may differ, there is no adapter. teacher.bn=eval shows the teacher as it is evaluated; train normalises its
    features by the batch's own statistics, as the published code does: all else stays in eval mode, and the running
    statistics are neither read nor changed.
    """

    taps = ("aspp_pre", "dec_pre")
    weights: ClassVar[dict[str, float]] = {"pa": 1.0, "pi": 100.0}
    paper = "Mansourian et al., AICSD and its repository's earlier pixel-wise and pair-wise distillation (2023)"
    differences = (
        "The published code normalises the map of pi over axis 1 of (B, H, W), which is each column by itself and not "
        "the whole map: pi.norm=column, the default, or map.",
        "The published teacher is left in train mode: its features are normalised by the batch and its running "
        "statistics drift. kdc's teacher is in eval mode; teacher.bn=train uses the batch's statistics, without drift.",
        "In pa the norm passes no gradient, as in the published code; pool=2x2 is the form that does.",
        "The published rate of ASPP and decoder is ten times the backbone's, and the crop 513x513: --preset pixel-pair "
        "sets both (train.head_lr, train.crop).",
        "The published cross-entropy is divided by the batch size once more, a setting of the task and not of the "
        "method: --preset pixel-pair.",
        "Epoch 0 of the published code trains nothing but connectors that no loss reads, and its students skip the "
        "dropout of the ASPP while they are taught; kdc does neither.",
    )

    def __init__(
        self,
        sizes: Sizes,
        *,
        terms: Collection[str] | None = None,
        pi_norm: str = "column",
        pool: str = "scale:0.5",
        teacher_bn: str = "eval",
        aspp: str = "aspp_pre",
        dec: str = "dec_pre",
    ) -> None:
        super().__init__(sizes, terms=terms)
        read = {"pa": aspp, "pi": dec}
        self.need(*dict.fromkeys(read[term] for term in self.terms))
        self.map = {"column": _columns, "map": attention}[choose("pixel-pair.pi.norm", pi_norm, ("column", "map"))]
        self.pool = check_pool("pixel-pair.pool", pool)
        self.batch_statistics = choose("pixel-pair.teacher.bn", teacher_bn, ("eval", "train")) == "train"
        self.aspp, self.dec = aspp, dec

    def teach(self, teacher: "Callable[[Tensor], Output]", batch: Batch) -> "Output":
        if not self.batch_statistics:
            return super().teach(teacher, batch)
        with _batch_statistics(cast(nn.Module, teacher)):
            return super().teach(teacher, batch)

    def losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        values = {}
        if "pa" in self.terms:
            values["pa"] = pair_wise(*self.pair(student, teacher, self.aspp), self.pool)
        if "pi" in self.terms:
            s, t = self.pair(student, teacher, self.dec)
            values["pi"] = (self.map(s) - self.map(t)).square().mean()
        return values


def _columns(x: Tensor) -> Tensor:
    return unit(energy(x), 1)


@contextmanager
def _batch_statistics(network: nn.Module) -> Iterator[None]:
    """Let the batch norms of ``network`` use the batch's statistics within; their running ones rest."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.training, norm.track_running_stats) for norm in norms]
    try:
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        yield
    finally:
        for norm, (training, track) in zip(norms, before):
            norm.training, norm.track_running_stats = training, track
