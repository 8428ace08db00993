"""The measurements of a probe as tables for people."""

from collections.abc import Sequence

from ..console import say, table, warn
from ..training.teacher import CHECK_FACTOR
from ..units import duration, quantity
from .records import Probe, Spread

#: stands at terms that depend on what is still to be trained
UNTRAINED = "*"


def show_probe(probe: Probe) -> None:
    """Print what ``probe`` returned."""
    _show_knowledge(probe)
    _show_features(probe)
    _show_magnitudes(probe)
    _show_terms(probe)
    _show_forecast(probe)
    _show_advice(probe)
    say("nothing was written, no step was taken")


def _show_knowledge(probe: Probe) -> None:
    known, teacher, student = probe.knowledge, probe.teacher, probe.student
    if known is None:
        say(f"what the teacher knows: not measured, {probe.skipped}")
        return

    rows = [
        (each.name, _pct(each.share), _pct(each.teacher), _pct(each.student), _pct(each.teacher - each.student))
        for each in known.classes
    ]
    table(
        f"what the teacher knows, on {known.images} {known.split} images: its IoU bounds what it can teach",
        ("class", "pixels %", "teacher IoU %", "student IoU %", "ahead by"),
        rows,
    )

    lead = f"teacher {teacher.name} mIoU {_pct(known.teacher)} %, chance {_pct(known.chance)} %"
    start = "untrained, its weights are random" if student.start == "random" else f"at its start, {student.start}"
    say(f"{lead}; student {student.name} {_pct(known.student)} % ({start})")
    if known.absent:
        say(f"not in these images: {', '.join(known.absent)}")
    if known.teacher <= CHECK_FACTOR * known.chance:
        warn("the teacher is hardly better than chance: kdc distill refuses it (model.teacher_check)")
    if known.not_taught:
        warn(f"the teacher is no better than the student on: {', '.join(known.not_taught)}")


def _show_features(probe: Probe) -> None:
    rows = [
        (
            shape.tap,
            _size(shape.student),
            _size(shape.teacher),
            f"the student's is resized to {_size(shape.teacher[1:])}" if shape.resized else "",
        )
        for shape in probe.shapes
    ]
    crop = _size(probe.batches.crop)
    table(f"features at the crop {crop}, channels x height x width", ("tap", "student", "teacher", ""), rows)
    for line in probe.notes:
        say(f"  {line}")
    for phase in probe.phases:
        state = "is there already" if phase.ready else f"comes first, {phase.iters} steps"
        say(f"  phase {phase.name}: {state}")
    for name in probe.critics:
        say(f"  critic {name}: trains against the student")


def _show_magnitudes(probe: Probe) -> None:
    rows = [(name, *(_around(values[key]) for key in ("m", "n", "mn/N"))) for name, values in probe.magnitudes.items()]
    if rows:
        table(
            "magnitudes of the features that are compared: norm of teacher (m) and student (n), and the weight mn/N "
            "that a squared distance gives to the angle",
            ("method", "m", "n", "mn/N"),
            rows,
        )


def _show_terms(probe: Probe) -> None:
    task, value = probe.task, _num(probe.task.value.mean)
    rows = [("task", value, "1", value, _around(task.gradient), "", "")]

    for term in probe.terms:
        rows.append(
            (
                term.term + (UNTRAINED if term.untrained else ""),
                _num(term.value),
                _num(term.weight) if term.constant else f"{term.weight:g} of {term.schedule}",
                _num(term.weighted),
                _num(term.weight * term.norm),
                f"{term.share:.2g} ± {term.share_spread:.2g}",
                "none" if term.cosine is None else f"{term.cosine:+.2f} ± {term.cosine_spread:.2f}",
            )
        )

    table(
        f"terms at the start, mean ± deviation over {probe.batches.count} batches of {probe.batches.images}; gradients "
        "at the student's parameters, share and cosine over those that the term reaches",
        ("term", "value", "weight", "weighted", "gradient", "share of the task's", "cosine with it"),
        rows,
    )
    if any(term.untrained for term in probe.terms):
        say(f"  {UNTRAINED} measured with a phase's module or a critic that is still untrained")


def _show_forecast(probe: Probe) -> None:
    forecast = probe.forecast
    reading = f"{forecast.workers} loader processes" if forecast.workers else "no loader process"
    apart = ", phases apart" if any(not phase.ready for phase in probe.phases) else ""
    rows = [(part, quantity(value, "s")) for part, value in forecast.seconds.items() if part != "reading"]
    rows += [
        ("reading a batch", f"{quantity(forecast.seconds['reading'], 's')} in one process; {reading}"),
        ("a step", f"{quantity(forecast.step, 's')}, without optimiser, critics and validation"),
        (f"{forecast.iters} steps", f"about {duration(forecast.step * forecast.iters)}{apart}"),
        ("memory", f"about {forecast.memory_mib.total:,} MiB a device by estimate"),
    ]
    if forecast.peak_mib is not None:
        rows.append(("memory", f"{forecast.peak_mib:,.0f} MiB measured, the optimiser's state added"))
    table(f"forecast on {forecast.device}, precision {forecast.precision}", ("", ""), rows)


def _show_advice(probe: Probe) -> None:
    rows = [
        (
            advice.term,
            _num(advice.weight),
            f"{advice.share:.2g}",
            "none" if advice.suggested is None else _num(advice.suggested),
            advice.why,
        )
        for advice in probe.advice
    ]
    table("suggested weights, the furthest off first", ("term", "weight", "share", "suggested", ""), rows)
    if probe.settings:
        say("to try them: " + " ".join(f"--set {setting}" for setting in probe.settings))
    random = " and the student is random, so they say little of later" if probe.student.start == "random" else ""
    say(
        f"a heuristic: gradients of {probe.batches.count} batches at the very start{random}; the validation mIoU "
        "decides what helps"
    )


def _pct(value: float) -> str:
    return f"{100 * value:.1f}"


def _num(value: float) -> str:
    return f"{value:.3g}"


def _around(value: Spread) -> str:
    return f"{_num(value.mean)} ± {value.std:.2g}"


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
