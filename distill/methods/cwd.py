"""Channel-wise distillation (Shu et al., ICCV 2021; TorchDistiller, CIRKD losses/cwd.py)."""

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ..batch import Batch
from ..losses import channel_kl
from . import Method, Sizes, choose
from ._adapters import Adapter
from .kd import temperature

if TYPE_CHECKING:
    from ..output import Output


class Cwd(Method):
    """Channel-wise distillation of logits and of a feature.

    logits, feature = T^2 / (B C) * sum_{b,c} sum_n q_t log(q_t / q_s),  q = softmax over the positions of x / T, on the
    logits and on the feature tap `at`. Where the channels differ a trained 1x1 adapter brings the student's feature to
    the teacher's C (adapter=conv, or conv-bn-relu); the feature term is divided by the teacher's C (divide=teacher), or
    by the student's, as CIRKD does (divide=student).
    """

    taps = ("logits", "dec")
    weights: ClassVar[dict[str, float]] = {"logits": 3.0, "feature": 50.0}
    paper = "Shu et al., Channel-wise Knowledge Distillation for Dense Prediction (ICCV 2021)"
    differences = (
        "CIRKD divides the feature term by the student's channels, C_t / C_s times the paper's: divide=student.",
        "CIRKD adapts the feature by a bare 1x1 convolution, the authors' TorchDistiller by convolution, BN and ReLU: "
        "adapter=conv-bn-relu.",
        "TorchDistiller's own default is T=1, its documented command T=4.",
        "The feature weight 50 comes from CIRKD's script; the authors' code publishes runs on the logits alone "
        "(--preset cwd-original).",
        "The published norms over pixels or channel means, and the squared error, are not offered.",
    )

    def __init__(
        self,
        sizes: Sizes,
        *,
        terms: Collection[str] | None = None,
        T: float | str = 4.0,
        at: str = "dec",
        adapter: str = "conv",
        divide: str = "teacher",
    ) -> None:
        super().__init__(sizes, terms=terms)
        self.need(*(tap for term, tap in (("logits", "logits"), ("feature", at)) if term in self.terms))
        self.T = temperature(T)
        self.at = at
        choose("cwd.adapter", adapter, Adapter.KINDS)
        choose("cwd.divide", divide, ("teacher", "student"))
        self.adapter, self.factor = None, 1.0
        if "feature" in self.terms and sizes.student[at].channels != sizes.teacher[at].channels:
            mine, its = sizes.student[at], sizes.teacher[at]
            self.adapter = Adapter(mine, its, self.rng("adapter"), adapter)
            self.factor = its.channels / mine.channels if divide == "student" else 1.0

    def compared(self, student: "Output", teacher: "Output") -> tuple[Tensor, Tensor] | None:
        if "feature" not in self.terms:
            return None
        s, t = self.pair(student, teacher, self.at)
        return (self.adapter(s) if self.adapter else s), t

    def losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        T = self.T(batch.step)
        values = {}
        if "logits" in self.terms:
            values["logits"] = channel_kl(*self.pair(student, teacher, "logits"), T)
        if pair := self.compared(student, teacher):
            values["feature"] = self.factor * channel_kl(*pair, T)
        return values
