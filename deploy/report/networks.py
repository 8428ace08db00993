"""The networks that the report shows, opened, and their masks on a few validation images."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

from ...distill.errors import KdcError, UsageError
from ...distill.evaluation.evaluate import model_predictor
from ...distill.models import SegmentationModel
from ...distill.run.card import TeacherCard
from ...distill.run.checkpoint import load_student
from ...distill.run.folder import Run
from ...distill.training.teacher import reopen_teacher
from ..predict.segmenter import Segmenter, open_segmenter
from .activations import activations
from .shipped import low_precision_files
from .strips import Strip, strips


def further_runs(run: Run, others: Iterable[Run]) -> dict[str, Run]:
    """Return further runs by what the page calls them: their method, and the folder where two have the same."""
    data = run.card.data.fingerprint
    further: dict[str, Run] = {}
    for other in others:
        if other.card.data.fingerprint != data:
            raise UsageError(f"--with {other.path.name}: it was trained on other data than {run.path.name}")
        method = other.card.method or "trained alone"
        further[method if method not in further else f"{method}, {other.path.name}"] = other
    return further


def networks(
    run: Run, baseline: Run | None, teacher: TeacherCard, names: dict[str, str], further: dict[str, Run]
) -> tuple[dict[str, SegmentationModel], list[str]]:
    """Load the networks that can be loaded, and say which could not."""
    openers: dict[str, Callable[[], SegmentationModel]] = {"after": lambda: load_student(run)}
    if baseline is not None:
        openers["before"] = lambda: load_student(baseline)
    if teacher.file:
        openers["teacher"] = lambda: reopen_teacher(teacher).model
    openers |= {name: lambda other=other: load_student(other) for name, other in further.items()}
    nets, notes = {}, []
    for role, opener in openers.items():
        try:
            nets[role] = opener()
        except KdcError as error:
            notes.append(f"{names.get(role, role)}: {error}")
    return nets, notes


@contextlib.contextmanager
def low_precision(run: Run, notes: list[str]) -> Iterator[dict[str, Segmenter]]:
    """Open the first INT8 or FP8 file of a run that this machine can run, by the name it has on the page."""
    for path in low_precision_files(run):
        try:
            segmenter = open_segmenter(path)
        except KdcError as error:
            notes.append(f"{path.name} is not pictured: {error}")
            continue
        with contextlib.closing(segmenter):
            yield {f"{path.name.split('.')[1].upper()} file": segmenter}
        return
    yield {}


def picture(
    run: Run, nets: dict[str, SegmentationModel], names: dict[str, str], device: str, notes: list[str], tap: str | None
) -> tuple[list[Strip], list[Strip], str]:
    """Return the strips and the maps of ``tap``, or none and the reason; note data that is no longer what it was.

    Beside the networks the run's INT8 or FP8 file is shown, where this machine can run one.
    """
    if "after" not in nets:
        return [], [], "there is no checkpoint"
    try:
        dataset = run.open_data(run.config.data.split)
        if not dataset.labelled:
            return [], [], "the validation split has no labels"
        known = run.card.data.fingerprint
        if known and known != run.open_data("train").fingerprint():
            notes.append(
                "the data has changed since this run: the pictures show it as it is now, the scores are from then"
            )
        with low_precision(run, notes) as files:
            predicts = {role: model_predictor(net, device) for role, net in nets.items()}
            predicts |= {name: segmenter.predict for name, segmenter in files.items()}
            drawn = strips(dataset, predicts, names | {name: name for name in files})
    except KdcError as error:
        return [], [], f"the data cannot be opened ({error})"
    indices = [(strip.index, strip.why) for strip in drawn]
    return drawn, activations(dataset, indices, nets, names, tap, device) if tap else [], ""
