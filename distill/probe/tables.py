"""The findings of a probe as tables for people."""

from typing import Any

from ..console import say, table, warn
from ..training.teacher import CHECK_FACTOR

#: stands at terms that depend on what is still to be trained
UNTRAINED = "*"


def show(found: dict[str, Any]) -> None:
    """Print what ``probe`` returned."""
    _knowledge(found)
    _plan(found)
    _magnitudes(found)
    _terms(found)
    _forecast(found)
    _advice(found)
    say("nothing was written, no step was taken")


def _knowledge(found: dict[str, Any]) -> None:
    known, teacher, student = found["knowledge"], found["teacher"], found["student"]
    if known["skipped"]:
        say(f"what the teacher knows: not measured, {known['skipped']}")
        return
    rows = [
        (c["name"], _pct(c["share"]), _pct(c["teacher"]), _pct(c["student"]), _pct(c["teacher"] - c["student"]))
        for c in known["classes"]
    ]
    table(
        f"what the teacher knows, on {known['images']} {known['split']} images: its IoU bounds what it can teach",
        ("class", "pixels %", "teacher IoU %", "student IoU %", "ahead by"),
        rows,
    )
    lead = f"teacher {teacher['name']} mIoU {_pct(known['teacher'])} %, chance {_pct(known['chance'])} %"
    start = "untrained, its weights are random" if student["start"] == "random" else f"at its start, {student['start']}"
    say(f"{lead}; student {student['name']} {_pct(known['student'])} % ({start})")
    if known["absent"]:
        say(f"not in these images: {', '.join(known['absent'])}")
    if known["teacher"] <= CHECK_FACTOR * known["chance"]:
        warn("the teacher is hardly better than chance: kdc distill refuses it (model.teacher_check)")
    if known["not_taught"]:
        warn(f"the teacher is no better than the student on: {', '.join(known['not_taught'])}")


def _plan(found: dict[str, Any]) -> None:
    rows = [
        (
            shape["tap"],
            _size(shape["student"]),
            _size(shape["teacher"]),
            f"the student's is resized to {shape['teacher'][1]}x{shape['teacher'][2]}" if shape["resized"] else "",
        )
        for shape in found["shapes"]
    ]
    height, width = found["batches"]["crop"]
    table(f"features at the crop {height}x{width}, channels x height x width", ("tap", "student", "teacher", ""), rows)
    for line in found["notes"]:
        say(f"  {line}")
    for phase in found["phases"]:
        there = "is there already" if phase["ready"] else f"comes first, {phase['iters']} steps"
        say(f"  phase {phase['name']}: {there}")
    for name in found["critics"]:
        say(f"  critic {name}: trains against the student")


def _magnitudes(found: dict[str, Any]) -> None:
    rows = [
        (name, _around(values["m"]), _around(values["n"]), _around(values["mn/N"]))
        for name, values in found["magnitudes"].items()
    ]
    if rows:
        table(
            "magnitudes of the features that are compared: norm of teacher (m) and student (n), and the weight mn/N "
            "that a squared distance gives to the angle",
            ("method", "m", "n", "mn/N"),
            rows,
        )


def _terms(found: dict[str, Any]) -> None:
    task, count = found["task"], found["batches"]
    rows = [("task", _num(task["value"]["mean"]), "1", _num(task["value"]["mean"]), _around(task["gradient"]), "", "")]
    for t in found["terms"]:
        cosine = "none" if t["cosine"] is None else f"{t['cosine']:+.2f} ± {t['cosine_spread']:.2f}"
        rows.append(
            (
                t["term"] + UNTRAINED * bool(t["untrained"]),
                _num(t["value"]),
                _num(t["weight"]) if t["constant"] else f"{t['weight']:g} of {t['schedule']}",
                _num(t["weighted"]),
                _num(t["weight"] * t["norm"]),
                f"{t['share']:.2g} ± {t['share_spread']:.2g}",
                cosine,
            )
        )
    table(
        f"terms at the start, mean ± deviation over {count['count']} batches of {count['images']}; gradients at the "
        "student's parameters, share and cosine over those that the term reaches",
        ("term", "value", "weight", "weighted", "gradient", "share of the task's", "cosine with it"),
        rows,
    )
    if any(t["untrained"] for t in found["terms"]):
        say(f"  {UNTRAINED} measured with a phase's module or a critic that is still untrained")


def _forecast(found: dict[str, Any]) -> None:
    forecast = found["forecast"]
    seconds, memory = forecast["seconds"], forecast["memory_mib"]
    reading = f"{forecast['workers']} loader processes" if forecast["workers"] else "no loader process"
    apart = ", phases apart" if any(not phase["ready"] for phase in found["phases"]) else ""
    rows = [(part, f"{1000 * value:.1f} ms") for part, value in seconds.items() if part != "reading"]
    rows += [
        ("reading a batch", f"{1000 * seconds['reading']:.1f} ms in one process; {reading}"),
        ("a step", f"{forecast['step']:.3f} s, without optimiser, critics and validation"),
        (f"{forecast['iters']} steps", f"about {_time(forecast['step'] * forecast['iters'])}{apart}"),
        ("memory", f"about {memory['total']:,} MiB a device by estimate"),
    ]
    if forecast["peak_mib"] is not None:
        rows.append(("memory", f"{forecast['peak_mib']:,.0f} MiB measured, the optimiser's state added"))
    table(f"forecast on {forecast['device']}, precision {forecast['precision']}", ("", ""), rows)


def _advice(found: dict[str, Any]) -> None:
    rows = [
        (
            a["term"],
            _num(a["weight"]),
            f"{a['share']:.2g}",
            "none" if a["suggested"] is None else _num(a["suggested"]),
            a["why"],
        )
        for a in found["advice"]
    ]
    table("suggested weights, the furthest off first", ("term", "weight", "share", "suggested", ""), rows)
    if found["settings"]:
        say("to try them: " + " ".join(f"--set {setting}" for setting in found["settings"]))
    random = " and the student is random, so they say little of later" if found["student"]["start"] == "random" else ""
    say(
        f"a heuristic: gradients of {found['batches']['count']} batches at the very start{random}; the validation mIoU "
        "decides what helps"
    )


def _pct(value: float) -> str:
    return f"{100 * value:.1f}"


def _num(value: float) -> str:
    return f"{value:.3g}"


def _around(value: dict[str, float]) -> str:
    return f"{_num(value['mean'])} ± {value['std']:.2g}"


def _time(seconds: float) -> str:
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _size(shape: list[int]) -> str:
    return "x".join(map(str, shape))
