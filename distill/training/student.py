"""The student as a run begins: its network, its seed and the weights that it starts from."""

from dataclasses import replace

from .. import models
from ..console import note
from ..errors import UsageError, WeightsError
from ..models import SegmentationModel
from ..models._weights import load_backbone
from ..network_spec import NetworkSpec
from ..preprocess import NAMED
from ..run.checkpoint import load_student
from ..settings.config import Config


def build_student(config: Config, classes: int, bits: int | None = None) -> SegmentationModel:
    """Build the student from its seed, then put in the weights that the configuration names.

    It remembers the ``bits`` of the 16-bit images that it learns from.
    """
    options = config.model
    if options.hint and config.method.name != "none":
        raise UsageError(
            f"model.hint trains a teacher that is shown the label; a student of method {config.method.name} must not "
            "see it: leave out model.hint, or train with: kdc train --preset label-assist-teacher"
        )

    name = models.expand(options.student, options.arch)
    student = models.build(
        name,
        classes,
        output_stride=options.output_stride,
        dropout=options.dropout,
        preprocess=replace(NAMED[options.preprocess], bits=bits),
        seed=config.train.seed,
        in_channels=4 if options.hint else 3,
    )

    if options.init:
        start = load_student(options.init)
        if _network(start) != _network(student):
            raise WeightsError(
                f"--init {options.init} is {start.name} for {start.num_classes} classes, the student {name} for "
                f"{classes}"
            )
        student.load_state_dict(start.state_dict())
        note(f"student: {name} from {options.init}")
    elif options.student_weights:
        note(f"student: {load_backbone(student, options.student_weights).line()}")
    else:
        note(
            f"student: {name} at random (seed {config.train.seed}); --student-weights imagenet|FILE starts it from "
            "a trained backbone"
        )
    return student


def _network(model: SegmentationModel) -> NetworkSpec:
    """Return what two networks must share for one to take the other's weights."""
    spec = model.spec()
    return replace(spec, dropout=None, preprocess=replace(spec.preprocess, bits=None))
