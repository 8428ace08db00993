"""Knowledge adaptation: the student is taught the code of an auto-encoder of the teacher (He et al., CVPR 2019)."""

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..batch import Batch
from ..errors import UsageError
from ..losses import raised, unit, upsample
from . import Method, Phase, Sizes, choose
from ._autoencoder import Adapter3x3, AutoEncoder, Conv3x3
from ._gram import gram_gap, gram_rows

if TYPE_CHECKING:
    from ..output import Output

EPS = 1e-12


class Ka(Method):
    """Knowledge adaptation: the teacher's feature, compressed by an auto-encoder, and its affinities are matched.

    phase "autoencoder": mean of (f_t - D(E(f_t)))^2 + alpha * (mean over images of |E(f_t)|_1) on the tap `at`, by SGD
        with ae.lr, ae.momentum, ae.weight.decay, for ae.iters steps (0 = one epoch). E has `code` channels (0 = half
        the teacher's) and stride 2 where the student's feature is coarser than the teacher's. Then E is frozen.
    adapt = mean over images and positions of || x_s / |x_s|_q - x_t / |x_t|_q ||_p,  x_s = C_f(f_s),  x_t = E(f_t),
        vectors along channels, p and q 1 or 2; C_f is adapter.depth 3x3 convolutions with BN and ReLU. flat=true takes
        the whole C x H x W feature as one vector and the mean absolute difference of its elements, whatever p is.
    aff = mean over images of the size of A_s - A_t,  A_ij = cos(x_i, x_j) / N,  x_s = C_a(f_s), one 3x3 convolution,
        x_t = E(f_t): affinity=rows sums the norms of the rows, fro is the Frobenius norm, mse its square.
    Where the sizes differ the student's feature is resized to the code's. C_f and C_a train with the student.
    """

    taps = ("dec",)
    weights: ClassVar[dict[str, float]] = {"adapt": 50.0, "aff": 1.0}
    paper = "He et al., Knowledge Adaptation for Efficient Semantic Segmentation (CVPR 2019)"
    differences = (
        "There is no official code; the paper gives neither p nor q nor the reductions: p=2, q=2, means over positions "
        "and images.",
        "The paper's text, and torchdistill, have one convolution in the feature adapter, a published summary three: "
        "adapter.depth=3, or 1.",
        "alpha is printed as 10E-7, read as 1e-6, for the code's L1 norm summed over an image; torchdistill takes 1e-7 "
        "and sums over the batch (alpha).",
        "The auto-encoder's weight decay is printed as 10e-4, read as 1e-3; torchdistill takes 1e-4 (ae.weight.decay).",
        "torchdistill normalises the whole feature as one vector and takes the mean absolute difference: flat=true.",
        "torchdistill's affinity is an outer product over positions for each channel, which is not the paper's and is "
        "not offered.",
        "The code's width is not published: half the teacher's channels (code). The decoder's last layer is linear, "
        "without batch norm and ReLU.",
        "The auto-encoder's rate is published as 0.1 alone; kdc decays it as the student's, poly over the phase.",
        "The paper's student is MobileNetV2 with a classifier and no ASPP or decoder; kdc teaches the student that is "
        "named, behind its whole head (at=bb is the paper's place).",
        "The sum of row norms grows with the root of the number of positions; on large maps affinity=fro or a lower "
        "weight of aff keeps it from ruling.",
    )

    def __init__(
        self,
        sizes: Sizes,
        *,
        terms: Collection[str] | None = None,
        at: str = "dec",
        p: int = 2,
        q: int = 2,
        flat: bool = False,
        affinity: str = "rows",
        adapter_depth: int = 3,
        code: int = 0,
        alpha: float = 1e-6,
        ae_lr: float = 0.1,
        ae_momentum: float = 0.9,
        ae_weight_decay: float = 1e-3,
        ae_iters: int = 0,
    ) -> None:
        super().__init__(sizes, terms=terms)
        self.need(at)
        self.p = int(choose("ka.p", str(p), ("1", "2")))
        self.q = int(choose("ka.q", str(q), ("1", "2")))
        self.flat = flat
        self.affinity = choose("ka.affinity", affinity, ("rows", "fro", "mse"))
        for option, value, least in (("adapter.depth", adapter_depth, 1), ("code", code, 0), ("ae.iters", ae_iters, 0)):
            if not isinstance(value, int) or value < least:
                raise UsageError(f"ka.{option}={value}: a whole number of at least {least} is needed")

        mine, its = sizes.student[at], sizes.teacher[at]
        width = code or max(its.channels // 2, 1)
        stride = 2 if mine.stride >= 2 * its.stride else 1
        self.autoencoder = AutoEncoder(its.channels, width, stride, self.rng("autoencoder"))
        self.feature_adapter = self.affinity_adapter = None
        if "adapt" in self.terms:
            self.feature_adapter = Adapter3x3(mine.channels, width, adapter_depth, self.rng("feature adapter"))
        if "aff" in self.terms:
            self.affinity_adapter = Conv3x3(mine.channels, width, self.rng("affinity adapter"))

        self.alpha = alpha
        self.ae_settings = {
            "lr": ae_lr,
            "momentum": ae_momentum,
            "weight_decay": ae_weight_decay,
            "iters": ae_iters or sizes.epoch,
        }
        self.key = {"tap": at, "channels": its.channels, "code": width, "stride": stride, "alpha": alpha}

    def phases(self, teacher: nn.Module) -> list[Phase]:
        (tap,) = self.taps

        def run(module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
            with torch.no_grad():
                feature = teacher(batch.images).tap(tap)
            return feature, *module(feature)

        return [Phase("autoencoder", self.autoencoder, run, self._loss, **self.ae_settings, key=self.key)]

    def _loss(self, outputs: tuple[Tensor, Tensor, Tensor], batch: Batch) -> dict[str, Tensor]:
        return reconstruction(*outputs, self.alpha)

    def _inputs(self, student: "Output", teacher: "Output") -> tuple[Tensor, Tensor]:
        """Return the student's feature at the code's size, and the teacher's code."""
        (tap,) = self.taps
        with torch.no_grad():
            code = self.autoencoder.encoder(raised(teacher.tap(tap)))
        return upsample(raised(student.tap(tap)), code.shape[-2:]), code

    def compared(self, student: "Output", teacher: "Output") -> tuple[Tensor, Tensor] | None:
        if self.feature_adapter is None:
            return None
        s, code = self._inputs(student, teacher)
        return self.feature_adapter(s), code

    def losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        s, code = self._inputs(student, teacher)
        values = {}
        if self.feature_adapter is not None:
            values["adapt"] = adaptation(self.feature_adapter(s), code, self.p, self.q, self.flat)
        if self.affinity_adapter is not None:
            values["aff"] = affinity_gap(self.affinity_adapter(s), code, self.affinity)
        return values


def reconstruction(feature: Tensor, code: Tensor, rebuilt: Tensor, alpha: float) -> dict[str, Tensor]:
    """Return the parts of equation 1: the mean squared error, and ``alpha`` times the code's L1 norm per image."""
    return {"reconstruction": F.mse_loss(rebuilt, feature), "sparsity": alpha * code.abs().sum() / len(code)}


def adaptation(student: Tensor, code: Tensor, p: int, q: int, flat: bool = False) -> Tensor:
    """Return equation 2 for adapted features ``(B, C, H, W)`` and codes of the same shape; a zero vector stays 0."""
    dims = (1, 2, 3) if flat else (1,)
    s, t = (unit(x, dims) if q == 2 else x / x.abs().sum(dims, keepdim=True).clamp_min(EPS) for x in (student, code))
    gap = s - t
    if flat:
        return gap.abs().mean()
    if p == 1:
        return gap.abs().sum(1).mean()
    return _root(gap.square().sum(1)).mean()


def affinity_gap(student: Tensor, code: Tensor, form: str) -> Tensor:
    """Return equations 3 to 5 for features ``(B, C, H, W)``, channels free: ``form`` is rows, fro or mse."""
    s, t = (unit(x.flatten(2), 1) for x in (student, code))
    positions = s.shape[2]
    if form == "rows":
        return _root(gram_rows(s, t)).sum(1).mean() / positions
    gap = gram_gap(s, t)
    return gap.mean() / positions**2 if form == "mse" else _root(gap).mean() / positions


def _root(x: Tensor) -> Tensor:
    return x.clamp_min(EPS * EPS).sqrt()
