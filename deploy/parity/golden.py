"""One image with its right answers that travels with a file, so that the file can be checked where it runs."""

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...distill import console
from ...distill.errors import WeightsError, reading
from ...distill.lfs import pointer_at
from ...distill.preprocess import IMAGENET, Preprocess
from ...distill.run.files import sha256, write_bytes
from ...distill.run.records import Record
from ...distill.run.seal import check_sealed
from ...distill.settings.config import MOST_PIXELS
from ..artefacts.beside import golden_path
from ..runtimes.base import Runtime, answers
from ..runtimes.options import CPU, RuntimeOptions
from .tolerances import TF32_TIE, Tolerances

#: what no network answers: there are at most 255 classes
NO_CLASS = 255
#: images of the user's of which this process has said where they are: folder, data, key
_told: set[tuple[Path, str, str]] = set()
#: reference logits are kept at this many rows and columns of the image
GRID = 8


@dataclass(frozen=True)
class GoldenFacts(Record):
    """What a golden image says of itself.

    Attributes:
        key: of the image in the data.
        agreement: share of pixels with the reference's class, ties included, when the file passed its gate.
        data: name and split.
        generated: it shows a generated scene, nobody's own image.
        reference: what answered.
        tolerances: those of the gate.
        preprocess: how the reference prepares an image.
        size: height and width of the network's input.
        artefact: name of the file that it travels with.
        sha256: of that file.
    """

    key: str
    agreement: float = 1.0
    data: str = ""
    generated: bool = False
    reference: str = ""
    tolerances: Tolerances = field(default_factory=Tolerances)
    preprocess: Preprocess = IMAGENET
    size: Sequence[int] = ()
    artefact: str = ""
    sha256: str = ""

    @classmethod
    def read(cls, values: Any, path: Path) -> "GoldenFacts":
        """Take what stands in the file ``path``.

        Raises:
            ValueError: it lacks a fact.
            WeightsError: it holds no tolerances.
        """
        for name in ("data", "key", "generated", "agreement", "tolerances", "preprocess", "sha256"):
            if name not in values:
                raise ValueError(f"it does not say {name}")
        if not 0 <= float(values["agreement"]) <= 1:
            raise ValueError(f"an agreement of {values['agreement']}")
        limits = Tolerances.read(values["tolerances"], path, "export the file again")
        return replace(cls.from_dict(values), tolerances=limits, size=[int(length) for length in values["size"]])


@dataclass(frozen=True)
class Golden:
    """What the reference makes of one image, and how well the candidate did on it when it passed its gate."""

    #: uint8 RGB ``(H, W, 3)``
    image: np.ndarray
    #: uint8 ``(H, W)``: the reference's classes
    mask: np.ndarray
    #: uint8 ``(H, W)``: the class that ties with it, see ``Tolerances``; ``NO_CLASS`` where none does
    second: np.ndarray
    #: float32 ``(GRID, GRID, K)`` of the reference; empty where it gives masks only
    logits: np.ndarray
    facts: GoldenFacts

    @property
    def needed(self) -> float:
        """Least share of agreeing pixels: a gate is passed by all its images together, this one may have done worse."""
        least = self.facts.tolerances.agreement
        return min(least, float(self.facts.agreement) - (1 - least))


@dataclass(frozen=True)
class GoldenResult(Record):
    """How a file did on its golden image."""

    passed: bool
    #: why not, in words; empty when passed
    reasons: list[str]
    #: share of pixels with the reference's class, and of those that differ where it hardly decides
    agreement: float
    tied: float
    #: largest ``|d| / max(1, |z|)`` at the kept points; None where one side gives masks only
    max_relative: float | None
    artefact: str
    ran_on: str
    facts: GoldenFacts

    def line(self) -> str:
        """Say it in one line."""
        text = f"{100 * self.agreement:.3f} % of pixels agree"
        if self.tied:
            text += f" and {100 * self.tied:.3f} % are ties"
        if self.max_relative is not None:
            text += f", logits differ by at most {self.max_relative:.2g} x max(1, |z|)"
        return f"{text} on the golden image ({self.facts.key} of {self.facts.data}), by {self.ran_on}"


def grid(size: Iterable[int]) -> tuple[np.ndarray, ...]:
    """Return rows and columns, ``GRID`` each and evenly spread, as indices into ``(H, W)``."""
    return np.ix_(*(np.linspace(0, length - 1, GRID).round().astype(int) for length in size))


def capture(
    image: np.ndarray, masks: tuple[np.ndarray, np.ndarray], logits: np.ndarray | None, tie: float, facts: GoldenFacts
) -> Golden:
    """Make a golden image at a gate.

    Args:
        image: uint8 RGB ``(H, W, 3)``.
        masks: uint8 ``(H, W)`` of the reference and of the candidate.
        logits: float ``(K, H, W)`` of the reference, where it gives them.
        tie: see ``Tolerances``.
        facts: what else is known; the agreement is measured here.
    """
    second, points = np.full_like(masks[0], NO_CLASS), np.zeros((0, 0, 0), np.float32)
    if logits is not None:
        next_best, best = np.argpartition(logits, (-2, -1), axis=0)[-2:]
        high, low = (np.take_along_axis(logits, each[None], 0)[0].astype(np.float64) for each in (best, next_best))
        # a gate that knows no ties still hands on those of TF32, which the file may be run in elsewhere
        tied = high - low <= (tie or TF32_TIE) * np.maximum(1, np.abs(high))
        # of two equal scores the mask has one
        second[tied] = np.where(next_best == masks[0], best, next_best)[tied]
        points = logits.transpose(1, 2, 0)[grid(masks[0].shape)].astype(np.float32)
    agreement = float(((masks[1] == masks[0]) | ((masks[1] == second) & (tie > 0))).mean())
    return Golden(image, masks[0], second, points, replace(facts, agreement=agreement))


def write_golden(artefact: Path, golden: Golden, home: Path | None = None) -> Path:
    """Write the golden image of a file beside it, compressed; say once a folder that it holds an image of the user's.

    Args:
        artefact: the file.
        golden: its image.
        home: the folder that both go to from there; None if they stay.
    """
    import cv2

    path, facts = golden_path(artefact), replace(golden.facts, artefact=artefact.name, sha256=sha256(artefact))
    pictures = {"image": golden.image[..., ::-1], "mask": golden.mask, "second": golden.second}
    arrays = {key: cv2.imencode(".png", picture)[1] for key, picture in pictures.items()}
    arrays |= {"logits": golden.logits, "facts": np.frombuffer(json.dumps(facts.to_dict()).encode(), np.uint8)}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())

    image = home or path.parent, facts.data, facts.key
    if not facts.generated and image not in _told:
        _told.add(image)
        console.note(
            f"{path.name} holds an image of your data ({facts.key}), for kdc parity on the target; delete it, and "
            "those of other files, where that image must not go"
        )
    return path


def read_golden(artefact: Path) -> Golden:
    """Read the golden image beside a file.

    Raises:
        WeightsError: the file or its golden image is missing, or the latter is broken or was changed.
    """
    path = golden_path(artefact)
    if not artefact.is_file():
        raise WeightsError(f"{artefact} does not exist")
    if not path.is_file():
        raise WeightsError(
            f"{path} is missing: copy it along with {artefact.name}, or compare with what the file was made from: "
            f"kdc parity OTHER {artefact} --data NAME|DIR"
        )

    check_sealed(path)
    if lfs := pointer_at(path):
        raise WeightsError(f"{path} {lfs}")
    with reading(path, WeightsError, "export the file again"):
        try:
            image, mask, second, logits, facts = _stored(path)
        except MemoryError as error:  # a header that claims what no golden image holds
            raise ValueError(error) from error
    return Golden(np.ascontiguousarray(image[..., ::-1]), mask, second, logits, facts)


def _stored(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, GoldenFacts]:
    """Return the fields of ``Golden`` as they stand in its file."""
    with np.load(path, allow_pickle=False) as file:
        image, mask = _picture(file["image"]), _picture(file["mask"])
        # older ones say where classes tie, not which: there none does
        second = _picture(file["second"]) if "second" in file else np.full_like(mask, NO_CLASS)
        # older ones are as large as the input
        values = {"size": mask.shape} | json.loads(file["facts"].tobytes())
        logits, facts = file["logits"], GoldenFacts.read(values, path)
    sound = image.shape == (*mask.shape, 3) and mask.shape == second.shape and len(facts.size) == 2
    if not sound or logits.dtype.kind != "f" or (logits.size and logits.shape != (GRID, GRID, logits.shape[-1])):
        raise ValueError("it holds something else than a golden image")
    return image, mask, second, logits, facts


def _picture(png: np.ndarray) -> np.ndarray:
    import cv2

    # a PNG's head, whose sizes may be any
    width, height = (int.from_bytes(png[at : at + 4].tobytes()) for at in (16, 20))
    if width * height > MOST_PIXELS:
        raise ValueError(f"a picture in it of {height}x{width}")
    picture = cv2.imdecode(png, cv2.IMREAD_UNCHANGED) if png.size and png.dtype == np.uint8 else None
    if picture is None:
        raise ValueError("a picture in it is broken")
    return picture


def hand_on(source: Path, artefact: Path) -> None:
    """Give an engine the golden image of the file that it was made from, if there is one."""
    if golden_path(source).is_file():
        write_golden(artefact, read_golden(source), source.parent)


def check_golden(artefact: Path, options: RuntimeOptions = CPU) -> GoldenResult:
    """Run a file on its golden image and compare by the tolerances of the gate that it passed.

    Raises:
        WeightsError: the file or its golden image is missing or broken.
        ExportError: its runtime or device is not available.
    """
    golden = read_golden(artefact)
    options.refuse_unused([artefact])
    height, width = golden.facts.size
    with options.open(artefact, (height, width)) as runtime:
        return compare_with_golden(runtime, golden)


def compare_with_golden(runtime: Runtime, golden: Golden) -> GoldenResult:
    """Compare what an open file gives for its golden image with what is stored there, as ``check_golden`` does."""
    artefact, facts = runtime.source, golden.facts
    limits = facts.tolerances.in_tf32() if runtime.tf32 else facts.tolerances
    faults = []
    if facts.sha256 != sha256(artefact):
        faults.append(f"{artefact.name} is not the file that its golden image was made with (its sha256 is another)")
    if runtime.spec.preprocess != facts.preprocess:
        faults.append("it prepares images differently (mean, deviation or channel order) than the reference did")

    # classes: the same, or at a tie the other one
    out = answers(runtime, golden.image[None])[0]
    mask = out.argmax(0) if out.ndim == 3 else out
    differs = mask != golden.mask
    agreement = 1 - float(differs.mean())
    tied = float((differs & (mask == golden.second)).mean()) if limits.tie > 0 else 0.0

    # logits, at the points that are kept
    apart = None
    if out.ndim == 3 and golden.logits.size and len(out) != golden.logits.shape[2]:
        faults.append(f"it gives {len(out)} classes, {golden.logits.shape[2]} are needed")
    elif out.ndim == 3 and golden.logits.size:
        points = out.transpose(1, 2, 0)[grid(golden.mask.shape)].astype(np.float64)
        apart = float((np.abs(points - golden.logits) / np.maximum(1, np.abs(golden.logits))).max())
        if not np.isfinite(out).all():
            apart = float("inf")
            faults.append("it gives values that are not finite")
        elif limits.max_diff is not None and apart > limits.max_diff:
            faults.append(f"logits differ by {apart:.2g} x max(1, |z|), {limits.max_diff:.2g} is allowed")

    if agreement + tied < golden.needed:
        faults.append(f"{100 * (agreement + tied):.3f} % of pixels agree, {100 * golden.needed:.2f} % is needed")
    ran_on = f"{runtime.name} ({runtime.provider})"
    return GoldenResult(not faults, faults, agreement, tied, apart, artefact.name, ran_on, facts)
