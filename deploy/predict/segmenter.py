"""A network made ready for images of any size, and how it takes them, said once."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ...distill import console
from ...distill.errors import UsageError, WeightsError
from ...distill.evaluation.fit import Fit
from ...distill.preprocess import POLICIES, Policy
from ...distill.run.folder import Run, find_run
from ...distill.run.records import Record
from ...distill.settings.config import parse_size
from ..artefacts.beside import MODEL_FILES, owner
from ..runtimes.answer import Contract
from ..runtimes.base import Runtime, enlarged, export_size
from ..runtimes.options import CPU, RuntimeOptions, is_torch

if TYPE_CHECKING:
    from torch import Tensor

    from ...distill.evaluation.evaluate import Predict
    from ...distill.evaluation.tiles import Tiling

_CUTS = "--fit tile of kdc eval, predict and export onnx cuts larger ones into tiles"


@dataclass(frozen=True)
class Windows:
    """How images that a network is not made for are taken, as the flags say; without, as its file declares."""

    #: "off", "auto" (the network's own size) or HxW
    tile: str = "off"
    overlap: float = 1 / 3
    blend: str = "smooth"
    #: instead of what the file declares; tiles are "tile"
    fit: Policy | None = None

    def __post_init__(self) -> None:
        if self.tile not in ("off", "auto"):
            parse_size(self.tile)
        if self.fit is not None and self.fit not in POLICIES:
            raise UsageError(f"--fit {self.fit} is not known; accepted: {', '.join(POLICIES)}")

    @staticmethod
    def from_flags(tile: str, overlap: float | None, blend: str | None, fit: str | None = None) -> "Windows":
        """Read flags.

        Raises:
            UsageError: an overlap or blend without tiles, or tiles and another fit.
        """
        if fit == "tile" and tile == "off":
            tile = "auto"
        for flag, value in (("--overlap", overlap), ("--blend", blend)):
            if value is not None and tile == "off":
                raise UsageError(f"{flag} is about tiles; ask for them too: --tile auto or --tile HxW")
        if fit not in (None, "tile") and tile != "off":
            raise UsageError(f"--tile {tile} is --fit tile; leave out --fit {fit}, or --tile")
        overlap = Windows.overlap if overlap is None else overlap
        return Windows(tile, overlap, blend or Windows.blend, cast("Policy | None", fit))

    def over(self, own: Fit) -> Fit:
        """Return the fit of a network whose file declares ``own``."""
        tiling = self.tiling(own.size)
        return Fit(own.size, "tile" if tiling else self.fit or own.policy, tiling)

    @property
    def size(self) -> tuple[int, int] | None:
        """The window, where it was named."""
        return None if self.tile in ("off", "auto") else parse_size(self.tile)

    def tiling(self, own: tuple[int, int] | None) -> "Tiling | None":
        """Return the tiling of a network whose own size is ``own``.

        Raises:
            UsageError: "auto", and the network does not say its size; an overlap or blend that is not accepted.
        """
        if self.tile == "off":
            return None
        from ...distill.evaluation.tiles import Tiling

        size = self.size or own
        if size is None:
            raise UsageError("--tile auto: the file does not say which image size it is for; name it: --tile HxW")
        return Tiling(size, self.overlap, self.blend)


@dataclass(frozen=True)
class Ran(Record):
    """What ran a network: runtime and device, precision, contract and fit of a file, and the tiling if there is one."""

    OPTIONAL = ("precision", "tiling", "fit", "contract")

    ran_on: str
    precision: str | None = None
    tiling: "Tiling | None" = None
    fit: Policy | None = None
    contract: Contract | None = None


@dataclass
class Segmenter:
    """A network that segments uint8 RGB images ``(H, W, 3)`` of any size, and what is known of it."""

    predict: "Predict"
    ran: Ran
    num_classes: int
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    close: Callable[[], None]
    #: of the 16-bit images that it learned from, if any
    bits: int | None = None


def locate(source: str | Path | Run | None) -> tuple[Path | Run, Run | None]:
    """Find the run or file to open, and the run that it belongs to, if any; None is the last run.

    Raises:
        UsageError: no such run.
        WeightsError: no such file.
    """
    if isinstance(source, Run):
        return source, source
    if source is not None and Path(source).suffix.lower() in MODEL_FILES:
        path = Path(source)
        if not path.is_file():
            raise WeightsError(f"{path} does not exist")
        return path, owner(path)
    run = find_run(source)
    return run, run


def open_segmenter(
    source: Path | Run,
    *,
    options: RuntimeOptions = CPU,
    size: tuple[int, int] | None = None,
    windows: Windows | None = None,
    assisted: bool = False,
) -> Segmenter:
    """Open a run or a file for images of any size.

    A checkpoint takes every image at its own size, as validation in training does. A file of another runtime is made
    for one size, and images of others meet it as it declares, see ``Fit``. Where it is made for one batch too, the
    image fills all of it.

    Args:
        source: from ``locate``.
        options: what runs it, and on which device.
        size: input height and width, for a file that leaves them free.
        windows: take larger images in tiles, or images otherwise than the file declares.
        assisted: accept a label-assisted teacher, which must be shown the label.

    Raises:
        UsageError: a flag that does not fit the file.
        WeightsError: a broken file, or a label-assisted teacher where none is accepted.
        ExportError: the device, provider or runtime is not available.
    """
    windows = windows or Windows()
    options.refuse_unused([source])
    if is_torch(source):
        options.refuse_torch_modes()
        return _of_torch(source, options.device, size, windows, assisted)

    runtime = options.open(source, size or windows.size)
    fit, classes = windows.over(runtime.fit), runtime.spec.classes
    if fit.tiling is not None and fit.tiling.size != runtime.spec.size:
        height, width = runtime.spec.size
        raise UsageError(f"--tile {windows.tile}: {source} is made for {height}x{width}; --tile auto takes that")
    tiling = fit.windows if fit.policy == "tile" else None
    ran = Ran(f"{runtime.name} {runtime.provider}", runtime.precision, tiling, fit.policy, runtime.spec.contract)
    predict, bits = _fitted(runtime, fit), runtime.spec.preprocess.bits
    return Segmenter(predict, ran, len(classes), classes, runtime.spec.palette, runtime.close, bits)


def _of_torch(
    source: Path | Run,
    device: str,
    size: tuple[int, int] | None,
    windows: Windows,
    assisted: bool,
) -> Segmenter:
    from ...distill.evaluation.evaluate import model_predictor
    from ...distill.run.card import DataCard
    from ...distill.run.checkpoint import load_deployable, load_student, read_card, student_file
    from ..runtimes.torch_runtime import need_device

    if size is not None:
        raise UsageError("--size is for ONNX files; a checkpoint takes every image at its own size")
    if windows.fit not in (None, "tile"):
        raise UsageError(f"--fit {windows.fit} is for exported files; a checkpoint takes every image at its own size")
    need_device(device)

    model = (load_student if assisted else load_deployable)(source)
    run = source if isinstance(source, Run) else owner(source)
    path = student_file(source) if isinstance(source, Run) else source
    card = run.card if run else read_card(path)
    data = card.data if card else DataCard()

    own = export_size(data.size, model.output_stride) if data.size else None
    tiling = windows.tiling(own)
    predict = _announcing(model_predictor(model, device, tiling=tiling), tiling)
    palette = tuple((int(r), int(g), int(b)) for r, g, b in data.palette)
    ran = Ran(f"torch {device}", tiling=tiling)
    bits = model.preprocess.bits
    return Segmenter(predict, ran, model.num_classes, tuple(data.classes), palette, lambda: None, bits)


def _announcing(predict: "Predict", tiling: "Tiling | None") -> "Predict":
    """Let the first image that is tiled say how."""
    if tiling is None:
        return predict
    from ...distill.evaluation.evaluate import Privileged

    once = Once()

    def announcing(image: np.ndarray, *label: np.ndarray) -> np.ndarray:
        size = (image.shape[0], image.shape[1])
        if not tiling.covers(size):
            once("tiles", f"tiles: {tiling.describe(size)}")
        return predict(image, *label)

    return Privileged(announcing) if isinstance(predict, Privileged) else announcing


def _fitted(runtime: Runtime, fit: Fit) -> "Predict":
    batch, once, name = runtime.batches[0], Once(), runtime.source.name
    height, width = fit.size
    blended = runtime.spec.head == "logits"

    def filled(image: np.ndarray) -> np.ndarray:
        if batch > 1:
            once("batch", f"{name} is made for {batch} images at once: each is taken {batch} times")
        return np.repeat(image[None], batch, axis=0)

    def whole(view: np.ndarray) -> np.ndarray:
        return runtime.masks(filled(view))[0]

    def score(view: np.ndarray) -> "Tensor":
        import torch

        h, w = view.shape[:2]
        logits = enlarged(runtime.infer(runtime.prepare(filled(view)))[:1], (height, width))
        return torch.from_numpy(logits[0, :, :h, :w])

    def predict(image: np.ndarray) -> np.ndarray:
        size = (image.shape[0], image.shape[1])
        if text := fit.describe(size):
            cure = "" if fit.policy == "tile" else f" ({fit.policy}; {_CUTS})"
            once("fit", f"{name} is made for {height}x{width}: {text}{cure}")
        if fit.tiles(size) and not blended:
            once("joined", f"{name} gives masks, not logits: its tiles are joined half way, not blended")
        return fit.segment(image, whole, score if blended else None)

    return predict


class Once:
    """Says each kind of thing a single time."""

    def __init__(self) -> None:
        self._kinds: set[str] = set()

    def __call__(self, kind: str, text: str) -> None:
        """Say ``text``, unless something of its kind was said before."""
        if kind not in self._kinds:
            self._kinds.add(kind)
            console.note(text)
