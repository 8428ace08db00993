"""Knowledge Tailoring (Pattern Recognition vol. 172, art. 112399; seok-hwa/KT train_KT.py, losses/KT.py)."""

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..batch import Batch
from ..errors import UsageError
from ..losses import channel_kl, raised, unit
from . import Method, Sizes, choose
from ._adapters import Adapter, Tailor
from ._cells import logit_tailoring
from .kd import temperature

if TYPE_CHECKING:
    from ..output import Output

_AXES = ("w", "channel", "flat")


class Kt(Method):
    """Knowledge Tailoring: channel-wise distillation, tailored logits, tailored features and a triplet.

    channel_kl(s, t) = T^2 / (B C) * sum_{b,c} sum_n q_t log(q_t / q_s), q = softmax over positions of x / T.
    kd  = channel_kl(z_s, z_t) + aux_weight * channel_kl(aux_s, aux_t), the second part where both have an aux head.
    lt  = channel_kl(S, P_R + Q_R) + channel_kl(P_S, P_R) + channel_kl(Q_S, Q_R) at crop resolution, S and R the
          nearest-upsampled logits; P: class pixels raised to the mean of their positive logits; Q: the others lowered
          to their mean over all pixels. Evaluated exactly on the low-resolution cells.
    ft, tri on `dec`, R = cosines between the channel maps of the two sides:
      phase A, iteration < tuning_point: high = R S, low = (1 - R) S, H = g_st(high), L = g_st(low);
          ft = channel_kl(H, f_t); tri = triplet(W S, H, L).
      phase B, from tuning_point on: high = R' T, low = (1 - R') T, H = g_tc(high), L = g_tc(low);
          ft = channel_kl(f_s, H detached); tri = triplet(f_s, H, L).
    g and W are random and fixed, as published (tailor.train=true trains them). tuning_point: a fraction of all
    iterations, or a whole number of iterations, counted from 1. triplet.axis=w|channel|flat is the axis its distance
    runs over (published: w), triplet.margin its margin; triplet.detach=true holds H and L constant in it.
    """

    taps = ("logits", "aux", "dec")
    weights: ClassVar[dict[str, float]] = {"kd": 1.0, "lt": 1.0, "ft": 1.0, "tri": 1.0}
    paper = "Knowledge Tailoring (Pattern Recognition, vol. 172, art. 112399)"
    differences = (
        "The published tailors and 1x1 convolution are in no optimiser and differ from rank to rank: they stay random. "
        "kdc keeps them fixed, drawn from the run's seed, equal on all ranks and in the checkpoint; tailor.train=true "
        "trains them.",
        "The published kd is a softmax over space at T=4, as channel-wise distillation, and its auxiliary part carries "
        "0.4 times the squared weight of kd; kdc uses 0.4 times the weight (aux_weight), the same at weight 1.",
        "The published lt takes positive logits alone for the mean of a class, all pixels for the mean of the others, "
        "and counts ignored pixels as others of every class; kdc does the same.",
        "The published triplet distance runs over the width alone, and its targets are not constant; kdc does the "
        "same: triplet.axis=channel or flat, triplet.detach=true.",
        "The published sides change at iteration 10000 of 40000, counted from 1; kdc counts so too but changes at a "
        "quarter of any run: tuning_point takes a fraction or an iteration.",
        "Published runs use weight decay 5e-4 where the baselines they are compared with use 1e-4: --preset kt sets "
        "it.",
    )

    def __init__(
        self,
        sizes: Sizes,
        *,
        terms: Collection[str] | None = None,
        T: float | str = 4.0,
        aux_weight: float = 0.4,
        tuning_point: float | int = 0.25,
        tailor_train: bool = False,
        triplet_axis: str = "w",
        triplet_detach: bool = False,
        triplet_margin: float = 1.0,
    ) -> None:
        super().__init__(sizes, terms=terms)
        on = set(self.terms)
        self.T = temperature(T)
        self.aux_weight = aux_weight if "kd" in on and "aux" in sizes.student and "aux" in sizes.teacher else 0.0
        self.tuning_point = _iteration(tuning_point, sizes.iters)
        self.axis = choose("kt.triplet.axis", triplet_axis, _AXES)
        self.detach = triplet_detach
        self.margin = triplet_margin
        read = {"logits": on & {"kd", "lt"}, "aux": self.aux_weight, "dec": on & {"ft", "tri"}}
        self.need(*(tap for tap, needed in read.items() if needed))
        if "dec" in self.taps:
            mine, its = sizes.student["dec"], sizes.teacher["dec"]
            self.student_tailor = Tailor(its.channels, self.rng("student_tailor")).requires_grad_(tailor_train)
            self.teacher_tailor = Tailor(mine.channels, self.rng("teacher_tailor")).requires_grad_(tailor_train)
            self.widen = Adapter(mine, its, self.rng("widen"), "conv").requires_grad_(tailor_train)

    def notes(self) -> list[str]:
        if "dec" not in self.taps:
            return []
        if math.ceil(self.tuning_point) > self.sizes.iters:
            return []
        return [f"feature tailoring changes sides at iteration {math.ceil(self.tuning_point)} of {self.sizes.iters}"]

    def warnings(self) -> list[str]:
        if "dec" not in self.taps or math.ceil(self.tuning_point) <= self.sizes.iters:
            return []
        return [
            f"feature tailoring never changes sides: tuning_point {math.ceil(self.tuning_point)} is beyond the last "
            f"iteration, {self.sizes.iters}; a fraction fits any run: --set method.kt.tuning_point=0.25"
        ]

    def phase_at(self, step: int) -> str | None:
        return None if "dec" not in self.taps else "A" if self._first(step) else "B"

    def idle_parameters(self, step: int) -> list[nn.Parameter]:
        if "dec" not in self.taps:
            return []
        first, tri = self._first(step), "tri" in self.terms
        # H reaches ft in phase A alone; W stands before the triplet of phase A
        tailored = (tri and not self.detach) or (first and "ft" in self.terms)
        read = [self.student_tailor if first else self.teacher_tailor] if tailored else []
        read += [self.widen] if first and tri else []
        used = {id(parameter) for module in read for parameter in module.parameters()}
        every = [p for module in (self.student_tailor, self.teacher_tailor, self.widen) for p in module.parameters()]
        return [p for p in every if p.requires_grad and id(p) not in used]

    def _first(self, step: int) -> bool:
        """Tell whether ``step``, counted from 0, is in phase A."""
        return step + 1 < self.tuning_point

    def losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        T = self.T(batch.step)
        values = {}
        if "kd" in self.terms:
            values["kd"] = channel_kl(*self.pair(student, teacher, "logits"), T)
            if self.aux_weight:
                values["kd"] = values["kd"] + self.aux_weight * channel_kl(*self.pair(student, teacher, "aux"), T)
        if "lt" in self.terms:
            values["lt"] = logit_tailoring(raised(student.logits), raised(teacher.logits).detach(), batch.labels, T)
        if "dec" in self.taps:
            values |= self._features(*self.pair(student, teacher, "dec"), T, batch.step)
        return values

    def _features(self, s: Tensor, t: Tensor, T: float, step: int) -> dict[str, Tensor]:
        """Return the terms of the feature that are on, in the phase of ``step``."""
        first = self._first(step)
        tailor = self.student_tailor if first else self.teacher_tailor
        values = {}
        with torch.set_grad_enabled(torch.is_grad_enabled() and (first or "tri" in self.terms)):
            high, low = _mixed(s, t) if first else _mixed(t, s)
            H = tailor(high)
        if "ft" in self.terms:
            values["ft"] = channel_kl(H, t, T) if first else channel_kl(s, H.detach(), T)
        if "tri" in self.terms:
            L = tailor(low)
            values["tri"] = self._triplet(self.widen(s) if first else s, H, L)
        # every trained tailor is part of every step's graph: DDP waits for each one's gradient
        if idle := [parameter.sum() for parameter in self.idle_parameters(step)]:
            term = next(iter(values))
            values[term] = values[term] + 0.0 * torch.stack(idle).sum()
        return values

    def _triplet(self, anchor: Tensor, high: Tensor, low: Tensor) -> Tensor:
        if self.detach:
            high, low = high.detach(), low.detach()
        if self.axis == "channel":
            anchor, high, low = (x.movedim(1, -1) for x in (anchor, high, low))
        elif self.axis == "flat":
            anchor, high, low = (x.flatten(1) for x in (anchor, high, low))
        return F.triplet_margin_loss(anchor, high, low, margin=self.margin, p=2, eps=1e-7)


def _mixed(source: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Mix the source's channels by likeness to the other's, and by unlikeness: both ``(B, C of other, H, W)``."""
    x, y = source.flatten(2), other.flatten(2)
    likeness = torch.bmm(unit(y, 2), unit(x, 2).transpose(1, 2))
    high = torch.bmm(likeness, x)
    # (1 - R) x without a second product: all ones times x is the sum over channels
    low = x.sum(1, keepdim=True) - high
    return high.unflatten(2, source.shape[2:]), low.unflatten(2, source.shape[2:])


def _iteration(point: float | int, iters: int) -> float:
    """Turn a fraction of the run into an iteration; whole numbers are iterations already."""
    if (
        isinstance(point, bool)
        or not isinstance(point, (int, float))
        or point < 0
        or (point > 1 and point != int(point))
    ):
        raise UsageError(
            f"kt.tuning_point={point!r}: a fraction (at most 1.0) or a whole number of iterations is needed"
        )
    return point * iters if isinstance(point, float) and point <= 1 else point
