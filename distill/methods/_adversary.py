"""The discriminator that tells teacher from student logits, and its losses, shared by skd and adv.

Liu et al., Structured Knowledge Distillation for Semantic Segmentation (CVPR 2019), section 3.2; SKD sagan_models.py.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..batch import Batch
from ..errors import UsageError
from ..losses import unit, upsample
from . import Critic, Method, Sizes, choose
from ._adapters import conv1x1, drawn
from ._method import name_of

if TYPE_CHECKING:
    from ..output import Output

LOSSES = ("hinge", "wgan-gp")
NORMS = ("bn", "tanh")
#: the discriminator halves four times and ends with a 4x4 convolution without padding
SMALLEST = 64
#: the differences that all of its methods share
DIFFERENCES = (
    "SKD's SGD also decays the discriminator's weights; kdc's does not.",
    "The paper's discriminator also sees the image; the published code's and kdc's sees the logits alone.",
    "A side of the logits under 64 is too small for the discriminator: kdc enlarges the logits, bilinear.",
    "The published spectral norm takes a step of its power iteration in the student's pass too; in kdc the critic's "
    "passes alone keep theirs.",
    "On several GPUs the gradient penalty normalises by each device's batch: a synchronised batch norm cannot be "
    "differentiated twice.",
)


class Adversarial(Method):
    """What methods share that train a discriminator against the student's logits, for their term ``adv``.

    Without that term no discriminator is built.
    """

    def __init__(
        self,
        sizes: Sizes,
        terms: Collection[str] | None,
        *,
        loss: str,
        weight: float,
        optimizer: str,
        lr: float,
        decay: bool,
        gp: float,
        norm: str = "bn",
    ) -> None:
        super().__init__(sizes, terms=terms)
        name = name_of(type(self))
        if weight <= 0:
            raise UsageError(f"{name}.critic_weight={weight}: must be above 0; weight adv=0 switches the term off")
        self.loss, self.critic_weight, self.gp = loss, weight, gp
        self.optimizer = choose(f"{name}.critic_optimizer", optimizer, ("adam", "sgd"))
        self.lr, self.decay = lr, decay
        on = "adv" in self.terms
        self.discriminator = Discriminator(sizes.num_classes, self.rng("discriminator"), norm) if on else None

    def adversarial(self, student: "Output", teacher: "Output") -> Tensor:
        """Return the student's term: minus the mean score of its logits. The discriminator does not feel it."""
        critic = cast(Discriminator, self.discriminator)
        # buffers as copies: losses change no state; the critic's own pass takes the power iteration's step
        state = {name: x.detach() for name, x in critic.named_parameters()}
        state |= {name: x.clone() for name, x in critic.named_buffers()}
        scores: Tensor = functional_call(critic, state, (_enlarged(self.pair(student, teacher, "logits")[0]),))
        return -scores.mean()

    def critics(self) -> dict[str, Critic]:
        if self.discriminator is None:
            return {}
        return {"discriminator": Critic(self.discriminator, self.lr, self.optimizer, decay=self.decay)}

    def critic_losses(self, student: "Output", teacher: "Output", batch: Batch) -> dict[str, Tensor]:
        critic = self.discriminator
        if critic is None:
            return {}
        s, t = (_enlarged(x.detach()) for x in self.pair(student, teacher, "logits"))
        real, fake = critic(t), critic(s)
        if self.loss == "hinge":
            value = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        else:
            alpha = torch.rand(len(s), 1, 1, 1, generator=self.draw("alpha", batch))
            between = torch.lerp(s, t, alpha.to(s.device, s.dtype, non_blocking=True))
            value = fake.mean() - real.mean() + self.gp * gradient_penalty(critic, between)
        return {"discriminator": self.critic_weight * value}


def gradient_penalty(critic: "Discriminator", between: Tensor) -> Tensor:
    """Return the mean over images of ``(||gradient of the scores|| - 1)^2`` at maps ``(B, K, H, W)``."""
    between = between.detach().requires_grad_()
    (grad,) = torch.autograd.grad(critic(between, local=True).sum(), between, create_graph=True)
    norm = grad.square().sum((1, 2, 3)).clamp_min(1e-24).sqrt()
    return (norm - 1).square().mean()


class Discriminator(nn.Module):
    """Score logits ``(B, K, H, W)``, sides of at least 64, patch by patch: ``(B, 1, H // 16 - 3, W // 16 - 3)``.

    Input norm (bn, or tanh without parameters), 4x4 convolutions of stride 2 with spectral norm and LeakyReLU 0.1
    K -> 64 -> 128 -> 256 -> 512, self-attention behind the last two, and a plain 4x4 convolution to one score.
    """

    def __init__(self, classes: int, rng: torch.Generator, norm: str = "bn") -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(classes) if norm == "bn" else nn.Tanh()
        self.layers = nn.Sequential(
            *_halving(classes, 64, rng),
            *_halving(64, 128, rng),
            *_halving(128, 256, rng),
            SelfAttention(256, rng),
            *_halving(256, 512, rng),
            SelfAttention(512, rng),
            drawn(nn.Conv2d, 512, 1, 4, rng),
        )
        self.shape = f"{classes} -> 64 -> 128 -> 256 -> 512 -> 1 (4x4, spectral norm, 2 self-attentions)"

    def forward(self, logits: Tensor, local: bool = False) -> Tensor:
        """Return the scores; ``local`` normalises by this device's batch, for gradients of gradients.

        A batch norm that is synchronised over devices cannot be differentiated twice.
        """
        norm = self.norm
        if local and isinstance(norm, nn.modules.batchnorm._BatchNorm):
            mean, var = norm.running_mean, norm.running_var
            return self.layers(F.batch_norm(logits, mean, var, norm.weight, norm.bias, norm.training, eps=norm.eps))
        return self.layers(norm(logits))


class SpectralConv(nn.Module):
    """A 4x4 convolution of stride 2, its weight divided by its largest singular value.

    The value is ``u' W v``: in train mode u and v take one step of the power iteration at each pass, as constants.
    """

    u: Tensor
    v: Tensor

    def __init__(self, c_in: int, c_out: int, rng: torch.Generator) -> None:
        super().__init__()
        self.conv = drawn(nn.Conv2d, c_in, c_out, 4, rng)
        self.register_buffer("u", unit(torch.randn(c_out, generator=rng), 0))
        self.register_buffer("v", unit(torch.randn(c_in * 16, generator=rng), 0))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight.flatten(1)
        u, v = self.u, self.v
        if self.training:
            with torch.no_grad():  # new tensors: earlier passes of the same graph keep theirs
                v = unit(weight.T @ u, 0)
                u = unit(weight @ v, 0)
                self.u.copy_(u)
                self.v.copy_(v)
        sigma = u @ (weight @ v)
        return F.conv2d(x, self.conv.weight / sigma, self.conv.bias, stride=2, padding=1)


class SelfAttention(nn.Module):
    """``gamma * attention(x) + x`` over positions, queries and keys an eighth as wide; gamma starts at 0 (SAGAN)."""

    def __init__(self, channels: int, rng: torch.Generator) -> None:
        super().__init__()
        self.query = conv1x1(channels, channels // 8, rng)
        self.key = conv1x1(channels, channels // 8, rng)
        self.value = conv1x1(channels, channels, rng)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (conv(x).flatten(2) for conv in (self.query, self.key, self.value))
        attention = torch.softmax(q.transpose(1, 2) @ k, 2)
        return self.gamma * (v @ attention.transpose(1, 2)).view_as(x) + x


def _halving(c_in: int, c_out: int, rng: torch.Generator) -> tuple[nn.Module, nn.Module]:
    return SpectralConv(c_in, c_out, rng), nn.LeakyReLU(0.1)


def _enlarged(logits: Tensor) -> Tensor:
    """Resize a map with a side under 64, such as that of a small crop, to at least 64."""
    height, width = logits.shape[-2:]
    return upsample(logits, (max(height, SMALLEST), max(width, SMALLEST)))
