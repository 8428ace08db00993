"""Time and peak memory of each loss, forward and backward, beside its formula written out. ``--help`` for options.

Both forms get the same random tensors, in float32, and must agree in value and gradient. Features are drawn behind the
adapters, which both forms share: C gives their channels, and 512 stands for bb, whose 2048 would take four times as
much in both forms. Networks that belong to the loss itself are in: kt's tailors, mgd's generator, adv's discriminator.
A form that several terms have is listed once: skd.pixel and cirkd.kd are kd's, kt.kd and label-assisted.logits are
cwd's, cirkd.mr is cirkd.mp's. Where the literal form of 4 images would not fit in memory, both forms get fewer.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's chatter; read when torch is imported
import _literal as literal
import torch
from _literal import Scene
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from kdc.distill import console
from kdc.distill.batch import IGNORE, Batch
from kdc.distill.losses import task_loss
from kdc.distill.methods import Sizes, load
from kdc.distill.output import Output, Tap

#: how many times faster and leaner than the literal form a loss must be on a CPU
TARGETS = {
    "cross-entropy": (1.0, 3.0),
    "kd.kd": (1.7, 2.8),
    "cwd.logits": (1.7, 2.8),
    "cwd.feature": (1.7, 2.8),
    "kt.lt": (50.0, 50.0),
    "lad.ad": (2.0, 2.0),
    "cad.ad": (2.0, 2.0),
    "pad.ad": (2.0, 2.0),
    "skd.pair": (3.0, 10.0),
    "ifvd.ifvd": (10.0, 15.0),
    "cirkd.mb": (1.5, 12.0),
    "cirkd.mp": (1.8, 8.0),
    "ka.aff": (15.0, 30.0),
}
#: share of the value, and of the largest gradient, by which the forms may differ in float64
EXACT = 1e-10
#: seconds from which a form runs once
SLOW = 5.0
STRIDE = 8
MIB = 2**20


@dataclass(frozen=True)
class Case:
    """One loss: a method and its terms, and the formula written out."""

    #: ``method.term+term``, or cross-entropy
    name: str
    #: channels of the student's and the teacher's tensor by tap; 0 stands for the classes
    taps: dict[str, tuple[int, int]]
    #: None where kdc's is the literal form
    literal: Callable[[Scene], Tensor] | None
    #: floats that the literal form holds at its peak, of B images, K classes, N positions and P pixels
    floats: Callable[[int, int, int, int], float] = lambda B, K, N, P: 0
    #: what the size does not tell, to be printed
    note: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    #: networks that both forms share
    without: tuple[str, ...] = ()
    #: of a run of 4 steps
    step: int = 0
    #: whether its size depends on the classes
    by_classes: bool = False
    #: as `EXACT`, in float32
    tolerance: float = 1e-3


LOGITS, DEC, WIDE, CODE, BB = (
    {tap: both}
    for tap, both in (
        ("logits", (0, 0)),
        ("dec", (128, 256)),
        ("dec", (256, 256)),
        ("dec", (128, 128)),
        ("bb", (512, 512)),
    )
)
ENCODER = "autoencoder.encoder"
CASES = (
    Case("cross-entropy", LOGITS, literal.cross_entropy, lambda B, K, N, P: 3.1 * B * K * P, by_classes=True),
    Case("kd.kd", LOGITS, literal.kd, lambda B, K, N, P: 7 * B * K * N, by_classes=True),
    Case("cwd.logits", LOGITS, literal.cwd_logits, lambda B, K, N, P: 7 * B * K * N, by_classes=True),
    Case("cwd.feature", WIDE, literal.cwd_feature, lambda B, K, N, P: 7 * B * 256 * N),
    # its literal form loses 4e-3 over half a million pixels
    Case("kt.lt", LOGITS, literal.kt_lt, lambda B, K, N, P: 21 * B * K * P, by_classes=True, tolerance=2e-2),
    Case("kt.ft+tri", DEC, literal.kt_features, lambda B, K, N, P: 8.1 * B * 256 * N, "phase A"),
    Case("kt.ft+tri", DEC, literal.kt_features, lambda B, K, N, P: 8.1 * B * 256 * N, "phase B", step=3),
    Case("naive.mse", BB, literal.naive, lambda B, K, N, P: 5 * B * 512 * N),
    Case("md.md", BB, literal.md, lambda B, K, N, P: 2 * B * 512 * N),
    Case("lad.ad", BB, partial(literal.angular, dims=(1, 2, 3)), lambda B, K, N, P: 5 * B * 512 * N),
    Case("cad.ad", BB, partial(literal.angular, dims=(2, 3)), lambda B, K, N, P: 5 * B * 512 * N),
    Case("pad.ad", BB, partial(literal.angular, dims=(1,)), lambda B, K, N, P: 5 * B * 512 * N),
    Case("at.att", BB, literal.at, lambda B, K, N, P: 4 * B * 512 * N, options={"at": "bb"}),
    Case("skd.pair", DEC, literal.skd_pair, lambda B, K, N, P: 5.3 * B * (N / 4) ** 2, "2x2", {"pool": "2x2"}),
    Case("ifvd.ifvd", DEC, literal.ifvd, lambda B, K, N, P: (2 * K + 13) * B * 128 * N, by_classes=True),
    Case(
        "dsd.psd",
        {"aux": (0, 0), **DEC, **LOGITS},
        literal.dsd_psd,
        lambda B, K, N, P: (3 * K + 512) * B * N,
        by_classes=True,
    ),
    Case("dsd.csd", LOGITS, literal.dsd_csd, lambda B, K, N, P: B * K * (2 * N + 4 * K), by_classes=True),
    Case("dist.dist", LOGITS, literal.dist, lambda B, K, N, P: 8 * B * K * N, by_classes=True),
    Case("cirkd.mb", DEC, literal.cirkd_mini_batch, lambda B, K, N, P: (3 * B * B + 4) * N * N + 768 * B * N),
    Case(
        "cirkd.mp",
        WIDE,
        literal.cirkd_memory,
        lambda B, K, N, P: 6.4 * B * N * 4104,
        "4104 keys",
        {"pixels": 216},  # a ring as long as one draw: the rest would only lie there
        ("projector",),
    ),
    Case("mgd.mgd", DEC, literal.mgd, lambda B, K, N, P: 7 * B * 256 * N, options={"at": "dec"}),
    Case("ka.adapt", CODE, literal.ka_adapt, lambda B, K, N, P: 5 * B * 128 * N, without=(ENCODER, "feature_adapter")),
    Case(
        "ka.aff", CODE, literal.ka_affinity, lambda B, K, N, P: 4.1 * B * N * N, without=(ENCODER, "affinity_adapter")
    ),
    # the gap of cosines that are all near 1
    Case(
        "pixel-pair.pa",
        {"aspp_pre": (256, 256)},
        literal.pixel_pair_pa,
        lambda B, K, N, P: B * 256 * N,
        tolerance=2e-2,
    ),
    Case("pixel-pair.pi", {"dec_pre": (256, 256)}, literal.pixel_pair_pi, lambda B, K, N, P: 4 * B * 256 * N),
    Case("adv.adv", LOGITS, None, by_classes=True),
)


@dataclass
class Contest:
    """A case at one size: what is said of it, its forms by name, and what they are differentiated by."""

    case: Case
    facts: dict[str, Any]
    forms: dict[str, Callable[[], Tensor]]
    inputs: list[Tensor]


@dataclass
class Pass:
    """What one forward and backward pass took and gave."""

    seconds: float
    value: float
    grads: tuple[Tensor, ...]
    mib: float = 0.0


def fitting(case: Case, most: int, classes: int, crop: tuple[int, int], gib: float) -> int:
    """Return how many images, at most ``most``, the literal form can take within ``gib``; 0 if not even one."""
    pixels = crop[0] * crop[1]
    images = range(most, 0, -1)
    return next((n for n in images if 4 * case.floats(n, classes, pixels // STRIDE**2, pixels) <= gib * 2**30), 0)


def labels_of(images: int, classes: int, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Draw labels in blocks of 32 pixels, as objects are, a tenth of them ignored."""
    blocks = torch.randint(0, classes, (images, *(-(-side // 32) for side in size)), generator=rng)
    blocks[torch.rand(blocks.shape, generator=rng) < 0.1] = IGNORE
    return blocks.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, : size[0], : size[1]].contiguous()


def contest(case: Case, most: int, classes: int, crop: tuple[int, int], gib: float, like: Tensor) -> Contest:
    """Draw a case's tensors, the same at every call, of the type and on the device of ``like``; build both forms."""
    rng = torch.Generator().manual_seed(0)
    fits = fitting(case, most, classes, crop, gib)
    images, (h, w) = fits or most, (side // STRIDE for side in crop)
    sides = [{tap: both[side] or classes for tap, both in case.taps.items()} for side in (0, 1)]
    teacher, student = (
        {tap: torch.randn(images, c, h, w, generator=rng) for tap, c in side.items()} for side in reversed(sides)
    )
    # not as large as the teacher's: md sees the difference of the norms alone
    student = {tap: x.mul_(0.7).to(like).requires_grad_() for tap, x in student.items()}
    teacher = {tap: x.to(like) for tap, x in teacher.items()}
    batch = Batch(like, labels_of(images, classes, crop, rng).to(like.device), case.step)
    s, t = (Output(x.get("logits", batch.images), x.get("aux"), x) for x in (student, teacher))
    inputs, method = list(student.values()), None
    if case.name == "cross-entropy":
        forms = {"kdc": lambda: task_loss(s, batch.labels)["ce"]}
    else:
        name, _, terms = case.name.partition(".")
        taps = ({tap: Tap(c, STRIDE) for tap, c in side.items()} for side in sides)
        method = load(name)(Sizes(classes, *taps, iters=4, seed=0), terms=terms.split("+"), **case.options)
        for network in case.without:
            method.set_submodule(network, nn.Identity())
        method = method.to(like)
        inputs += method.joint_parameters()
        forms = {"kdc": lambda: torch.stack(list(method.losses(s, t, batch).values())).sum()}
    if case.literal and fits:
        forms["literal"] = partial(case.literal, Scene(student, teacher, batch, classes, method))
    widths = dict.fromkeys(c for both in case.taps.values() for c in both if c)
    words = [case.name, f"B{images}", f"K{classes}" * case.by_classes, "C" * bool(widths) + "/".join(map(str, widths))]
    words += [f"{h}x{w}", case.note, "" if fits else "(no room for the literal form)"]
    facts = {
        "case": " ".join(filter(None, words)),
        "loss": case.name,
        "images": images,
        "classes": classes,
        "crop": crop,
    }
    return Contest(case, facts, forms, inputs)


def run(form: Callable[[], Tensor], inputs: list[Tensor]) -> Pass:
    """Go forward and backward: CPU seconds of one thread, or seconds between two events of the GPU."""
    cuda = inputs[0].is_cuda
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if cuda else []
    if cuda:
        torch.cuda.synchronize()
        marks[0].record()
    start = time.process_time()
    value = form()
    grads = torch.autograd.grad(value, inputs)
    seconds = time.process_time() - start
    if cuda:
        marks[1].record()
        torch.cuda.synchronize()
        seconds = marks[0].elapsed_time(marks[1]) / 1e3
    return Pass(seconds, value.item(), grads)


def watched(form: Callable[[], Tensor], inputs: list[Tensor]) -> Pass:
    """As `run`, with the most memory held at once beyond what was there before, in MiB."""
    if inputs[0].is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = run(form, inputs)
        return replace(result, mib=(torch.cuda.max_memory_allocated() - before) / MIB)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = run(form, inputs)
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events: list[Any] = profiler.profiler.kineto_results.events()
    held = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return replace(result, mib=most / MIB)


def measure(both: Contest, repeats: int, with_target: bool) -> dict[str, Any]:
    """Run both forms in turn and compare them, and where ``with_target`` with the target too."""
    first = {form: watched(call, both.inputs) for form, call in both.forms.items()}  # and warms up
    seconds: dict[str, list[float]] = {form: [] for form in first}
    for _ in range(repeats):
        for form, call in both.forms.items():
            if first[form].seconds < SLOW:
                seconds[form].append(run(call, both.inputs).seconds)
    ms = {form: 1e3 * statistics.median(seconds[form] or [first[form].seconds]) for form in first}
    row: dict[str, Any] = {**both.facts, "ms": ms["kdc"], "mib": first["kdc"].mib}
    if "literal" not in first:
        return row
    ours, plain = first["kdc"], first["literal"]
    speed, memory = ms["literal"] / ms["kdc"], plain.mib / ours.mib
    gaps = [(a - b).abs().max() / b.abs().max() for a, b in zip(ours.grads, plain.grads)]
    row |= {"literal_ms": ms["literal"], "speed_x": speed, "literal_mib": plain.mib, "memory_x": memory}
    row |= {"value_gap": abs(ours.value / plain.value - 1), "grad_gap": max(gap.item() for gap in gaps)}
    exact = both.inputs[0].dtype == torch.float64
    row["agree"] = max(row["value_gap"], row["grad_gap"]) <= (EXACT if exact else both.case.tolerance)
    target = TARGETS.get(row["loss"]) if with_target else None
    return row | {"target": target, "met": target and speed >= target[0] and memory >= target[1]}


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row of the printed table."""
    numbers = (row.get(key) for key in ("ms", "literal_ms", "speed_x", "mib", "literal_mib", "memory_x"))
    gaps = (row.get(key) for key in ("value_gap", "grad_gap"))
    target = row.get("target")
    return [
        row["case"],
        *("-" if x is None else f"{x:.1f}" for x in numbers),
        *("-" if x is None else f"{x:.0e}" for x in gaps),
        f"{target[0]:g}x, {target[1]:g}x" if target else "",
        ("yes" if row["met"] else "NO") if target else "",
    ]


def chosen(sizes: Sequence[str], classes: Sequence[int], only: str) -> Iterator[tuple[Case, int, tuple[int, int]]]:
    """Yield the cases whose name holds ``only``, with classes and crop; those without classes come once a crop."""
    for size in sizes:
        height, width = map(int, size.split("x"))
        for case in CASES:
            for count in classes if case.by_classes else (19,):
                if only in case.name:
                    yield case, count, (height, width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name, method.term, holds this")
    parser.add_argument("--size", default="both", help="of the crop: 512x1024, 512x512, both (default), or another")
    parser.add_argument("--classes", default="both", help="19, 150, both (default), or another number")
    parser.add_argument("--repeats", type=int, default=5, help=f"a form that takes over {SLOW:g} s runs once")
    parser.add_argument("--memory-gib", type=float, default=8.0, help="for a literal form: it gets fewer images then")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="cpu is one thread of it")
    parser.add_argument("--tiny", action="store_true", help="check only that the forms agree: float64, 64x128")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # CPU seconds of one thread: other work on the machine counts less
    # glibc reuses blocks up to the largest that was freed, 32 MiB at most: no case may depend on those before it
    torch.empty(31 * MIB // 4)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    like = torch.empty(0, device=arguments.device)
    sizes = {"both": ("512x1024", "512x512")}.get(arguments.size, (arguments.size,))
    classes = {"both": (19, 150)}.get(arguments.classes) or (int(arguments.classes),)
    images, repeats, with_target = 4, arguments.repeats, not like.is_cuda
    if arguments.tiny:
        sizes, images, repeats, with_target = ("64x128",), 2, 0, False
        like = like.double()
    todo, rows = list(chosen(sizes, classes, arguments.only)), []
    with console.bar(len(todo), "losses") as update:
        for case, count, crop in todo:
            rows.append(measure(contest(case, images, count, crop, arguments.memory_gib, like), repeats, with_target))
            update(len(rows), rows[-1]["case"])
    where = torch.cuda.get_device_name() if like.is_cuda else "CPU, 1 thread"
    heads = ["case", "kdc ms", "literal ms", "speed x", "kdc MiB", "literal MiB", "memory x", "value gap", "grad gap"]
    kind = str(like.dtype).removeprefix("torch.")
    title = f"losses, forward + backward, {kind}, maps at 1/{STRIDE} of the crop, {where}, torch {torch.__version__}"
    console.table(title, [*heads, "target", "met"], map(cells, rows))
    console.emit({"benchmark": "losses", "device": where, "dtype": kind, "torch": torch.__version__, "losses": rows})
    if apart := [row["case"] for row in rows if not row.get("agree", True)]:
        sys.exit(f"the two forms differ: {'; '.join(apart)}")


if __name__ == "__main__":
    main()
