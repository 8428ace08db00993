"""Time and peak memory of each loss, forward and backward, beside its formula written out. ``--help`` for options."""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's chatter; read when torch is imported
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from kdc.distill import console
from kdc.distill.losses import channel_kl, cross_entropy_sum, pixel_kl
from kdc.distill.methods._angular import angular
from kdc.distill.methods._cells import logit_tailoring

Loss = Callable[[Tensor], Tensor]


@dataclass
class Case:
    """One loss at one size: both forms take the student's tensor ``shape``."""

    name: str
    shape: tuple[int, ...]
    ours: Loss
    literal: Loss


def literal_kl(student: Tensor, teacher: Tensor, dim: int, T: float, scale: float) -> Tensor:
    p_s, p_t = F.softmax(student / T, dim), F.softmax(teacher / T, dim)
    return (p_t * (p_t.log() - p_s.log())).sum() * T * T * scale


def literal_angular(student: Tensor, teacher: Tensor, dims: tuple[int, ...]) -> Tensor:
    u_s, u_t = (x / (x * x).sum(dims, keepdim=True).sqrt() for x in (student, teacher))
    return ((u_s - u_t) ** 2).sum(dims).mean()


def literal_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    full = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=True)
    return F.cross_entropy(full, labels, ignore_index=255)


def literal_logit_tailoring(student: Tensor, teacher: Tensor, labels: Tensor, T: float = 4.0) -> Tensor:
    """Tailor as the paper says: at the labels' resolution, image by image, class by class, not in place."""
    full = [F.interpolate(x, labels.shape[1:], mode="nearest") for x in (student, teacher)]
    total = student.new_zeros(())
    for b in range(len(student)):
        for c in range(student.shape[1]):
            mask = (labels[b] == c).to(student.dtype)
            sides = []
            for x in full:
                inside, outside = x[b, c] * mask, x[b, c] * (1 - mask)
                positive = inside[inside > 0]
                if len(positive):
                    inside = torch.maximum(inside, positive.mean()) * mask
                outside = torch.minimum(outside, outside.mean()) * (1 - mask)
                sides.append((inside, outside))
            (p_s, q_s), (p_t, q_t) = sides
            for mine, target in ((full[0][b, c], p_t + q_t), (p_s, p_t), (q_s, q_t)):
                total = total + literal_kl(
                    mine.flatten(), target.flatten(), 0, T, 1 / (student.shape[0] * student.shape[1])
                )
    return total


def cases(full: bool) -> list[Case]:
    """Return the cases; ``full`` adds logit tailoring at 512x1024, whose literal form takes many seconds."""
    rng = torch.Generator().manual_seed(0)
    found = []

    def teacher(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    def labels(images: int, classes: int, height: int, width: int) -> Tensor:
        """Draw labels in blocks of 32 pixels, as objects are, a tenth of them ignored."""
        blocks = torch.randint(0, classes, (images, -(-height // 32), -(-width // 32)), generator=rng)
        blocks[torch.rand(blocks.shape, generator=rng) < 0.1] = 255
        return blocks.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, :height, :width].contiguous()

    sizes = [(2, 19, (16, 32), (128, 256)), (2, 11, (45, 60), (360, 480))] + [(2, 19, (64, 128), (512, 1024))] * full
    for b, k, small, crop in sizes:
        t, y = teacher(b, k, *small), labels(b, k, *crop)
        name = f"kt.lt  B{b} K{k} {small[0]}x{small[1]} -> {crop[0]}x{crop[1]}"
        found.append(
            Case(
                name,
                (b, k, *small),
                lambda s, t=t, y=y: logit_tailoring(s, t, y),
                lambda s, t=t, y=y: literal_logit_tailoring(s, t, y),
            )
        )
    for b, k, h, w in [(4, 19, 64, 128), (4, 150, 64, 64)]:
        t = teacher(b, k, h, w)
        found.append(
            Case(
                f"kd  B{b} K{k} {h}x{w}",
                (b, k, h, w),
                lambda s, t=t: pixel_kl(s, t, 1.0),
                lambda s, t=t, n=b * h * w: literal_kl(s, t, 1, 1.0, 1 / n),
            )
        )
    for what, b, c, h, w in [("logits", 4, 19, 64, 128), ("feature", 2, 256, 64, 128)]:
        t = teacher(b, c, h, w)
        found.append(
            Case(
                f"cwd.{what}  B{b} C{c} {h}x{w}",
                (b, c, h, w),
                lambda s, t=t: channel_kl(s, t, 4.0),
                lambda s, t=t, n=b * c: literal_kl(s.flatten(2), t.flatten(2), 2, 4.0, 1 / n),
            )
        )
    for name, dims in [("lad", (1, 2, 3)), ("cad", (2, 3)), ("pad", (1,))]:
        t = teacher(2, 512, 64, 128)
        found.append(
            Case(
                f"{name}  B2 C512 64x128",
                (2, 512, 64, 128),
                lambda s, t=t, d=dims: angular(s, t, d),
                lambda s, t=t, d=dims: literal_angular(s, t, d),
            )
        )
    y = labels(4, 19, 512, 1024)
    found.append(
        Case(
            "cross-entropy  B4 K19 64x128 -> 512x1024",
            (4, 19, 64, 128),
            lambda s: cross_entropy_sum(s, y) / (y != 255).sum(),
            lambda s: literal_cross_entropy(s, y),
        )
    )
    return found


def run(loss: Loss, student: Tensor) -> tuple[float, float, Tensor]:
    """Return CPU seconds of one forward and backward pass, the value and the gradient."""
    student = student.detach().requires_grad_()
    start = time.process_time()
    value = loss(student)
    (grad,) = torch.autograd.grad(value, student)
    return time.process_time() - start, value.item(), grad


def peak(loss: Loss, student: Tensor) -> float:
    """Return the most memory held at once during a forward and backward pass beyond what was there before, MiB."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run(loss, student)
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events: list[Any] = profiler.profiler.kineto_results.events()
    held = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / 2**20


def measure(case: Case, repeats: int) -> dict[str, float | str]:
    """Run both forms in turn and compare them."""
    student = torch.randn(*case.shape, generator=torch.Generator().manual_seed(1))
    seconds: dict[str, list[float]] = {"ours": [], "literal": []}
    values, grads = {}, {}
    for i in range(repeats + 1):
        for form in seconds:
            spent, values[form], grads[form] = run(getattr(case, form), student)
            if i or repeats == 1:  # the first round warms up
                seconds[form].append(spent)
    ours, literal = (statistics.median(seconds[form]) for form in seconds)
    mib = {form: peak(getattr(case, form), student) for form in seconds}
    gap = (grads["ours"] - grads["literal"]).abs().max() / grads["literal"].abs().max()
    return {
        "case": case.name,
        "ms": ours * 1e3,
        "literal_ms": literal * 1e3,
        "speed_x": literal / ours,
        "mib": mib["ours"],
        "literal_mib": mib["literal"],
        "memory_x": mib["literal"] / mib["ours"],
        "value_gap": abs(values["ours"] - values["literal"]) / abs(values["literal"]),
        "grad_gap": gap.item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="also logit tailoring at 512x1024")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # CPU seconds of one thread: other work on the machine counts less
    rows = [measure(c, arguments.repeats) for c in cases(arguments.full) if arguments.only in c.name]
    console.table(
        f"losses, forward + backward, float32, 1 thread, torch {torch.__version__}",
        ["case", "kdc ms", "literal ms", "speed x", "kdc MiB", "literal MiB", "memory x", "value gap", "gradient gap"],
        [
            [str(r["case"]), *(f"{r[k]:.1f}" for k in list(r)[1:7]), f"{r['value_gap']:.0e}", f"{r['grad_gap']:.0e}"]
            for r in rows
        ],
    )
    console.emit({"threads": 1, "torch": torch.__version__, "losses": rows})


if __name__ == "__main__":
    main()
