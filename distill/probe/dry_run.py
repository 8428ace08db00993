"""The plan of a run, printed before it starts, without writing anything."""

from .. import cost
from ..console import say, table
from ..job import prepare
from ..settings.config import Config
from ..training.devices import launch
from .memory import estimate_memory
from .records import DataSummary, RunPlan, Student, TeacherSource


def plan_run(config: Config) -> RunPlan:
    """Open the data, build the networks and the method, print the plan and return it.

    Raises:
        KdcError: whatever would stop the run at its start.
    """
    fabric = launch(config)
    parts = prepare(config, fabric, dry=True)
    options = config.train
    share = options.batch // (options.devices * options.nodes * options.accumulate)

    teacher = parts.teacher
    plan = RunPlan(
        data=DataSummary(parts.data.name, len(parts.data), len(parts.val) if parts.val else 0, parts.data.num_classes),
        student=Student(parts.student.name, cost.params(parts.student)[0]),
        teacher=TeacherSource(teacher.model.name, teacher.card.source) if teacher else None,
        method=parts.method.describe(),
        notes=[*parts.method.notes(), *parts.method.warnings()],
        iters=options.iters,
        images_per_device=share,
        device=str(fabric.device),
        memory_mib=estimate_memory(config, share, teacher.model if teacher else None, parts.method),
    )

    data, memory = plan.data, plan.memory_mib
    crop = "x".join(map(str, options.crop))
    rows = [
        ("data", f"{data.name}: {data.train} train, {data.val} {config.data.split}, {data.classes} classes"),
        ("student", f"{plan.student.name}, {plan.student.params:,} parameters"),
        ("teacher", f"{plan.teacher.name} from {plan.teacher.source}" if plan.teacher else "none"),
        ("terms", ", ".join(f"{term}={weight}" for term, weight in parts.method.schedules.items()) or "none"),
        (
            "steps",
            f"{options.iters} of {options.batch} images at {crop}, {options.optimizer} lr {options.lr:g}",
        ),
        (
            "device",
            f"{options.devices} x {options.nodes} {fabric.device.type}, {share} images each at a time, precision "
            f"{options.precision}",
        ),
        (
            "memory",
            f"about {memory.total:,} MiB a device (weights and optimiser {memory.weights:,}, activations "
            f"{memory.activations:,})",
        ),
    ]

    table("plan", ("", ""), rows)
    for note in plan.notes:
        say(f"  {note}")
    say("nothing was written")
    return plan
