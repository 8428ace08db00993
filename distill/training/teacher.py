"""Where the teacher comes from, and the check that it knows the data."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from .. import models
from ..console import note
from ..data import Dataset
from ..errors import UsageError, WeightsError, reading
from ..evaluation.evaluate import evaluate, model_predictor
from ..evaluation.metrics import Scores
from ..models import SegmentationModel
from ..models._weights import load_backbone, load_full
from ..preprocess import NAMED
from ..run.card import DataCard, TeacherCard, TeacherCheck
from ..run.checkpoint import load_student, read_card, student_file
from ..run.files import sha256
from ..run.folder import Run, find_run
from ..run.listing import all_runs
from ..settings.config import Config

#: suffixes of files that other runtimes load
_EXPORTED = (".onnx", ".engine", ".plan", ".xml", ".pt2")

#: validation images that the teacher is checked on before it teaches
CHECK_IMAGES = 16
#: a teacher must beat the best constant answer by this factor
CHECK_FACTOR = 1.5


@dataclass
class Teacher:
    """A frozen network in eval mode and what run.json says about it."""

    model: SegmentationModel
    card: TeacherCard

    @property
    def trained(self) -> bool:
        """Whether it came trained; if not, a phase of the method trains it."""
        return self.card.trained


def find_teacher(config: Config, data: DataCard, root: Path | None = None, assisted: bool = False) -> Teacher | None:
    """Find the teacher that ``model.teacher`` names: a run, a checkpoint, or an architecture with weights or a run.

    ``self`` is the student's own architecture. An ``assisted`` teacher is shown the label as a fourth channel, and a
    network without a run is built anew, for the method's phase to train.

    Returns:
        The teacher, or None where an architecture is named and no run of it on this data exists.

    Raises:
        UsageError: no teacher is named, or the name is neither a run nor an architecture.
        WeightsError: the weights do not fit, or the class counts differ.
    """
    name = teacher_name(config)
    weights = config.model.teacher_weights
    if weights and not (assisted and weights == "imagenet"):
        return _checked(_from_weights(config, name, Path(weights), data, assisted), data, assisted)

    # a file or a run
    if Path(name).suffix == ".safetensors":
        return _checked(_from_checkpoint(Path(name), None), data, assisted)
    if Path(name).suffix in (".pth", ".pt", ".ckpt") and Path(name).exists():
        raise UsageError(
            f"--teacher {name} is a file of weights alone: name the network, --teacher NAME --teacher-weights {name}"
        )
    if Path(name).suffix.lower() in _EXPORTED and Path(name).is_file():
        raise UsageError(
            f"--teacher {name} is an exported file, which cannot teach yet; accepted: an architecture (r101), a run, a "
            "kdc checkpoint (.safetensors), or NAME with --teacher-weights FILE.pth"
        )
    if (run := _named_run(name, root)) is not None:
        return _checked(_from_checkpoint(student_file(run), run), data, assisted)

    # the newest run of the network on this data
    network = models.expand(name, config.model.arch)
    wanted = (network, models.stride_of(network, config.model.teacher_stride), 4 if assisted else 3)
    for run in reversed(all_runs(root)):
        card, student = run.card, run.card.student
        finished = card.status == "finished" and card.kind in ("train", "teacher")
        fits = (student.name, student.output_stride, student.in_channels) == wanted
        if finished and fits and card.data.fingerprint == data.fingerprint:
            return _checked(_from_checkpoint(student_file(run), run), data, assisted)
    return _untrained(config, name, data) if assisted else None


def teacher_name(config: Config) -> str:
    """Return what ``model.teacher`` names; ``self`` is the student's architecture.

    Raises:
        UsageError: no teacher is named.
    """
    if config.model.teacher is None:
        raise UsageError("no teacher named; give --teacher NAME|RUN|FILE, such as --teacher r101")
    return config.model.student if config.model.teacher == "self" else config.model.teacher


def reopen_teacher(card: TeacherCard) -> Teacher:
    """Load the teacher of a run that is being resumed.

    Raises:
        WeightsError: its file is gone or has changed.
    """
    if not card.trained and not card.file:  # a phase of the run trains it, and leaves a file when it is done
        return Teacher(models.rebuild(card.spec).requires_grad_(False).eval(), card)

    path = Path(card.file or "")
    if not path.is_file() or sha256(path) != card.sha256:
        raise WeightsError(f"the run's teacher {path} is missing or was changed; put it back to resume this run")
    if not card.trained:
        model = models.rebuild(card.spec)
        with reading(path, WeightsError, "put it back to resume this run"):
            model.load_state_dict(load_file(path))
        return Teacher(model.requires_grad_(False).eval(), card)

    if card.run or (path.suffix == ".safetensors" and read_card(path)):
        return Teacher(load_student(path).requires_grad_(False), card)
    model = models.rebuild(card.spec)
    load_full(model, path)
    return Teacher(model.requires_grad_(False).eval(), card)


def check_teacher(teacher: Teacher, data: Dataset, device: torch.device) -> None:
    """Compare the teacher's mIoU on a few validation images with the best constant answer.

    Raises:
        WeightsError: it is no better than chance; such a teacher never teaches.
    """
    if not data.labelled:
        note(f"teacher check: skipped, {data.name} {data.split} has no labels")
        return

    indices = spread(data, CHECK_IMAGES)
    scores = evaluate(model_predictor(teacher.model.to(device), device), data, indices=indices)
    if not scores.labelled:
        note(f"teacher check: skipped, no pixel of {len(indices)} {data.split} images is labelled")
        return
    lucky = chance(scores)
    teacher.card = replace(teacher.card, check=TeacherCheck(scores.miou_present, lucky, len(indices)))
    text = f"mIoU {100 * scores.miou_present:.1f} % on {len(indices)} {data.split} images, chance {100 * lucky:.1f} %"
    if scores.miou_present <= CHECK_FACTOR * lucky:
        raise WeightsError(
            f"the teacher {teacher.card.name} knows nothing of this data ({text}); train it first: kdc train "
            "--student "
            f"{teacher.card.name} --data {data.name}, or --set model.teacher_check=false to use it anyway"
        )
    note(f"teacher check: {teacher.card.name} {text}")


def spread(data: Dataset, images: int) -> list[int]:
    """Return the indices of up to ``images`` images, evenly spread over a split."""
    return np.linspace(0, len(data) - 1, min(images, len(data))).astype(int).tolist()


def chance(scores: Scores) -> float:
    """Return the mIoU of the best constant answer: every pixel the commonest class, one IoU above zero."""
    truth = scores.confusion.sum(1)
    return float(truth.max() / max(truth.sum(), 1) / max((truth > 0).sum(), 1))


def _named_run(name: str, root: Path | None) -> Run | None:
    try:
        return find_run(name, root)
    except UsageError:
        if "/" in name:
            raise
        return None


def _from_checkpoint(path: Path, run: Run | None) -> Teacher:
    model = load_student(path)
    source = f"run {run.path.name}" if run else str(path)
    return Teacher(model, replace(_card(model, path, source), run=str(run.path) if run else None))


def _card(model: SegmentationModel, path: Path, source: str) -> TeacherCard:
    return TeacherCard(model.name, model.spec(), source=source, file=str(path.resolve()), sha256=sha256(path))


def _untrained(config: Config, name: str, data: DataCard) -> Teacher:
    """Build an assisted teacher that the method's phase is going to train."""
    options = config.model
    model = models.build(
        models.expand(name, options.arch),
        data.num_classes,
        output_stride=options.teacher_stride,
        dropout=options.teacher_dropout,
        preprocess=NAMED[options.preprocess],
        seed=config.train.seed,
        in_channels=4,
    )
    if options.teacher_weights:
        note(f"teacher: {load_backbone(model, options.teacher_weights).line()}")
    source = "a phase of this run, which trains it first"
    card = TeacherCard(model.name, model.spec(), source=source, trained=False, start=options.teacher_weights)
    return Teacher(model.requires_grad_(False).eval(), card)


def _from_weights(config: Config, name: str, path: Path, data: DataCard, assisted: bool) -> Teacher:
    network = models.expand(name, config.model.arch)

    def build(aux: bool) -> SegmentationModel:
        return models.build(
            network,
            data.num_classes,
            output_stride=config.model.teacher_stride,
            preprocess=NAMED[config.model.preprocess],
            in_channels=4 if assisted else 3,
            aux=aux,
        )

    model = build(aux=True)
    report = load_full(model, path)
    note(f"teacher: {report.line()}")
    if not report.complete(ignore_aux=True):
        raise WeightsError(
            f"{path} does not fill {network}: {report.line()}; a teacher teaches only if every tensor but the aux "
            "head's loads"
        )
    if not report.complete(ignore_aux=False):
        note("teacher: its aux head has no weights, so terms on the aux logits are left out")
        model = build(aux=False)
        load_full(model, path)
    return Teacher(model.eval(), _card(model, path, str(path)))


def _checked(teacher: Teacher, data: DataCard, assisted: bool) -> Teacher:
    if teacher.model.num_classes != data.num_classes:
        raise WeightsError(
            f"the teacher {teacher.card.source} knows {teacher.model.num_classes} classes, the data "
            f"{data.name} has "
            f"{data.num_classes}; take a teacher of this data: kdc train --student {teacher.model.name} "
            f"--data {data.source}"
        )
    if (teacher.model.in_channels == 4) != assisted:
        raise WeightsError(
            f"the teacher {teacher.card.source} is an ordinary network, label-assisted needs one that is shown the "
            f"label: kdc train --preset label-assist-teacher --student {teacher.model.name}, or name the architecture "
            "and a phase trains it"
            if assisted
            else f"the teacher {teacher.card.source} must be shown the label: it teaches by --method label-assisted "
            "alone"
        )
    teacher.model.requires_grad_(False).eval()
    return teacher
