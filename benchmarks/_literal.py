"""The losses written out as their papers and published codes state them: what `losses` measures kdc's forms against.

Plain torch, one line for one equation: the logarithm of a ratio of softmaxes, N x N matrices, full-size maps.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kdc.distill.batch import IGNORE, Batch
from kdc.distill.losses import labels_at


@dataclass
class Scene:
    """What both forms of a loss are given."""

    #: what the student and the teacher return, by tap; ``(B, C, h, w)``
    student: dict[str, Tensor]
    teacher: dict[str, Tensor]
    batch: Batch
    classes: int
    #: kdc's method, for the networks that it brings along
    method: Any

    def pair(self, tap: str) -> tuple[Tensor, Tensor]:
        return self.student[tap], self.teacher[tap]


def kl(student: Tensor, teacher: Tensor, dim: int, T: float) -> Tensor:
    p_s, p_t = (F.softmax(x / T, dim) for x in (student, teacher))
    return T * T * (p_t * (p_t / p_s).log()).sum()


def channel_kl(student: Tensor, teacher: Tensor, T: float = 4.0) -> Tensor:
    return kl(student.flatten(2), teacher.flatten(2), 2, T) / (student.shape[0] * student.shape[1])


def unit(x: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    return x / torch.linalg.vector_norm(x, dim=dims, keepdim=True)


def squared_gap(student: Tensor, teacher: Tensor) -> Tensor:
    return ((student - teacher) ** 2).mean()


def cross_entropy(scene: Scene) -> Tensor:
    size = scene.batch.labels.shape[1:]
    full = F.interpolate(scene.student["logits"], size, mode="bilinear", align_corners=True)
    return F.cross_entropy(full, scene.batch.labels, ignore_index=IGNORE)


def kd(scene: Scene) -> Tensor:
    s, t = scene.pair("logits")
    return kl(s, t, 1, 1.0) / (s.numel() / s.shape[1])


def cwd_logits(scene: Scene) -> Tensor:
    return channel_kl(*scene.pair("logits"))


def cwd_feature(scene: Scene) -> Tensor:
    return channel_kl(*scene.pair("dec"))


def kt_lt(scene: Scene) -> Tensor:
    """At the resolution of the labels."""
    S, R = (F.interpolate(x, scene.batch.labels.shape[1:], mode="nearest") for x in scene.pair("logits"))
    M = torch.stack([scene.batch.labels == c for c in range(scene.classes)], 1).to(S.dtype)
    (P_S, Q_S), (P_R, Q_R) = _tailored(S, M), _tailored(R, M)
    return channel_kl(S, P_R + Q_R) + channel_kl(P_S, P_R) + channel_kl(Q_S, Q_R)


def _tailored(x: Tensor, M: Tensor) -> tuple[Tensor, Tensor]:
    """Write plane by plane into the maps, as published; the gradient of each write copies the whole map's."""
    P, Q = x * M, x * (1 - M)
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            positive = P[b, c][P[b, c] > 0]
            if len(positive):
                mean = positive.mean()
                P[b, c][P[b, c] < mean] = mean
            mean = Q[b, c].mean()
            Q[b, c][Q[b, c] > mean] = mean
    return P * M, Q * (1 - M)


def kt_features(scene: Scene) -> Tensor:
    """The sum of ft and tri, image by image, with kdc's tailors."""
    (s, t), method = scene.pair("dec"), scene.method
    first = scene.batch.step + 1 < method.tuning_point
    source, other, tailor = (s, t, method.student_tailor) if first else (t, s, method.teacher_tailor)
    mixed: tuple[list[Tensor], list[Tensor]] = [], []
    for x, y in zip(source.flatten(2), other.flatten(2)):
        R = unit(y, 1) @ unit(x, 1).t()
        mixed[0].append(R @ x)
        mixed[1].append((1 - R) @ x)
    high, low = (tailor(torch.stack(maps).unflatten(2, source.shape[2:])) for maps in mixed)
    ft = channel_kl(high, t) if first else channel_kl(s, high.detach())
    anchor = method.widen(s) if first else s
    near, far = (((anchor - x + 1e-7) ** 2).sum(-1).sqrt() for x in (high, low))
    return ft + F.relu(near - far + 1).mean()


def angular(scene: Scene, dims: tuple[int, ...]) -> Tensor:
    s, t = (unit(x, dims) for x in scene.pair("bb"))
    return ((s - t) ** 2).sum(dims).mean()


def naive(scene: Scene) -> Tensor:
    return squared_gap(*scene.pair("bb"))


def md(scene: Scene) -> Tensor:
    s, t = (torch.linalg.vector_norm(x, dim=(1, 2, 3)) for x in scene.pair("bb"))
    return squared_gap(s, t) / scene.student["bb"][0].numel()


def attention(x: Tensor) -> Tensor:
    return unit((x**2).mean(1).flatten(1), 1)


def at(scene: Scene) -> Tensor:
    return squared_gap(*(attention(x) for x in scene.pair("bb")))


def skd_pair(scene: Scene) -> Tensor:
    """Windows of 2 x 2, the gradient goes through the norm."""
    s, t = (unit(F.max_pool2d(x, 2, 2, ceil_mode=True).flatten(2), 1) for x in scene.pair("dec"))
    return squared_gap(s.mT @ s, t.mT @ t)


def pixel_pair_pa(scene: Scene) -> Tensor:
    """Windows of half the map, the norm is a constant."""
    graphs = []
    for x in scene.pair("aspp_pre"):
        window = [max(1, side // 2) for side in x.shape[2:]]
        nodes = F.max_pool2d(x, window, window, ceil_mode=True).flatten(2)
        nodes = nodes / (torch.linalg.vector_norm(nodes, dim=1, keepdim=True).detach() + 1e-8)
        graphs.append(nodes.mT @ nodes)
    return squared_gap(*graphs)


def pixel_pair_pi(scene: Scene) -> Tensor:
    return squared_gap(*(unit((x**2).mean(1), 1) for x in scene.pair("dec_pre")))


def ifvd(scene: Scene) -> Tensor:
    """The map of centres, class by class, each with a mask of the feature's shape, as published."""
    gaps = []
    for x in scene.pair("dec"):
        labels = labels_at(scene.batch.labels, x.shape[2:]).unsqueeze(1).expand_as(x)
        centre = x
        for c in range(scene.classes):
            mask = (labels == c).to(x.dtype)
            mean = (x * mask).sum((2, 3), keepdim=True) / (mask.sum((2, 3), keepdim=True) + 1e-6)
            centre = centre * (1 - mask) + mean * mask
        gaps.append(F.cosine_similarity(x, centre, dim=1, eps=1e-8))
    return squared_gap(*gaps)


def cirkd_mini_batch(scene: Scene) -> Tensor:
    s, t = (unit(x.flatten(2), 1) for x in scene.pair("dec"))
    images, _, positions = s.shape
    total = s.new_zeros(())
    for i in range(images):
        for j in range(images):
            total = total + kl(s[i].t() @ s[j] / 0.1, t[i].t() @ t[j] / 0.1, 1, 1.0) / positions
    return total / images**2


def cirkd_memory(scene: Scene) -> Tensor:
    """Against the pixels of the memory."""
    s, t = scene.pair("dec")
    keys = scene.method.keys(scene.batch.step)["mp"]
    keep = labels_at(scene.batch.labels, s.shape[2:]) != IGNORE
    x_s, x_t = (unit(x, 1).movedim(1, -1)[keep] @ keys.t() / 0.1 for x in (s, t))
    return kl(x_s, x_t, 1, 1.0) / len(x_s)


def dsd_psd(scene: Scene) -> Tensor:
    sides = []
    for maps in (scene.student, scene.teacher):
        a = [attention(maps[tap]) for tap in ("aux", "dec", "logits")]
        sides.append([unit(a[m] - a[n], 1) for m, n in ((1, 0), (2, 0), (2, 1))])
    return torch.stack([squared_gap(s, t) for s, t in zip(*sides)]).mean()


def dsd_csd(scene: Scene) -> Tensor:
    p_s, p_t = (F.softmax(F.avg_pool2d(x, 2, ceil_mode=True).flatten(2) / 4, 2) for x in scene.pair("logits"))
    return squared_gap(p_s @ p_s.mT, p_t @ p_t.mT)


def dist(scene: Scene) -> Tensor:
    rows = [F.softmax(x, 1).movedim(1, -1).flatten(0, 2) for x in scene.pair("logits")]
    return (1 - _pearson(*rows).mean()) + (1 - _pearson(*(x.t() for x in rows)).mean())


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)


def mgd(scene: Scene) -> Tensor:
    """With kdc's networks and the positions that it drops."""
    (s, t), method = scene.pair("dec"), scene.method
    x = method.align(s)
    keep = (method.drawn(scene.batch, x) <= 1 - method.mask).to(x.dtype)
    return ((method.generator(x * keep) - t) ** 2).sum() / len(t)


def ka_affinity(scene: Scene) -> Tensor:
    s, t = (unit(x.flatten(2), 1) for x in scene.pair("dec"))
    gap = (s.mT @ s - t.mT @ t) / s.shape[2]
    return (gap**2).sum(2).sqrt().sum(1).mean()


def ka_adapt(scene: Scene) -> Tensor:
    s, t = (unit(x, 1) for x in scene.pair("dec"))
    return torch.linalg.vector_norm(s - t, dim=1).mean()
