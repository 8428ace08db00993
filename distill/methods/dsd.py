"""Double similarity distillation (Feng et al., IEEE TIP 2021; CIRKD losses/dsd.py)."""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..batch import Batch
from ..errors import UsageError
from ..losses import raised, unit, upsample
from . import Method, Sizes
from .at import attention
from .kd import temperature

if TYPE_CHECKING:
    from ..output import Output


class Dsd(Method):
    """Double similarity: how attention changes from layer to layer, and how alike the classes' score maps are.

    psd = mean over the pairs m > n of [aux, dec, logits], over images and positions, of (r_s - r_t)^2,
          r = unit(a_m - a_n),  a = unit(q),  q = mean over channels of f^2, each unit over the positions of an image.
    csd = mean over images and K x K of (G_s - G_t)^2,  G = P P^T,  P = softmax over the positions of z / T, z the
          logits behind a 2 x 2 average pool.
    `at` is the tap in the middle (dec, bb, ...). Only the maps that both networks have are used: without an auxiliary
    head there is one pair. parity=true is the repository's list, which takes the logits for a missing aux.
    """

    taps = ("aux", "dec", "logits")
    weights: ClassVar[dict[str, float]] = {"psd": 1000.0, "csd": 10.0}
    paper = "Feng et al., Double Similarity Distillation for Semantic Image Segmentation (IEEE TIP 2021)"
    differences = (
        "For a student without auxiliary head CIRKD's list takes its logits for its aux, against the teacher's aux: "
        "one of its three residuals is 0 whatever the student does. kdc uses the maps that both have; parity=true is "
        "the repository's list.",
        "CIRKD skips both terms when either weight is 0; kdc computes each term by its own weight.",
        "CIRKD normalises each residual twice, which changes nothing; kdc does it once.",
        "What CIRKD calls dsd is its own re-implementation, run without the kd term of its other baselines.",
        "Maps of different sizes within a network, which CIRKD's models do not have, are resized to the teacher's "
        "logits.",
    )

    def __init__(
        self,
        sizes: Sizes,
        *,
        terms: Collection[str] | None = None,
        T: float | str = 4.0,
        at: str = "dec",
        parity: bool = False,
    ) -> None:
        super().__init__(sizes, terms=terms)
        self.T = temperature(T)
        sides = sizes.student, sizes.teacher
        aux = all("aux" in side for side in sides)
        if aux or not parity:
            both = tuple(dict.fromkeys((*(("aux",) if aux else ()), at, "logits")))
            self.lists = both, both
        else:
            self.lists = tuple(("aux" if "aux" in side else "logits", at, "logits") for side in sides)
        shared = dict.fromkeys(tap for tap in self.lists[0] if tap in self.lists[1])
        self.need(*(shared if "psd" in self.terms else ("logits",)))
        if "psd" in self.terms and len(set(self.lists[0])) < 2:
            raise UsageError(f"dsd.psd compares two maps or more; at={at} leaves one: take another tap, or dsd.psd=0")

    def losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        values = {}
        if "psd" in self.terms:
            size = teacher.logits.shape[-2:]
            pairs = zip(_residuals(student, self.lists[0], size), _residuals(teacher, self.lists[1], size), strict=True)
            values["psd"] = torch.stack([(s - t.detach()).square().mean() for s, t in pairs]).mean()
        if "csd" in self.terms:
            T = self.T(batch.step)
            s, t = (_likeness(z, T) for z in self.pair(student, teacher, "logits"))
            values["csd"] = (s - t).square().mean()
        return values


def _residuals(output: "Output", taps: tuple[str, ...], size: torch.Size) -> Iterator[Tensor]:
    """Yield the unit differences ``(B, N)`` of the attention maps of every two taps."""
    maps = {tap: attention(upsample(raised(output.tap(tap)), size)) for tap in dict.fromkeys(taps)}
    for n, first in enumerate(taps):
        for second in taps[n + 1 :]:
            # a map less itself has no direction: its gradient would be the rounding error of two huge numbers
            same = first == second
            yield torch.zeros_like(maps[first]) if same else unit(maps[second] - maps[first], 1)


def _likeness(logits: Tensor, T: float) -> Tensor:
    """Return the products ``(B, K, K)`` of the classes' distributions over space."""
    p = torch.softmax(F.avg_pool2d(logits, 2, ceil_mode=True).flatten(2) / T, 2)
    return torch.bmm(p, p.transpose(1, 2))
