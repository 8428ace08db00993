"""The report's strips: the same few validation images as truth, teacher, student before and after, and what changed."""

from dataclasses import dataclass, field

import numpy as np

from ...distill.data import Dataset
from ...distill.evaluation.evaluate import Predict, ask
from ...distill.evaluation.metrics import confusion, iou_of
from ..pictures import colour_mask, data_uri, error_map

#: images scored to choose from: enough to find hard ones, few enough for a report to take seconds
CANDIDATES = 16


@dataclass
class Panel:
    """One picture of a strip; ``uri`` and ``score`` are None where there is nothing to show."""

    name: str
    uri: str | None
    alt: str
    score: float | None = None


@dataclass
class Strip:
    """One image of the split, why it was chosen, and its panels."""

    key: str
    why: str
    panels: list[Panel] = field(default_factory=list)
    #: of the image in its split
    index: int = 0
    #: width and height of every panel
    shape: tuple[int, int] = (2, 1)


def strips(dataset: Dataset, predicts: dict[str, Predict], names: dict[str, str]) -> list[Strip]:
    """Choose and draw up to four images: the hardest, a typical one, and those where distillation changed most.

    Args:
        dataset: a labelled split; up to ``CANDIDATES`` of its images, evenly spread, are scored.
        predicts: "after" (the run's student) and, where there are any, "before" (the baseline), "teacher" and others.
        names: the roles to show, in order, and what the page calls them.
    """
    indices = sorted(set(np.linspace(0, len(dataset) - 1, min(CANDIDATES, len(dataset))).astype(int).tolist()))
    scored = [role for role in ("after", "before") if role in predicts]
    masks: dict[int, dict[str, np.ndarray]] = {}
    scores: dict[int, dict[str, float]] = {}
    for i in indices:
        image, truth = dataset.read(i)
        assert truth is not None
        masks[i] = {role: ask(predicts[role], image, truth) for role in scored}
        scores[i] = {role: score(mask, truth, dataset.num_classes) for role, mask in masks[i].items()}
    return [_draw(dataset, i, why, predicts, names, masks[i]) for i, why in choose(scores)]


def _draw(
    dataset: Dataset,
    i: int,
    why: str,
    predicts: dict[str, Predict],
    names: dict[str, str],
    masks: dict[str, np.ndarray],
) -> Strip:
    strip, image, truth = start_strip(dataset, i, why)
    key = strip.key
    for role, name in names.items():
        mask = masks.get(role)
        if mask is None and role in predicts:
            mask = ask(predicts[role], image, truth)
        uri = None if mask is None else data_uri(colour_mask(mask, dataset.palette))
        grade = None if mask is None else score(mask, truth, dataset.num_classes)
        strip.panels.append(Panel(name, uri, f"{key} as seen by: {name}", grade))
    errors = error_map(image, truth, masks["after"], masks.get("before"))
    strip.panels.append(Panel("errors", data_uri(errors, photo=True), f"where {names['after']} is wrong on {key}"))
    return strip


def start_strip(dataset: Dataset, i: int, why: str) -> tuple[Strip, np.ndarray, np.ndarray]:
    """Return a strip that begins with an image and its labels, and both as arrays."""
    image, truth = dataset.read(i)
    assert truth is not None
    key = dataset.key(i)
    labels = data_uri(colour_mask(truth, dataset.palette))
    panels = [
        Panel("image", data_uri(image, photo=True), f"validation image {key}"),
        Panel("truth", labels, f"labels of {key}"),
    ]
    return Strip(key, why, panels, i, image.shape[1::-1]), image, truth


def score(pred: np.ndarray, truth: np.ndarray | None, num_classes: int) -> float:
    """Return the mean IoU over the classes that the image's truth holds."""
    if truth is None:
        return 0.0
    matrix = confusion(pred, truth, num_classes)
    labelled = matrix.sum(1) > 0
    return float(iou_of(matrix)[0][labelled].mean()) if labelled.any() else 0.0


def choose(scores: dict[int, dict[str, float]]) -> list[tuple[int, str]]:
    """Return distinct images with the reason for each: hardest, typical (median), gained most, lost most.

    Args:
        scores: by image, the score "after" and perhaps the one "before".
    """
    order = sorted(scores, key=lambda i: scores[i]["after"])
    if not order:
        return []
    picks = [(order[0], "the hardest"), (order[len(order) // 2], "typical")]
    if "before" in scores[order[0]]:
        gains = {i: s["after"] - s["before"] for i, s in scores.items()}
        best, worst = max(gains, key=gains.__getitem__), min(gains, key=gains.__getitem__)
        picks += [(best, "gained most")] * (gains[best] > 0) + [(worst, "lost most")] * (gains[worst] < 0)
    else:
        picks.append((order[-1], "the easiest"))
    reasons: dict[int, list[str]] = {}
    for i, why in picks:
        reasons.setdefault(i, []).append(why)
    return [(i, " and ".join(whys)) for i, whys in reasons.items()]
