"""Where features are active: heat maps of one tap of several networks, side by side, on the report's images."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from ...distill.data import Dataset
from ...distill.errors import UsageError
from ...distill.evaluation.evaluate import ask, model_predictor
from ...distill.methods import hyphen, load
from ...distill.models import SegmentationModel
from ...distill.output import Output
from ...distill.settings.config import MethodSettings
from ..pictures import data_uri
from .strips import Panel, Strip, start_strip

#: part of the map in the picture; the rest is the image in grey
BLEND = 0.75


def activation(output: Output, tap: str) -> np.ndarray:
    """Return the map of one image's feature ``(1, C, h, w)``: the mean over channels of its squares, ``(h, w)``.

    It is spread over [0, 1], every map by itself: 0 is its lowest value, 1 its highest; a constant map is all 0.
    """
    values = output.tap(tap)[0].float().square().mean(0).cpu().numpy()
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def heat(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Lay a map ``(h, w)`` in [0, 1] over a uint8 RGB image ``(H, W, 3)``; return uint8 RGB of the image's size."""
    size = (image.shape[1], image.shape[0])
    smooth = cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    coloured = _coloured(np.rint(255 * smooth).astype(np.uint8))
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(coloured, BLEND, grey, 1 - BLEND, 0)


def legend() -> str:
    """Return the colours from low to high as CSS gradient."""
    stops = _coloured(np.arange(0, 256, 51, dtype=np.uint8)[None])[0]
    return f"linear-gradient(90deg, {', '.join('#{:02x}{:02x}{:02x}'.format(*rgb) for rgb in stops)})"


def default_tap(method: MethodSettings) -> str:
    """Return the feature that the method compares: its option ``at``, or the first that it reads; else ``dec``."""
    settings = method.settings()
    for name in method.name.split("+") if method.name != "none" else ():
        taps = [tap for tap in load(name).taps if tap not in ("logits", "aux")]
        if at := settings.get(hyphen(name), {}).get("at") or next(iter(taps), None):
            return at
    return "dec"


def activations(
    dataset: Dataset,
    indices: Sequence[tuple[int, str]],
    networks: Mapping[str, SegmentationModel],
    names: Mapping[str, str],
    tap: str,
    device: str = "cpu",
) -> list[Strip]:
    """Draw image, truth and every network's map of ``tap`` for a few images.

    Args:
        dataset: a labelled split.
        indices: of each image, and why it was chosen.
        networks: by role; a role without a network, or whose network lacks the tap, gets an empty panel.
        names: the roles to show, in order, and what the page calls them.
        tap: the feature, as in ``Output.tap``.
        device: where the networks run.

    Raises:
        UsageError: none of the networks has the tap.
    """
    if not any(tap in network.taps for network in networks.values()):
        known = sorted({name for network in networks.values() for name in network.taps})
        raise UsageError(
            f"--features {tap}: no network of this run has that tap; there are {', '.join(known)}. A RUN is named "
            "before --features"
        )
    return [_strip(dataset, i, why, networks, names, tap, device) for i, why in indices]


def _strip(
    dataset: Dataset,
    i: int,
    why: str,
    networks: Mapping[str, SegmentationModel],
    names: Mapping[str, str],
    tap: str,
    device: str,
) -> Strip:
    strip, image, truth = start_strip(dataset, i, why)
    for role, name in names.items():
        uri = None
        if role in networks and tap in networks[role].taps:
            values = activation(_output_of(networks[role], image, truth, device), tap)
            uri = data_uri(heat(image, values), photo=True)
        strip.panels.append(Panel(name, uri, f"where the feature {tap} of {name} is active on {strip.key}"))
    return strip


def _output_of(network: SegmentationModel, image: np.ndarray, truth: np.ndarray, device: str) -> Output:
    """Return the whole output of the network for an image, run as in an evaluation."""
    outputs: list[Any] = []
    hook = network.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        ask(model_predictor(network, device), image, truth)
    finally:
        hook.remove()
    return outputs[0]


def _coloured(levels: np.ndarray) -> np.ndarray:
    """Return uint8 levels ``(h, w)``, 0 the lowest, as the colours of Inferno, uint8 RGB ``(h, w, 3)``."""
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
