"""Weights that come from elsewhere: an ImageNet start for a backbone, or everything for a trained network."""

import pickle
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightsError
from ..preprocess import IMAGENET
from ._backbones import DEEP, Backbone
from ._model import NORMALISATION, SegmentationModel
from ._names import find

#: Wrappers that training programs leave before the names.
PREFIXES = ("module.", "model.", "student.", "_orig_mod.", "_forward_module.")
#: Where files that hold more than weights keep the weights.
CONTAINERS = ("state_dict", "model_state_dict", "model", "student", "net", "weights")


@dataclass
class LoadReport:
    """How a file's tensors fit a network's: ``fitted`` of the network's ``total``, and the names that do not."""

    fitted: int
    total: int
    missing: list[str] = field(default_factory=list)  # the network's, absent in the file
    unexpected: list[str] = field(default_factory=list)  # the file's, unknown to the network
    mismatched: list[str] = field(default_factory=list)  # in both, with other shapes: "name (file 3x3, network 4x4)"
    source: str = ""
    note: str = ""

    def line(self) -> str:
        """Return it as one line for people."""
        if not self.total:
            return self.note
        parts = [f"{self.source}: {self.fitted} of {self.total} tensors fitted"]
        for what, entries in (("missing", self.missing), ("of another shape", self.mismatched)):
            if entries:
                parts.append(f"{len(entries)} {what} ({_some(entries)})")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} of the file's unused ({_some(self.unexpected)})")
        return "; ".join([*parts, self.note] if self.note else parts)

    def complete(self, ignore_aux: bool = True) -> bool:
        """Tell whether every tensor of the network was loaded and the file holds no others."""
        odd = [*self.missing, *self.unexpected, *self.mismatched]
        return not [name for name in odd if not (ignore_aux and name.startswith("aux_head."))]


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a ``.safetensors`` file, or a ``.pth`` in torch's format without running anything that is in it.

    Raises:
        WeightsError: no such file, not readable in these formats, no tensors, or numbers that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; accepted is a weights file")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = _unwrap(torch.load(path, map_location="cpu", weights_only=True))
    except (SafetensorError, pickle.UnpicklingError, OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"{path.name} cannot be read as weights ({reason[:160]}); accepted are .safetensors and .pth files that "
            "hold tensors only: save the state dict alone"
        ) from error

    if not tensors:
        raise WeightsError(f"{path.name} holds no tensors; accepted is a state dict, bare or under 'state_dict'")
    bad = [name for name, x in tensors.items() if x.is_floating_point() and not torch.isfinite(x).all()]
    if bad:
        raise WeightsError(f"{path.name} holds NaN or infinite numbers in {_some(bad)}; take another checkpoint")
    return tensors


def load_backbone(model: SegmentationModel, source: str | Path) -> LoadReport:
    """Start the backbone from ImageNet: ``source`` is "imagenet" (timm's, from a cache or the network) or a file.

    Names of timm and torchvision are recognised, with or without wrappers' prefixes. What fits is loaded; a stem of 4
    channels takes the 3 of an image and keeps its fourth. Where no ImageNet weights are available the backbone keeps
    its random weights, and the report says why.

    Raises:
        WeightsError: the file cannot be read, or nothing in it fits.
    """
    name = model.name.split("-")[1]
    kind = find(model.name)[1]
    path, label = Path(source), Path(source).name
    if str(source) == "imagenet":
        file, reason = _imagenet_file(kind.imagenet) if kind.imagenet else (None, _no_weights(name, kind))
        if file is None:
            return LoadReport(0, 0, source="random", note=f"{name} starts from random weights: {reason}")
        path, label = file, f"ImageNet weights {kind.imagenet}"

    tensors = _strip(read_tensors(path), (*PREFIXES, "backbone.", "encoder."))
    tensors = {_timm_name(key): x for key, x in tensors.items()}
    own = model.backbone.state_dict()
    tensors, note = _shared_stem(own, tensors, keep=True)
    report, fitting = _match(own, tensors, label)
    if not report.fitted:
        raise WeightsError(
            f"{label}: none of its {len(tensors)} tensors fits any of the {report.total} of {name} "
            f"({kind.timm}); it holds {_some(tensors)}, accepted are names of timm or torchvision such as "
            f"{_some(report.missing or report.mismatched)}"
        )

    if _deep_without_weights(kind) and not report.complete():
        note = _joined(note, f"{name}v1b, with the 7x7 stem, takes all of the ordinary ImageNet weights")
    elif replace(model.preprocess, bits=None) != IMAGENET:
        note = _joined(note, "the model's input normalisation is not ImageNet's, which such weights expect")
    report.note = note
    _copy(model.backbone, fitting)
    return report


def load_full(model: SegmentationModel, path: str | Path) -> LoadReport:
    """Load a trained network; input normalisation that the file holds comes along. An aux head may be missing.

    A network of 3 input channels takes a file of 4 without the fourth: a label-assisted student, which its own code
    gives zeros there, computes the same.

    Raises:
        WeightsError: the file cannot be read, has other classes, or is not of exactly this network. The model is
            untouched then.
    """
    label = Path(path).name
    tensors = _strip(read_tensors(path), PREFIXES)
    own = model.state_dict()
    tensors, note = _shared_stem(own, tensors, keep=False)
    report, fitting = _match(own, tensors, label)

    score = "head.scorer.classifier.weight"
    if score in tensors and tensors[score].shape[0] != model.num_classes:
        raise WeightsError(
            f"{label} tells {tensors[score].shape[0]} classes apart, {model.name} is to tell {model.num_classes}; "
            "give the weights of a network trained on these classes"
        )
    if not report.complete():
        raise WeightsError(
            f"{report.line()}; {model.name} needs all of its own and nothing else: give the architecture the file was "
            "trained with (for an ImageNet start, train with it; a teacher needs trained weights)"
        )

    if "mean" not in fitting:
        note = _joined(note, "no input normalisation in the file: the model's own is used")
    report.note = note
    _copy(model, fitting)
    return report


def _copy(module: torch.nn.Module, tensors: dict[str, Tensor]) -> None:
    # load_state_dict casts (fp16 to fp32) and runs the hook that adopts the normalisation
    module.load_state_dict(tensors, strict=False)


def _match(
    own: Mapping[str, Tensor], others: Mapping[str, Tensor], source: str
) -> tuple[LoadReport, dict[str, Tensor]]:
    """Compare by name and shape; the normalisation and batch norm's counters fit or not without being counted."""
    fitting = {key: x for key, x in others.items() if key in own and own[key].shape == x.shape}
    mine, its = ([key for key in names if _counts(key)] for names in (own, others))
    report = LoadReport(
        fitted=sum(key in fitting for key in mine),
        total=len(mine),
        missing=[key for key in mine if key not in others],
        unexpected=[key for key in its if key not in own],
        mismatched=[
            f"{key} (file {_shape(others[key])}, network {_shape(own[key])})"
            for key in mine
            if key in others and key not in fitting
        ],
        source=source,
    )
    return report, fitting


def _shared_stem(own: Mapping[str, Tensor], others: dict[str, Tensor], keep: bool) -> tuple[dict[str, Tensor], str]:
    """Fit a file's stem of 3 input channels to a network's of 4, or of 4 to 3, and describe it in a note.

    With ``keep`` a network of 4 channels takes a file of 3 and keeps its own fourth.
    """
    name, mine = next((name, x) for name, x in own.items() if x.ndim == 4 and name not in NORMALISATION)
    its = others.get(name)
    if its is None or its.ndim != 4 or (its.shape[0], its.shape[2:]) != (mine.shape[0], mine.shape[2:]):
        return others, ""
    channels = (its.shape[1], mine.shape[1])
    if channels == (4, 3):
        return {**others, name: its[:, :3]}, "of the stem's 4 input channels the first 3 were taken"
    if channels == (3, 4) and keep:
        both = torch.cat([its.to(mine), mine[:, 3:]], 1)
        return {**others, name: both}, "the stem's fourth input channel keeps its random weights"
    return others, ""


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _counts(name: str) -> bool:
    return name not in NORMALISATION and not name.endswith("num_batches_tracked")


def _unwrap(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    for key in CONTAINERS:
        if isinstance(content.get(key), Mapping):
            return _unwrap(content[key])
    return {key: x for key, x in content.items() if isinstance(key, str) and isinstance(x, Tensor)}


def _strip(tensors: dict[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Remove any number of prefixes from the front of every name."""
    pattern = re.compile(f"^({'|'.join(map(re.escape, prefixes))})+")
    return {pattern.sub("", key): x for key, x in tensors.items()}


# torchvision counts MobileNetV2's blocks through; timm groups them by stage
_BLOCKS = [f"blocks.{stage}.{i}" for stage, count in enumerate((1, 2, 3, 4, 3, 3, 1)) for i in range(count)]
_FIRST = {"conv.0.0": "conv_dw", "conv.0.1": "bn1", "conv.1": "conv_pw", "conv.2": "bn2"}
_OTHER = {"conv.0.0": "conv_pw", "conv.0.1": "bn1", "conv.1.0": "conv_dw", "conv.1.1": "bn2"}
_OTHER |= {"conv.2": "conv_pwl", "conv.3": "bn3"}
_ENDS = {0: {"0": "conv_stem", "1": "bn1"}, 18: {"0": "conv_head", "1": "bn2"}}


def _timm_name(name: str) -> str:
    """Turn torchvision's names for MobileNetV2 into timm's; its ResNets are called alike, so other names stay."""
    match = re.fullmatch(r"features\.(\d+)\.(.+)\.(\w+)", name)
    if not match:
        return name
    index, place, leaf = int(match[1]), match[2], match[3]
    if index in _ENDS:
        module = _ENDS[index].get(place)
    else:
        part = (_FIRST if index == 1 else _OTHER).get(place)
        module = f"{_BLOCKS[index - 1]}.{part}" if part and index <= len(_BLOCKS) else None
    return f"{module}.{leaf}" if module else name


def _deep_without_weights(kind: Backbone) -> bool:
    return kind.stem is DEEP and kind.imagenet is None


def _no_weights(name: str, kind: Backbone) -> str:
    if _deep_without_weights(kind):
        return (
            f"no ImageNet weights exist for the papers' deep stem below r50; {name}v1b (7x7 stem) takes ordinary ones"
        )
    return "timm has no ImageNet weights for it"


def _imagenet_file(tag: str) -> tuple[Path | None, str]:
    """Find timm's weights in a cache of huggingface_hub or torch, else fetch them: the file, or None and why not."""
    import huggingface_hub
    import timm
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    # OSError, and whatever the hub's own network library (requests or httpx) raises
    failures: Any = (OSError, *HfHubHTTPError.__bases__)
    config: Any = timm.get_pretrained_cfg(tag)
    cached = huggingface_hub.try_to_load_from_cache(config.hf_hub_id, "model.safetensors")
    if isinstance(cached, str):
        return Path(cached), ""
    older = Path(torch.hub.get_dir(), "checkpoints", Path(config.url).name)
    if older.is_file():
        return older, ""

    why = f"{tag} is in no cache and "
    if constants.HF_HUB_OFFLINE:
        return None, f"{why}HF_HUB_OFFLINE is set"
    host = urllib.parse.urlparse(constants.ENDPOINT).hostname or ""
    try:
        if not urllib.request.getproxies():  # tried first: the hub retries a dead network for a minute
            socket.create_connection((host, 443), timeout=5).close()
        return Path(huggingface_hub.hf_hub_download(config.hf_hub_id, "model.safetensors")), ""
    except failures as error:
        return None, f"{why}{host} cannot be reached ({type(error).__name__})"


def _shape(x: Tensor) -> str:
    return "x".join(map(str, x.shape)) or "scalar"


def _some(names: Iterable[str], limit: int = 3) -> str:
    """Return the first names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more
